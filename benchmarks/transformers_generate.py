"""`generate` of a LLaVA-shaped model: VAR attached beside sdpa, eager, and eager with a VAR hook.

python benchmarks/transformers_generate.py                    times, peak memory, threads, crossing
python benchmarks/transformers_generate.py --json FILE        and all of it in a file
python benchmarks/transformers_generate.py --layers 2 --quick does it run, in seconds

The layers are those of LLaVA-1.5-7B, random, as many as --layers says; the vision tower is small.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from workers import in_turn

IMAGE = 90  # the image token
STEPS = 32
PATCHES = 576
VAR_OPTIONS = {"sink_dims": (3, 7), "tau": 0.05, "rho": 0.5}  # about two sinks in the image
CANDIDATES = ("VAR attached", "reattend attached", "sdpa", "eager", "eager with a VAR hook")


def build(layers: int, quick: bool) -> Any:
    """Make a random LLaVA whose language model has the layers of the 7B one."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 512} if quick else {}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, **size}
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            image_size=336, patch_size=14,
        ),
        text_config=hf.LlamaConfig(
            vocab_size=1000, num_hidden_layers=layers, max_position_embeddings=8192,
            eos_token_id=None, pad_token_id=0, **text,
        ),
        image_token_index=IMAGE,
    )  # fmt: skip
    model = hf.LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompt(length: int) -> dict[str, Any]:
    """Give a prompt of some length with one image after its first words."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 1000, (1, length), generator=generator)
    ids[:, 35 : 35 + PATCHES] = IMAGE
    pixels = torch.randn(1, 3, 336, 336, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@contextmanager
def candidate(model: Any, name: str, ids: Any) -> Any:
    """Let a candidate be the attention of the language model."""
    import reattend
    from reattend.adaptors.transformers import attached

    if name.endswith("attached"):
        methods = [reattend.VAR(**VAR_OPTIONS)] if "VAR" in name else []
        model.set_attn_implementation({"text_config": "sdpa"})
        with attached(model, methods):
            yield
        return
    hook = _hooked(model, ids) if "hook" in name else nullcontext()
    with hook:
        model.set_attn_implementation({"text_config": "eager_var" if "hook" in name else name})
        yield
    model.set_attn_implementation({"text_config": "sdpa"})


@contextmanager
def _hooked(model: Any, ids: Any) -> Any:
    """Eager attention that changes the matrix as VAR does: what one writes without reattend."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    image, sinks = ids[0] == IMAGE, {}
    end, size = int(image.nonzero()[-1]) + 1, model.config.text_config.hidden_size
    last = model.config.text_config.num_hidden_layers - 1
    dims, tau, rho = list(VAR_OPTIONS["sink_dims"]), VAR_OPTIONS["tau"], VAR_OPTIONS["rho"]

    def attention(module, query, key, value, attention_mask, scaling, **_):  # type: ignore[no-untyped-def]
        groups = module.num_key_value_groups
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = scores.softmax(-1, dtype=torch.float32)
        sink = sinks.get(module.layer_idx)
        if sink is not None and 2 <= module.layer_idx < last and (sink & image).any():
            keys = key.shape[2] - len(sink)
            sink = torch.nn.functional.pad(sink, (0, keys))
            visual = torch.nn.functional.pad(image, (0, keys))
            others = visual & ~sink
            mass, left = weights[..., visual].sum(-1), weights[..., others].sum(-1)
            chosen = (mass >= 0.2) & (left >= rho * mass)
            rows = torch.arange(key.shape[2] - query.shape[2], key.shape[2])
            chosen &= rows >= end
            freed = 0.4 * weights[..., sink].sum(-1)
            factor = torch.where(chosen, 1 + freed / left, 1.0)[..., None]
            weights[..., others] *= factor
            weights[..., sink] *= torch.where(chosen, 0.6, 1.0)[..., None]
        return (weights @ value).transpose(1, 2).contiguous(), None

    def find(layer: int) -> Any:
        def hook(module, args, kwargs):  # type: ignore[no-untyped-def]
            x = args[0] if args else kwargs["hidden_states"]
            if x.shape[1] > 1:
                phi = (x[0] / (x[0].pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())[:, dims]
                sinks[layer] = phi.abs().amax(-1) > tau * size**0.5

        return hook

    AttentionInterface.register("eager_var", attention)
    AttentionMaskInterface.register("eager_var", eager_mask)
    layers = enumerate(model.get_decoder().layers)
    hooks = [x.register_forward_pre_hook(find(i), with_kwargs=True) for i, x in layers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def timed(model: Any, length: int, repeat: int) -> dict[str, dict[str, Any]]:
    """Time the candidates in turns: first token, and each of the following ones."""
    inputs = prompt(length)
    rows: dict[str, dict[str, Any]] = {name: {"first": [], "step": []} for name in CANDIDATES}
    for round_ in range(repeat + 1):  # the first round warms up
        for name in in_turn(CANDIDATES, round_):
            with candidate(model, name, inputs["input_ids"]):
                times = []
                for steps in (1, 1 + STEPS) if round_ else (1, 2):
                    begin = time.perf_counter()
                    out = model.generate(**inputs, max_new_tokens=steps, do_sample=False)
                    times.append(time.perf_counter() - begin)
            if round_:
                rows[name]["first"].append(round(times[0], 4))
                rows[name]["step"].append(round((times[1] - times[0]) / STEPS, 5))
                rows[name]["tokens"] = out[0, length:].tolist()
    return rows


def peak(layers: int, quick: bool, name: str, length: int) -> int:
    """Measure the peak memory of reading a prompt, beyond the model, in this process."""
    from memory import _status

    model, inputs, short = build(layers, quick), prompt(length), prompt(PATCHES + 40)
    with candidate(model, name, short["input_ids"]):  # what is made once only
        model.generate(**short, max_new_tokens=1, do_sample=False)
    with candidate(model, name, inputs["input_ids"]):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again here
        before = _status()["VmRSS"]
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        return _status()["VmHWM"] - before


def alternated(threads: int) -> dict[str, float]:
    """Time a torch matmul and our attention alone and in turns, in ms: two pools would fight."""
    import torch
    from reattend.adaptors.transformers.tensors import numbers, output_like
    from reattend.attention import attention

    a = torch.randn(512, 1024)
    query, key = torch.randn(1, 8, 256, 128), torch.randn(1, 8, 512, 128)
    room = output_like(query, key, exact=True)[1]

    def matmul() -> None:
        a @ a.T

    def ours() -> None:
        attention(*numbers(query, key, key)[0], out=room, num_threads=threads)

    def both() -> None:
        matmul()
        ours()

    one = torch.randn(1, 32, 1, 128)
    half = one.bfloat16()

    def crossing() -> None:
        numbers(one, one, one)
        output_like(one, one, exact=True)

    def crossing_bfloat16() -> None:
        numbers(half, half, half)
        output_like(half, half, exact=False)

    found = {}
    for each in (matmul, ours, both, crossing, crossing_bfloat16):
        times = []
        for _ in range(200):
            begin = time.perf_counter()
            each()
            times.append(1000 * (time.perf_counter() - begin))
        found[each.__name__] = round(statistics.median(times), 4)
    return found


def main() -> int:
    """Run all, print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=700)
    parser.add_argument("--long", type=int, default=4096, help="prompt for peak memory")
    parser.add_argument("--quick", action="store_true", help="small layers")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.peak:
        print(peak(4, options.quick, options.peak, options.long))
        return 0
    import machine
    import torch

    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {**machine.described(options.threads), "layers": options.layers}
    results["threads alone and in turns, ms"] = alternated(options.threads)
    print(results["threads alone and in turns, ms"])
    results["times"] = timed(build(options.layers, options.quick), options.prompt, options.repeat)
    base = results["times"]["sdpa"]
    whole = min(base["first"]) + STEPS * min(base["step"])
    print("| attention | first token, s | step, ms | generate against sdpa |")
    print("| --- | --- | --- | --- |")
    for name, row in results["times"].items():
        first, step = min(row["first"]), min(row["step"])
        share = (first + STEPS * step) / whole
        print(f"| {name} | {first:.3f} | {1000 * step:.1f} | {share:.2f} |")
    if not options.no_memory:
        results["peak bytes"] = {name: _peak_of(name, options) for name in CANDIDATES}
        for name, size in results["peak bytes"].items():
            print(f"peak memory of a {options.long} token prompt: {name} {size / 2**20:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _peak_of(name: str, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--peak", name, "--long", str(options.long)]
    command += ["--threads", str(options.threads)] + ["--quick"] * options.quick
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    sys.exit(main())
