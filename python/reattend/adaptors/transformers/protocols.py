"""What the adaptor uses of torch and transformers, as types; neither is imported for them.

Each class names the members that are used of another package's, and no others: a tensor, a module,
a config, a cache. ``Any`` stands where that package itself promises no type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict, runtime_checkable

from reattend.policy import Array

Number: TypeAlias = float  # which is a method's name in Tensor


@runtime_checkable
class Tensor(Protocol):
    """`torch.Tensor`."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> object: ...
    @property
    def device(self) -> object: ...
    @property
    def is_cpu(self) -> bool: ...
    @property
    def requires_grad(self) -> bool: ...

    def is_floating_point(self) -> bool: ...
    def element_size(self) -> int: ...
    def detach(self) -> Tensor: ...
    def cpu(self) -> Tensor: ...
    def float(self) -> Tensor: ...
    def long(self) -> Tensor: ...
    def numpy(self) -> Array: ...
    def to(self, dtype: Any, /) -> Tensor: ...  # a torch.dtype
    def view(self, dtype: Any, /) -> Tensor: ...  # a torch.dtype
    def transpose(self, dim0: int, dim1: int, /) -> Tensor: ...
    def masked_fill(self, mask: Any, value: Number, /) -> Tensor: ...  # a torch.Tensor
    def tril(self, diagonal: int = 0) -> Tensor: ...

    def abs(self) -> Tensor: ...
    def all(self) -> Tensor: ...
    def any(self) -> Tensor: ...
    def max(self) -> Tensor: ...
    def min(self) -> Tensor: ...
    def norm(self, *, dim: int) -> Tensor: ...

    def __float__(self) -> Number: ...
    def __int__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Tensor: ...  # what NumPy takes; torch names no type
    def __gt__(self, other: Any, /) -> Tensor: ...  # as torch has it
    def __lt__(self, other: Any, /) -> Tensor: ...  # as torch has it
    def __ge__(self, other: Any, /) -> Tensor: ...  # as torch has it
    def __le__(self, other: Any, /) -> Tensor: ...  # as torch has it
    def __and__(self, other: Any, /) -> Tensor: ...  # as torch has it
    def __invert__(self) -> Tensor: ...


Hook: TypeAlias = Callable[..., Any]  # torch tells its arguments by register_..._hook's options


class Handle(Protocol):
    """`torch.utils.hooks.RemovableHandle`."""

    def remove(self) -> None: ...


@runtime_checkable
class Module(Protocol):
    """`torch.nn.Module`."""

    training: bool
    forward: Callable[..., Any]  # each module has its own

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...  # each module has its own
    def get_submodule(self, target: str) -> Module: ...
    def named_modules(self) -> Iterator[tuple[str, Module]]: ...
    def named_parameters(self, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]: ...
    def parameters(self) -> Iterator[Tensor]: ...
    def register_forward_pre_hook(self, hook: Hook, *, with_kwargs: bool) -> Handle: ...
    def register_forward_hook(self, hook: Hook, *, always_call: bool) -> Handle: ...


@runtime_checkable
class Config(Protocol):
    """`transformers.PreTrainedConfig`; what only some configs hold is asked for by getattr."""

    num_attention_heads: int
    sub_configs: Mapping[str, object]
    _attn_implementation: str

    def get_text_config(self, *, decoder: bool) -> Config: ...


@runtime_checkable
class AttentionModule(Module, Protocol):
    """A module of a model that asks transformers' AttentionInterface for its attention."""

    config: Config
    layer_idx: int


@runtime_checkable
class Decoder(Module, Protocol):
    """A language model's stack of layers."""

    config: Config


@runtime_checkable
class Model(Module, Protocol):
    """`transformers.PreTrainedModel`."""

    config: Config

    @property
    def base_model(self) -> Decoder: ...
    def get_decoder(self) -> Decoder: ...
    def set_attn_implementation(self, attn_implementation: str | Implementations) -> None: ...


class Generating(Model, Protocol):
    """A model that has transformers' GenerationMixin."""

    generate: Callable[..., Any]  # ids, or a dictionary, as its options say


@runtime_checkable
class Cache(Protocol):
    """`transformers.Cache`."""

    def get_seq_length(self) -> int: ...


class AttentionOptions(TypedDict, total=False):
    """What a model passes to its attention by keyword, of what reattend reads."""

    scaling: float | None
    softcap: float | None
    s_aux: Tensor | None  # [H], a learned sink
    sinks: Tensor | None  # [B, H, N, 1], one of each row
    sliding_window: int | None
    is_causal: bool | None
    indices: Tensor | None  # [B, N, k], the keys that an indexer has chosen
    position_bias: Tensor | None  # [1 or B, H, N, M], added to the scores
    dropout: float
    output_attentions: bool | None


class ForwardArguments(TypedDict, total=False):
    """What a model, a decoder or a layer is called with by keyword, of what reattend reads."""

    input_ids: Tensor | None
    inputs: Tensor | None  # what generate() calls input_ids
    inputs_embeds: Tensor | None
    hidden_states: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None
    cache: Cache | None
    past_key_values: Cache | None
    deepstack_features: object
    cross_attention_states: Tensor | None  # [B or B tiles, M, C], that keys are made of
    output_attentions: bool | None
    logits_to_keep: object  # a number, or a tensor of places
    generation_config: object
    assistant_model: object
    prompt_lookup_num_tokens: int | None
    use_cache: bool | None


Implementations: TypeAlias = "dict[str, str | Implementations]"  # a config's part -> its own
OwnAttention: TypeAlias = Callable[..., tuple[Tensor, object]]  # module, query, key, value, mask
