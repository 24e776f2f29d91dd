"""The models that the transformers adaptor is tested with: tiny, random, built from configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import transformers as hf

IMAGE = 90  # the image token
VOCAB = 96
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}


@dataclass(frozen=True)
class Model:
    """A model, and prompts for it."""

    name: str
    make: Callable[[], Any]
    image: tuple[int, ...] = ()  # the tokens that one image becomes
    images: tuple[int, ...] = (1, 1)  # of each item
    pixels: Callable[[Model, list[int]], dict[str, Any]] | None = None
    plain: str = "sdpa"  # what it is compared with
    newlines: tuple[int, ...] = ()  # the tokens of an image that end a row of it

    def __str__(self) -> str:
        return self.name

    def load(self) -> Any:
        return _loaded(self)

    def prompts(self) -> list[list[int]]:
        """Two prompts of unequal length; images stand behind the first words."""
        words = [[1, 5, 9, 7, 11], [1, 6, 4]]
        questions = [[8, 3, 14, 21, 33, 12, 40, 28, 16, 41, 35], [17, 22, 2, 19, 13, 44, 24, 37]]
        return [
            first + [*self.image, 30, 31] * (count if self.image else 0) + rest
            for first, count, rest in zip(words, self.images, questions, strict=True)
        ]

    def shown(self, ids: Any) -> Any:
        """Give the tokens [B, P] that show something of an image."""
        found = ids == IMAGE
        for row in found:
            for start in torch.nonzero(row)[:: max(1, len(self.image))].flatten().tolist():
                for newline in self.newlines:
                    row[start + newline] = False
        return found

    def inputs(self, items: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
        """Give the arguments of generate() for some of the prompts, padded left."""
        prompts = [self.prompts()[item] for item in items]
        length = max(map(len, prompts))
        ids = torch.zeros(len(prompts), length, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[length - len(prompt) :] = torch.tensor(prompt)
        found = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        chosen = [
            i
            for item in items
            for i in range(sum(self.images[:item]), sum(self.images[: item + 1]))
        ]
        if self.pixels is not None and chosen:
            found |= self.pixels(self, chosen)
            if "mm_token_type_ids" in found:
                found["mm_token_type_ids"] = (ids == IMAGE).long()
            if "token_type_ids" in found:
                found["token_type_ids"] = (ids == IMAGE).long()
        return found


@lru_cache(maxsize=4)
def _loaded(case: Model) -> Any:
    torch.manual_seed(len(case.name))
    model = case.make().eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def _images(count: list[int], *shape: int) -> torch.Tensor:
    """Give images; the one of a number is always the same."""
    made = [torch.randn(*shape, generator=torch.Generator().manual_seed(i)) for i in count]
    return torch.stack(made)


def _text(kind: str, config_kind: str | None = None, **changes: Any) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(hf, f"{config_kind or kind}Config")(**{**TEXT, **changes})
        return getattr(hf, f"{kind}ForCausalLM")(config)

    return make


def _composite(kind: str, text: Any, vision: Any, **changes: Any) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(hf, f"{kind}Config")(
            vision_config=vision(), text_config=text(), image_token_id=IMAGE, **changes
        )
        return getattr(hf, f"{kind}ForConditionalGeneration")(config)

    return make


def _config(kind: str, base: dict[str, Any], **changes: Any) -> Callable[[], Any]:
    return lambda: getattr(hf, f"{kind}Config")(**{**base, **changes})


def _square(model: Model, images: list[int]) -> dict[str, Any]:
    return {"pixel_values": _images(images, 3, 28, 28)}


def _two_tiles(model: Model, images: list[int]) -> dict[str, Any]:
    """An image of 28 x 56 as two tiles and an overview."""
    sizes = torch.tensor([[28, 56]] * len(images))
    return {"pixel_values": _images(images, 3, 3, 28, 28), "image_sizes": sizes}


def _split(model: Model, images: list[int]) -> dict[str, Any]:
    """An image in two parts, each with tokens of its own."""
    return {"pixel_values": _images(images, 2, 3, 28, 28)}


def _patches(model: Model, images: list[int]) -> dict[str, Any]:
    """Patches of 4 x 4, of which four become one token."""
    grid = torch.tensor([[1, 6, 4]] * len(images))
    pixels = _images(images, 24, 3 * 2 * 4 * 4).flatten(0, 1)
    return {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": None}


def _with_types(model: Model, images: list[int]) -> dict[str, Any]:
    return {**_square(model, images), "token_type_ids": None}


def _with_question(model: Model, images: list[int]) -> dict[str, Any]:
    """The Q-Former reads the question as well."""
    ids = torch.tensor([[3, 4, 5]] * len(images))
    return {**_square(model, images), "qformer_input_ids": ids}


LLAMA = _config("Llama", TEXT)
CLIP, SIGLIP = _config("CLIPVision", VISION), _config("SiglipVision", VISION, vision_use_head=False)
NEWLINES = (24, 33, 42, 51)  # behind an overview of 16, at the ends of four rows of 8
GRID = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
QWEN = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 16}
QWEN_IDS = {"vision_start_token_id": 91, "vision_end_token_id": 92, "video_token_id": 93}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
QWEN_IMAGE = (91, *(IMAGE,) * 6, 92)
SLIDING = ["sliding_attention", "full_attention"]
QFORMER = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "encoder_hidden_size": 16,
}  # fmt: skip

MODELS = [
    Model("Llama", _text("Llama")),
    Model("Mistral", _text("Mistral", sliding_window=8)),
    Model("Qwen2", _text("Qwen2")),
    Model("Qwen3", _text("Qwen3", head_dim=16)),
    Model(
        "Gemma 2",
        _text("Gemma2", head_dim=16, sliding_window=8, attn_logit_softcapping=20.0),
        plain="eager",
    ),
    Model(
        "gpt-oss",
        _text(
            "GptOss", head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
            layer_types=[*SLIDING, *SLIDING, "full_attention"],
            initializer_range=0.1,  # at 0.25 its layers magnify rounding, to 2e-4 at x86-64-v2
        ),
        plain="eager",
    ),
    Model("LLaVA-1.5", _composite("Llava", LLAMA, CLIP), (IMAGE,) * 16, pixels=_square),
    Model(
        "LLaVA-1.5, two images and none", _composite("Llava", LLAMA, CLIP), (IMAGE,) * 16, (2, 0),
        pixels=_square,
    ),
    Model(
        "Qwen2-VL",
        _composite(
            "Qwen2VL", _config("Qwen2VLText", TEXT, **MROPE),
            _config("Qwen2VLVision", QWEN, embed_dim=16, hidden_size=64), **QWEN_IDS,
        ),
        QWEN_IMAGE, pixels=_patches,
    ),
    Model(
        "Qwen2.5-VL",
        _composite(
            "Qwen2_5_VL", _config("Qwen2_5_VLText", TEXT, **MROPE),
            _config(
                "Qwen2_5_VLVision", QWEN, out_hidden_size=64, intermediate_size=16, window_size=16,
                fullatt_block_indexes=[1],
            ),
            **QWEN_IDS,
        ),
        QWEN_IMAGE, pixels=_patches,
    ),
    Model(
        "Qwen3-VL",
        _composite(
            "Qwen3VL", _config("Qwen3VLText", TEXT, head_dim=16, **MROPE),
            _config(
                "Qwen3VLVision", QWEN, out_hidden_size=64, intermediate_size=16,
                num_position_embeddings=16, deepstack_visual_indexes=[0],
            ),
            **QWEN_IDS,
        ),
        QWEN_IMAGE, pixels=_patches,
    ),
    Model(
        "LLaVA-NeXT", _composite("LlavaNext", LLAMA, CLIP, **GRID), (IMAGE,) * 52,
        pixels=_two_tiles, newlines=NEWLINES,
    ),
    Model(
        "LLaVA-OneVision",
        _composite("LlavaOnevision", _config("Qwen2", TEXT), SIGLIP, **GRID, video_token_id=93),
        (IMAGE,) * 52, pixels=_two_tiles, newlines=NEWLINES,
    ),
    Model(
        "Gemma 3",
        _composite(
            "Gemma3",
            _config(
                "Gemma3Text", TEXT, head_dim=16, query_pre_attn_scalar=16, sliding_window=8,
                layer_types=[*SLIDING, *SLIDING, "full_attention"],
            ),
            SIGLIP, mm_tokens_per_image=4, boi_token_index=91, eoi_token_index=92,
        ),
        (91, *(IMAGE,) * 4, 92), pixels=_with_types,
    ),
    Model(
        "Idefics3", _composite("Idefics3", LLAMA, _config("Idefics3Vision", VISION)),
        (91, *(IMAGE,) * 4, 92, *(IMAGE,) * 4, 91), pixels=_split,
    ),
    Model(
        "SmolVLM", _composite("SmolVLM", LLAMA, _config("SmolVLMVision", VISION)),
        (91, *(IMAGE,) * 4, 92, *(IMAGE,) * 4, 91), pixels=_split,
    ),
    Model(
        "InstructBLIP",
        _composite(
            "InstructBlip", LLAMA, _config("InstructBlipVision", VISION),
            qformer_config=hf.InstructBlipQFormerConfig(**QFORMER), num_query_tokens=6,
        ),
        (IMAGE,) * 6, pixels=_with_question,
    ),
]  # fmt: skip

# How attention is asked for here is not as in the models above.
MLA = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1,
    "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "first_k_dense_replace": 5, "mlp_layer_types": ["dense"] * 5, "initializer_range": 0.1,
}  # fmt: skip
INDEXED = {**MLA, "index_topk": 4, "index_head_dim": 16, "index_n_heads": 2}
SHARED = _text(
    "Gemma4",
    config_kind="Gemma4Text",
    head_dim=16, global_head_dim=16, sliding_window=8, num_kv_shared_layers=2,
    vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8,
    layer_types=["sliding_attention", "full_attention"] * 2 + ["full_attention"],
)  # fmt: skip
LLAMA4 = {
    "intermediate_size_mlp": 48, "head_dim": 16, "attention_chunk_size": 8, "num_local_experts": 2,
    "layer_types": ["chunked_attention", "full_attention"] * 2 + ["chunked_attention"],
}  # fmt: skip
UNUSUAL = [
    Model("Gemma 4, shared keys and values", SHARED),
    Model("DeepSeek V3.2", _text("DeepseekV32", **INDEXED)),
    Model("GLM-MoE-DSA", _text("GlmMoeDsa", **INDEXED)),
    Model("Llama 4, chunked", _text("Llama4", config_kind="Llama4Text", **LLAMA4)),
    Model("DeepSeek V3, latent", _text("DeepseekV3", **MLA)),
]
