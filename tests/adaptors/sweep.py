"""Every text family of transformers, tiny and random: what an attached one gives, and its own.

`nice python tests/adaptors/sweep.py` writes docs/models.md.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from reattend.adaptors.transformers import attached
from reattend.methods import ACT
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- sweep -->\n", "<!-- /sweep -->"
STEPS, TOLERANCE, MOST = 8, 5e-5, 30_000_000

# What a field of a config is set to, by its name; families differ in which they have.
SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "d_model": 64, "n_embd": 64, "word_embed_proj_dim": 64,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "decoder_ffn_dim": 48,
    "num_hidden_layers": 5, "n_layer": 5, "n_layers": 5, "num_layers": 5, "decoder_layers": 5,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16, "max_position_embeddings": 256,
    "n_positions": 256, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    "sliding_window": 8, "attention_window_size": 8, "initializer_range": 0.1,
    # latent attention and indexers
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "index_topk": 4, "index_head_dim": 16, "index_n_heads": 2,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_topk": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "moe_num_experts": 4, "moe_k": 2, "top_k_experts": 2, "n_shared_experts": 1,
    "expert_ffn_hidden_size": 16, "ffn_hidden_size": 48, "zero_expert_num": 1,
    "moe_latent_size": 16,
    # layers without softmax attention
    "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128,
    "mamba_n_groups": 1, "mamba_chunk_size": 8, "mamba_dt_rank": 8, "mamba_num_heads": 8,
    "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8, "lru_width": 64,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "block_auto_adjust_ff_dim": False, "conv_dim": 64,
    # per-layer inputs
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96, "laurel_rank": 8,
    "num_kv_shared_layers": 2,
}  # fmt: skip
HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2 + ["full_attention"]}
LATENT = {"num_key_value_heads": 4, "head_dim": 8, "mlp_layer_types": ["dense"] * 5}
# What these rules do not find.
SPECIAL: dict[str, dict[str, Any]] = {
    "qwen3_next": HYBRID,
    "qwen3_5_text": HYBRID,
    "codegen": {"rotary_dim": 16},
    "gptj": {"rotary_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2], [["global"], 1]]},
    "bailing_hybrid": {"layer_group_size": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2 + ["full_attention"]},
    "mamba2": {"head_dim": 16, "num_heads": 8},
    "dots3_note_text": LATENT,
    "zaya": {"num_experts_per_tok": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2 + ["full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention", "mamba", "attention", "attention"],
        "mamba_n_heads": 8,
    },
    "nemotron_h": {"hybrid_override_pattern": "M*M*-", "num_hidden_layers": 5},
    "recurrent_gemma": {"block_types": ("recurrent", "attention")},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
        "activation_sparsity_pattern": [0.0] * 5,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
    },
}  # fmt: skip


class Row(NamedTuple):
    """What came out for a family."""

    family: str
    result: str  # exact, refused, wrong, cannot be built tiny
    why: str = ""
    methods: str = ""


def config_of(family: str) -> Any:
    """Build a family's config, tiny."""
    kind = hf.CONFIG_MAPPING[family]
    names = set(inspect.signature(kind.__init__).parameters)
    names |= {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}
    names |= set(getattr(kind, "attribute_map", {}))
    sizes = {name: value for name, value in SIZES.items() if name in names}
    for name, target in getattr(kind, "attribute_map", {}).items():
        if name in sizes and target in sizes:
            del sizes[name]
    if {"kv_lora_rank", "qk_rope_head_dim"} <= names:
        sizes |= LATENT
    sizes |= SPECIAL.get(family, {})
    sizes = {
        name: value
        for name, value in sizes.items()
        if name in names or name in SPECIAL.get(family, {})
    }
    return kind(**sizes)


def model_of(family: str) -> Any:
    """Build a family's model."""
    kind = getattr(hf, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
    config = config_of(family)
    with torch.device("meta"):
        size = sum(x.numel() for x in kind(config).parameters())
    if size > MOST:
        raise ValueError(f"it has {size:,} parameters by these rules")
    torch.manual_seed(0)
    model = kind(config_of(family)).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompts() -> dict[str, Any]:
    """Give two prompts, padded left."""
    ids = torch.tensor([
        [1, 5, 9, 7, 11, 8, 3, 14, 21, 33, 12, 40, 28, 16, 41, 35, 30, 31, 22, 61, 73],
        [0, 0, 0, 0, 0, 0, 0, 1, 6, 4, 17, 22, 2, 19, 13, 44, 24, 37, 55, 48, 9],
    ])  # fmt: skip
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def generated(model: Any, **options: Any) -> Any:
    """Generate greedily."""
    return model.generate(
        **prompts(), max_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


def difference(before: Any, now: Any) -> float:
    """Give the largest difference of logits, relative to the largest logit; inf: other tokens."""
    if not torch.equal(before.sequences, now.sequences):
        return float("inf")
    pairs = zip(before.logits, now.logits, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def swept(family: str) -> Row:
    """Compare a family attached, without a method, with itself; and see whether methods attach."""
    try:
        model = model_of(family)
        plain = generated(model)
    except Exception as error:
        return Row(family, "cannot be built tiny", _short(error))
    try:
        with attached(model):
            off = difference(plain, generated(model))
            beams = {"num_beams": 2, "num_return_sequences": 1}
            ours = generated(model, **beams)
        off = max(off, difference(generated(model, **beams), ours))
    except NotImplementedError as error:
        return Row(family, "refused", _short(error))
    except Exception as error:
        return Row(family, "wrong", f"{type(error).__name__}: {_short(error)}")
    if not off <= TOLERANCE:
        return Row(family, "wrong", f"logits differ by {off:.0e}")
    try:
        with attached(model, ACT(theta=0.05, beta=0.4)) as session:
            generated(model)
        methods = f"{len(session.structure.attention)} of {session.structure.num_layers} layers"
    except NotImplementedError as error:
        methods = _short(error)
    except Exception as error:
        return Row(family, "wrong", f"ACT: {type(error).__name__}: {_short(error)}")
    return Row(family, "exact", f"logits within {off:.0e}", methods)


def _short(error: Exception) -> str:
    words = " ".join(str(error).replace("|", "/").split())
    return words if len(words) <= 160 else words[:157] + "..."


def markdown(rows: list[Row]) -> str:
    """Write the table."""
    lines = ["| family | result | | methods attach to |", "| --- | --- | --- | --- |"]
    lines += [f"| {r.family} | {r.result} | {r.why} | {r.methods} |" for r in rows]
    counts = {
        kind: sum(r.result == kind for r in rows) for kind in dict.fromkeys(r.result for r in rows)
    }
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return (
        f"{len(rows)} text families of transformers {hf.__version__}: {said}.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def families() -> list[str]:
    """Give the text families; a composite's language model is a family of its own."""
    kinds = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    named = (name for name in sorted(kinds) if isinstance(kinds[name], str))
    return [name for name in named if not hf.CONFIG_MAPPING[name].sub_configs]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    hf.logging.set_verbosity_error()
    torch.set_num_threads(1)
    found = []
    for name in sys.argv[1:] or families():
        found.append(swept(name))
        print(*found[-1], sep=" | ", flush=True)
    if not sys.argv[1:]:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + markdown(found) + END + rest.partition(END)[2])
