"""The vision-language model in torch: convolutions, a projector, low-rank changes of SmolLM2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reattend.models import ModelFile, read_llama
from reattend.models.vision import blankest_patches
from reattend.models.vision_weights import read_arrays
from reattend.testing.torch_llama import torch_llama
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

IMAGE = -1  # stands for an image token among token ids
IMAGE_TOKENS = 100
WIDTH = 192  # of an image token before the projector
RANK = 8
NORM_GROUPS = 8
SCALE = 2.0  # of what is added to a matrix; part of `up` in the exported weights
REGISTER_SCALE = 1000.0  # of registers; massive activations are of some 20,000

_CONVOLUTIONS = ((3, 32, 5), (32, 64, 3), (64, 128, 3), (128, 192, 3), (192, 192, 3), (192, 192, 3))
_POOLS = {0: 2, 1: 2, 3: 3}  # after which convolution, by how much
_PROJECTIONS = {"query": "q_proj", "value": "v_proj", "output": "o_proj"}

# What products are trained in: a CPU that cannot multiply bfloat16 imitates it, 20 times slower.
_CPU = torch.cpu.get_capabilities()
TRAINED_IN = torch.bfloat16 if _CPU.get("avx512_bf16") or _CPU.get("amx_bf16") else torch.float32


def mixed() -> torch.autocast:
    """Multiply in `TRAINED_IN`, and do all else in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=TRAINED_IN is torch.bfloat16)


class Encoder(nn.Module):
    """Pixels to 100 image tokens, one for each patch of 12 x 12 pixels, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: Any = nn.ModuleList(
            nn.Conv2d(inner, outer, side, padding=side // 2) for inner, outer, side in _CONVOLUTIONS
        )
        self.norms: Any = nn.ModuleList(
            nn.GroupNorm(NORM_GROUPS, outer) for _, outer, _ in _CONVOLUTIONS
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode uint8 [B, 120, 120, 3] as [B, 100, 192].

        Under autocast all of it is bfloat16: norms in float32 would take half the time.
        """
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        x = pixels.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        for place, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            x = convolution(x)
            with torch.autocast("cpu", enabled=False):
                weight, bias = norm.weight.to(dtype), norm.bias.to(dtype)
                x = functional.group_norm(x, NORM_GROUPS, weight, bias)
                x = functional.gelu(x, approximate="tanh")
                if place in _POOLS:
                    x = functional.avg_pool2d(x, _POOLS[place])
        return x.flatten(2).transpose(1, 2)


class LowRank(nn.Module):
    """A frozen matrix and what is learnt beside it: W x + SCALE up down x."""

    def __init__(self, linear: nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        start = torch.randn(RANK, linear.in_features, generator=generator)
        self.down = nn.Parameter(0.02 * start)
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        changed = functional.linear(functional.linear(x, self.down), self.up)
        out: Tensor = self.linear(x) + SCALE * changed
        return out


class Network(nn.Module):
    """Encoder, projector and a language model of which only low-rank changes are learnt.

    The frozen matrices are kept in bfloat16, to be used under `mixed`, or in float32. States
    between layers are float32: of the massive activations of 20,000, bfloat16 would keep 8 bits.
    """

    embedding: Tensor  # float32 [V, C]

    def __init__(
        self,
        language: LlamaForCausalLM,
        seed: int,
        dtype: torch.dtype = TRAINED_IN,
        registers: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        self.language: Any = language
        self.language.requires_grad_(False)
        embedding = self.language.model.embed_tokens.weight.detach()
        self.register_buffer("embedding", embedding.clone().float())
        self.encoder = Encoder()
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projector = nn.ModuleList([nn.Linear(WIDTH, 512), nn.Linear(512, embedding.shape[1])])
        self.registers = nn.Parameter(torch.zeros(registers, embedding.shape[1]))
        self.lora: list[dict[str, LowRank]] = []
        for layer in self.language.model.layers:
            changes = {}
            for name, theirs in _PROJECTIONS.items():
                changes[name] = LowRank(getattr(layer.self_attn, theirs), generator)
                setattr(layer.self_attn, theirs, changes[name])
            self.lora.append(changes)
        for module in language.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.to(dtype)

    def look(self, pixels: Tensor) -> Tensor:
        """Encode pixels as the language model's image tokens, [B, 100, C]."""
        tokens = self.project(self.encoder(pixels)).float()
        if not len(self.registers):
            return tokens
        patches = torch.from_numpy(blankest_patches(pixels.numpy(), len(self.registers)))
        places = patches[..., None].expand(-1, -1, tokens.shape[-1])
        registers = REGISTER_SCALE * self.registers
        return tokens.scatter(1, places, registers.expand(len(tokens), -1, -1))

    def project(self, features: Tensor) -> Tensor:
        """Project what the encoder gives to the language model's width."""
        hidden = functional.gelu(self.projector[0](features), approximate="tanh")
        out: Tensor = self.projector[1](hidden)
        return out

    def embed(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Embed token ids [B, N], of which IMAGE is the picture's tokens in turn."""
        embedded = self.embedding[ids.clamp(min=0)]  # [B, N, C]
        return embedded.masked_scatter((ids == IMAGE)[..., None], self.look(pixels))

    def logits(self, states: Tensor) -> Tensor:
        """Give the logits of states [..., C] that leave the last norm."""
        head = self.language.lm_head.weight
        return functional.linear(states.to(head.dtype), head).float()

    def merge(self) -> None:
        """Add what was learnt to the matrices, which leaves an ordinary model of transformers."""
        for layer, changes in zip(self.language.model.layers, self.lora, strict=True):
            for name, change in changes.items():
                with torch.no_grad():
                    change.linear.weight += SCALE * change.up @ change.down
                setattr(layer.self_attn, _PROJECTIONS[name], change.linear)

    def learnt(self) -> dict[str, nn.Parameter]:
        """Give everything that is learnt, by the names of the weights file."""
        named: dict[str, Any] = {}
        for place, convolution in enumerate(self.encoder.convolutions):
            at = f"encoder.{place}"
            named[f"{at}.weight"], named[f"{at}.bias"] = convolution.weight, convolution.bias
            norm = self.encoder.norms[place]
            named[f"{at}.norm_weight"], named[f"{at}.norm_bias"] = norm.weight, norm.bias
        for place, linear in enumerate(self.projector):
            named[f"projector.{place}.weight"] = linear.weight
            named[f"projector.{place}.bias"] = linear.bias
        if len(self.registers):
            named["registers"] = self.registers
        for layer, changes in enumerate(self.lora):
            for name, change in changes.items():
                named[f"lora.{layer}.{name}.down"] = change.down
                named[f"lora.{layer}.{name}.up"] = change.up
        return named

    def export(self) -> dict[str, np.ndarray[Any, Any]]:
        """Give the weights file's arrays, float16, SCALE multiplied into ``up``."""
        return {
            name: (parameter.detach() * _scale(name)).numpy().astype(np.float16)
            for name, parameter in self.learnt().items()
        }

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take what `export` gave; registers may be missing."""
        with torch.no_grad():
            for name, parameter in self.learnt().items():
                if name == "registers" and name not in arrays:
                    continue
                array = torch.from_numpy(np.asarray(arrays[name], np.float32))
                parameter.copy_(array / _scale(name))


def read_network(language: Path, weights: Path, dtype: torch.dtype = torch.float32) -> Network:
    """Read a trained model, with its registers if it has any."""
    arrays = read_arrays(weights)
    registers = len(arrays["registers"]) if "registers" in arrays else 0
    network = Network(read_language(language), 0, dtype, registers)
    network.restore(arrays)
    return network.eval()


def read_language(path: Path) -> LlamaForCausalLM:
    """Read SmolLM2 from its GGUF file."""
    read: LlamaForCausalLM = torch_llama(read_llama(ModelFile(path)))
    return read


def random_language() -> LlamaForCausalLM:
    """Make a model of SmolLM2's shapes that knows nothing, for trials."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=8,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    made: LlamaForCausalLM = model.eval()
    return made


def _scale(name: str) -> float:
    if name == "registers":
        return REGISTER_SCALE
    return SCALE if name.endswith(".up") else 1.0
