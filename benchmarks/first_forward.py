"""What the checks of an attached model's first forward cost, beside a prefill without them.

python benchmarks/first_forward.py

SmolLM2-135M's layers with random weights, prompts of 200 tokens. A new block checks anew, so each
round attaches twice, with and without `verify`, in turns; minima of the rounds, in CPU time of one
thread, which other programs disturb less than the clock.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

SIZES = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    "pad_token_id": 0,
}  # fmt: skip


def main() -> None:
    """Measure, and print a line for each prompt."""
    import torch
    import transformers as hf
    from reattend.adaptors.transformers import attached
    from reattend.methods import ACT

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)).eval()
    ids = torch.arange(200)[None] % 40000 + 5
    padded = torch.cat([ids, ids])
    padded[1, :50] = 0
    prompts: dict[str, Any] = {
        "one prompt": {"input_ids": ids},
        "two, one of them padded": {"input_ids": padded, "attention_mask": (padded != 0).long()},
    }

    def seconds(inputs: Any, methods: tuple[Any, ...], verify: bool) -> float:
        with attached(model, *methods, verify=verify), torch.no_grad():
            begun = time.process_time()
            model(**inputs, logits_to_keep=1)
            return time.process_time() - begun

    for name, inputs in prompts.items():
        for methods in ((), (ACT(theta=0.02),)):
            least = {True: float("inf"), False: float("inf")}
            for _ in range(options.rounds):
                for verify in least:
                    least[verify] = min(least[verify], seconds(inputs, methods, verify))
            share = least[True] / least[False] - 1
            print(
                f"{name}, {'ACT' if methods else 'no method'}: {least[False] * 1e3:.1f} ms without "
                f"the checks, {least[True] * 1e3:.1f} ms with them: {share:+.1%}"
            )


if __name__ == "__main__":
    main()
