"""A tiny model with random weights for a family of transformers, built from its config class."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers as hf
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

TEXT = {k: v for k, v in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if isinstance(v, str)}
MEDIA = {**MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, **MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
MOST = 50_000_000
IMAGE, START, END = 90, 91, 92  # tokens

# What a field of a config is set to, by its name; families differ in which they have.
SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "d_model": 64, "n_embd": 64, "word_embed_proj_dim": 64,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "decoder_ffn_dim": 48,
    "num_hidden_layers": 5, "n_layer": 5, "n_layers": 5, "num_layers": 5, "decoder_layers": 5,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16, "max_position_embeddings": 256,
    "n_positions": 256, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    "sliding_window": 8, "attention_window_size": 8, "sliding_window_size": 8, "local_attention": 8,
    "attention_chunk_size": 8, "initializer_range": 0.1,
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
    "linear_value_head_dim": 16, "linear_num_heads": 4, "linear_head_dim": 16,
    "block_auto_adjust_ff_dim": False, "conv_dim": 64,
    # per-layer inputs
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96, "laurel_rank": 8,
    "num_kv_shared_layers": 2,
    # tokens that stand for something
    "image_token_id": IMAGE, "image_token_index": IMAGE, "boi_token_id": START,
    "eoi_token_id": END, "boi_token_index": START, "eoi_token_index": END,
    "vision_start_token_id": START, "vision_end_token_id": END, "image_start_token_id": START,
    "image_end_token_id": END, "video_token_id": 93, "video_token_index": 93,
    "audio_token_id": 89, "audio_token_index": 89,
}  # fmt: skip
# The same for a part that is no language model.
PARTS: dict[str, Any] = {
    "num_hidden_layers": 2, "depth": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "hidden_size": 64, "embed_dim": 64, "width": 64, "encoder_ffn_dim": 48, "mlp_ratio": 1.0,
    "encoder_hidden_size": 64, "projection_dim": 64, "out_hidden_size": 64, "text_hidden_size": 64,
    "num_heads": 4, "num_key_value_heads": 4, "encoder_attention_heads": 4, "image_size": 28,
    "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2, "vision_use_head": False,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "fullatt_block_indexes": [1],
    "window_size": 16, "codebook_size": 32, "num_embeddings": 32, "base_channels": 32,
    "projection_hidden_dim": 64, "projection_intermediate_size": 64, "projector_hidden_size": 64,
    "merge_hidden_size": 64,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention"] * 2 + ["full_attention"]
ROPE = {"rope_type": "default", "rope_theta": 1e4}
PINPOINTS = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
AXES = {"rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}}
LANGUAGE = ("text_config", "decoder", "thinker_config")
HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2 + ["full_attention"]}
SHARED = ["mamba", "hybrid", "mamba", "hybrid", "mamba"]
LATENT = {"num_key_value_heads": 4, "head_dim": 8, "mlp_layer_types": ["dense"] * 5}
# What these rules do not find.
SPECIAL: dict[str, dict[str, Any]] = {
    "glm4v_text": AXES, "glm_ocr_text": AXES, "qwen2_5_vl_text": AXES, "qwen2_vl_text": AXES,
    "qwen2_5_omni_text": AXES, "paddleocr_vl_text": AXES, "hunyuan_vl_text": AXES,
    "qwen3_omni_moe_text": {**AXES, "sliding_window": None},
    "glm4v_moe_text": {
        "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
    },
    "llama4_vision_model": {"intermediate_size": 256, "vision_output_dim": 64,
                            "projector_input_dim": 64, "projector_output_dim": 64},
    "mllama_vision_model": {"intermediate_layers_indices": [0], "num_global_layers": 1,
                            "vision_output_dim": 128},
    "florence_vision": {
        "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
        "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 4],
        "num_groups": [2, 4], "window_size": 4, "projection_dim": 64,
    },
    "glm5_next_text": {
        "index_topk": 16, "qk_rope_head_dim": 0, "qk_nope_head_dim": 16, "head_dim": 0,
    },
    "gemma4_unified_text": {"layer_types": MIXED},
    "inkling2_text": {"unpadded_vocab_size": 96},
    "inkling2_loop_text": {"unpadded_vocab_size": 96, "n_layers_per_attn_res_block": 2,
                           "loop_layer_index_start": 2, "loop_layer_index_end": 4},
    "radio": {"video_temporal_patch_size": 2},
    "qwen4_exp_text": {"indexer_budget": 8, "indexer_compress_ratio": 2, "indexer_n_heads": 2,
                       "indexer_kv_heads": 1, "indexer_head_dim": 16},
    "ovis2": {"hidden_size": 64}, "paligemma": {"projection_dim": 64},
    "chameleon_vqgan": {"resolution": 32, "channel_multiplier": [1, 1, 1, 1]},
    "minicpmv4_6": {"insert_layer_id": 0, "image_size": 28, "patch_size": 7},
    "minicpmv4_6_vision": {"insert_layer_id": 0},
    "qwen2_5_omni_thinker": {"vision_start_token_id": START, "vision_end_token_id": END},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": START, "vision_end_token_id": END},
    "chameleon": {"vocabulary_map": {"<image>": IMAGE} | {
        f"IMGIMG{chr(65 + i // 10)}{chr(65 + i % 10)}Z": 40 + i for i in range(32)}},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROPE}, "layer_types": ["full_attention"] * 5,
    },
    "cosmos3_edge_text": AXES,
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense"] * 5},
    "unlimited_ocr_text": {"mlp_layer_types": ["dense"] * 5},
    "emu3": {"vocabulary_map": {"<image>": IMAGE, "<|extra_200|>": 1}},
    "ernie4_5_vl_moe_text": {"rope_parameters": {**ROPE, "mrope_section": [2, 2, 4]},
                             "moe_intermediate_size": [16, 16]},
    "granite4_vision": {"deepstack_layer_map": [[0, 0]], "spatial_target_layers": [1],
                        "downsample_rate": "2/4", **PINPOINTS},
    "hy_v4_vl_text": {**AXES, "qk_rope_head_dim": 16},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "shieldgemma2": {"mm_tokens_per_image": 4}, "gemma3": {"mm_tokens_per_image": 4},
    "llava_next": PINPOINTS, "llava_next_video": PINPOINTS, "llava_onevision": PINPOINTS,
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
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
    "gemma3n": {"vision_soft_tokens_per_image": 4},
    "gemma3n_vision": {
        "hidden_size": 2048,
        "model_args": {"channel_multiplier": 0.1, "msfa_output_resolution": 2},
    },
    "fast_vlm": {"vision_config": {
        "model_type": "timm_wrapper", "architecture": "fastvit_t8", "do_pooling": True,
        "global_pool": "avg", "hidden_size": 128,
        "model_args": {"embed_dims": [8, 16, 32, 64], "layers": [1, 1, 1, 1]},
    }},
    "perception_lm": {"vision_config": {
        "model_type": "timm_wrapper", "architecture": "vit_pe_lang_large_patch14_448",
        "do_pooling": True, "global_pool": "map",
        "model_args": {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": [28, 28],
                       "patch_size": 7, "global_pool": "", "use_post_transformer_norm": False},
    }},
    "gemma3n_text": {
        "layer_types": MIXED,
        "activation_sparsity_pattern": [0.0] * 5,
    },
    "gemma4_text": {"layer_types": MIXED},
    "zamba": {"layers_block_type": SHARED, "num_key_value_heads": 4},
    "zamba2": {"layers_block_type": SHARED, "num_key_value_heads": 4},
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip


def names_of(kind: Any) -> set[str]:
    """Give the names of a config's fields."""
    names = set(inspect.signature(kind.__init__).parameters)
    names |= {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}
    return names | set(getattr(kind, "attribute_map", {}))


def parts_of(kind: Any) -> dict[str, Any]:
    """Give the config classes of a model's parts."""
    default, found = None, {}
    for name, part in kind.sub_configs.items():
        if part is hf.AutoConfig:
            default = kind() if default is None else default
            part = type(getattr(default, name))
        if issubclass(part, hf.PreTrainedConfig):
            found[name] = part
    return found


def config_of(kind: Any, *, language: bool = True) -> Any:
    """Build a config of a class, tiny."""
    names, parts, special = names_of(kind), parts_of(kind), SPECIAL.get(kind.model_type, {})
    sizes = {
        name: value
        for name, value in {**SIZES, **({} if language else PARTS)}.items()
        if name in names and not (name == "head_dim" and parts)
    }
    for name, target in getattr(kind, "attribute_map", {}).items():
        if name in sizes and target in sizes:
            del sizes[name]
    if language and {"kv_lora_rank", "qk_rope_head_dim"} <= names:
        sizes |= {name: value for name, value in LATENT.items() if name in names}
    for name, part in parts.items():
        if name not in special:
            sizes[name] = config_of(part, language=name in LANGUAGE)
    if any(name in LANGUAGE for name in parts):  # a composite: sizes are its parts' matter
        keep = {n for n in names if n.endswith(("_token_id", "_token_index", "vocab_size"))}
        sizes = {n: v for n, v in sizes.items() if n in keep or n in parts}
    return _with_sections(_built(kind, {**sizes, **special}))


def _with_sections(config: Any) -> Any:
    """Let the three axes of a rotary position share a small head."""
    rope = getattr(config, "rope_parameters", None)
    for each in [rope, *(rope.values() if isinstance(rope, dict) else ())]:
        if isinstance(each, dict) and sum(each.get("mrope_section", ())) > 8:
            each["mrope_section"] = [2, 3, 3]
    return config


def _built(kind: Any, sizes: dict[str, Any]) -> Any:
    """Build a config; a size whose type a field does not take stays what it is by default."""
    while True:
        try:
            return kind(**sizes)
        except StrictDataclassFieldValidationError as error:
            name = str(error).split("'")[1]
            if name not in sizes:
                raise
            value = sizes.pop(name)
            if name in ("image_size", "patch_size") and isinstance(value, int):
                sizes[name] = [value, value]


def model_of(family: str) -> Any:
    """Build a family's model."""
    kind = getattr(hf, MEDIA.get(family) or TEXT[family])
    config = hf.CONFIG_MAPPING[family]
    with torch.device("meta"):
        size = sum(x.numel() for x in kind(config_of(config)).parameters())
    if size > MOST:
        raise ValueError(f"it has {size:,} parameters by these rules")
    torch.manual_seed(0)
    model = kind(config_of(config)).eval()
    for name, parameter in model.named_parameters():
        # A projection or a gate that begins as nothing shows no picture.
        gate = name.endswith("gate") or ".alpha_" in name
        if (parameter.ndim > 1 or gate) and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    if family in MENDED:
        model.get_decoder().register_forward_hook(_with_picture_outputs)
    return model


# Whose own forward raises, and what was mended.
MENDED = {
    "llama4": "in transformers 5.24 its forward reads image_outputs of an output that has none; "
    "here a hook gives it None"
}


def _with_picture_outputs(module: Any, args: Any, output: Any) -> None:
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None
