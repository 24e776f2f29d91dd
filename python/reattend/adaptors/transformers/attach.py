"""Hugging Face models: methods inside `model.generate`, with nothing of the model changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, cast

from reattend.adaptors.transformers.interface import switched
from reattend.adaptors.transformers.introspection import Structure, examined
from reattend.adaptors.transformers.model_session import ModelSession
from reattend.adaptors.transformers.protocols import (
    ForwardArguments,
    Generating,
    Handle,
    Model,
    Tensor,
)
from reattend.adaptors.transformers.tensors import bools
from reattend.checks import listed
from reattend.fitting import cross_layers_of, fitted
from reattend.measuring import Gatherer, Measure
from reattend.method import Method
from reattend.optional import demand
from reattend.policy import Array

__all__ = ["Attached", "ModelSession", "attached"]


def attached(
    model: object,
    *methods: Method | Sequence[Method],
    processor: object = None,
    image: Tensor | Array | None = None,
    verify: bool = True,
    measures: Sequence[str | Measure] = (),
) -> Attached:
    """Let reattend be the attention of a model's language model, for the length of a `with` block.

    The vision tower and all else stay as they are; what is changed is restored when the block ends,
    also by an exception. Without methods the model computes what it did before.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a pipeline or a PeftModel that has one
        Loaded in any way, on the CPU, in evaluation mode.
    *methods : Method
        Applied in order.
    processor : optional
        The model's processor, asked for the image token if the model's config does not name it.
    image : bool array or tensor [B, P], optional
        True at the prompt's image tokens. Found in ``input_ids`` by itself; needed where a prompt
        comes as ``inputs_embeds``.
    measures : sequence of str or callable, optional
        What to gather along each generation, see `Session.measure`; `ModelSession.measured` gives
        it. Methods are not needed for it.
    verify : bool
        When a kind of attention first occurs (full, sliding, with padding, a step ...), one layer
        is compared with the model's own attention on a few rows; a difference beyond rounding
        raises. It takes 1 to 2% of a first prompt's time.

    Returns
    -------
    Attached
        A context manager that gives a `ModelSession`.

    Raises
    ------
    MissingPackageError, TypeError, ValueError, NotImplementedError
        Naming the model and what is in the way.

    Examples
    --------
    >>> with attached(model, VAR()) as session:  # doctest: +SKIP
    ...     model.generate(**inputs, max_new_tokens=64)
    >>> print(session.report())  # doctest: +SKIP
    """
    demand("torch")
    demand("transformers")
    one = (Method, type, str)  # a class is no sequence: it is refused as what it is
    flat = tuple(m for each in methods for m in ((each,) if isinstance(each, one) else each))
    taken, processor = _model_of(model, processor)
    structure = examined(taken, processor)
    gathered = listed("measures", measures, "a sequence of names and functions")
    Gatherer(gathered)  # refuses what is none
    if (flat or gathered) and structure.no_methods is not None:
        raise NotImplementedError(structure.no_methods)
    if structure.cross:
        cross_layers_of(structure.cross, structure.num_layers, flat)
        if any(getattr(m, "sink_dims", ()) is None for m in flat):
            raise ValueError(
                f"sink_dims must be given for {type(taken).__name__}, those of the states that its "
                "vision tower gives: keys of its cross-attention are made of them, and the "
                "language model's sink dimensions are not theirs"
            )
    heads = getattr(structure.config, "num_attention_heads", None)
    fitted(
        flat,
        structure.num_layers,
        heads if isinstance(heads, int) else None,
        getattr(structure.config, "hidden_size", None),
    )
    for profile in {id(method.profile): method.profile for method in flat}.values():
        if profile is not None:
            profile.check(taken)
    for parameter in taken.parameters():
        if not parameter.is_cpu:
            raise NotImplementedError(
                f"{type(taken).__name__} is on {parameter.device}; reattend computes on the CPU: "
                "move it by model.to('cpu')"
            )
    mask = None if image is None else bools(image)
    return Attached(taken, structure, flat, mask, verify, gathered)


def _model_of(model: object, processor: object) -> tuple[Model, object]:
    """Give a model and its processor: of a pipeline those in it, of adapters what they adapt."""
    if isinstance(model, demand("transformers").Pipeline):
        model, processor = model.model, processor or getattr(model, "processor", None)
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if not (hasattr(model, "get_decoder") and hasattr(model, "set_attn_implementation")):
        raise TypeError(f"model must be a transformers.PreTrainedModel, got {type(model).__name__}")
    return cast("Model", model), processor


@dataclass(eq=False)
class Attached:
    """A context manager that attaches a model; it may be entered again, and be nested."""

    model: Model
    structure: Structure
    methods: tuple[Method, ...]
    image: Array | None
    verify: bool = True
    measures: tuple[str | Measure, ...] = ()

    def __post_init__(self) -> None:
        self._entered: list[ExitStack] = []

    def __enter__(self) -> ModelSession:
        session = ModelSession(
            self.model,
            self.structure,
            self.methods,
            self.image,
            verify=self.verify,
            measures=self.measures,
        )
        with ExitStack() as stack:
            stack.callback(session.end)
            stack.enter_context(switched(self.model, self.structure, session))
            for hook in self._hooks(session):
                stack.callback(hook.remove)
            if hasattr(self.model, "generate"):
                self._announce(session, stack)
            self._entered.append(stack.pop_all())
        return session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.pop().close()

    def _hooks(self, session: ModelSession) -> list[Handle]:
        structure = self.structure
        hooks = [
            self.model.register_forward_pre_hook(_Hook(session.model_begins), with_kwargs=True),
            structure.decoder.register_forward_pre_hook(
                _Hook(session.decoder_begins), with_kwargs=True
            ),
            structure.decoder.register_forward_hook(_Hook(session.decoder_ends), always_call=True),
        ]
        if self.methods or self.measures:
            hooks += [
                module.register_forward_pre_hook(
                    _Hook(functools.partial(session.layer_begins, layer)), with_kwargs=True
                )
                for layer, module in structure.layers.items()
            ]
            hooks += [
                module.register_forward_pre_hook(_Hook(session.cross_begins), with_kwargs=True)
                for module in structure.cross.values()
            ]
            first = structure.attention[structure.first]
            hooks.append(
                first.register_forward_pre_hook(_Hook(session.first_begins), with_kwargs=True)
            )
        return hooks

    def _announce(self, session: ModelSession, stack: ExitStack) -> None:
        """Tell the session what `generate` is called with: forwards see parts of a prompt only."""
        model = cast("Generating", self.model)
        sessions: list[ModelSession] | None = getattr(model.generate, "sessions", None)
        if sessions is None:
            sessions = _announcing(model)

        def end() -> None:  # blocks may end in any order
            sessions.remove(session)
            if not sessions:
                model.generate.restore()  # type: ignore[attr-defined]

        sessions.append(session)
        stack.callback(end)


class _Hook:
    """What a session does at a module's call; a compiler leaves it alone.

    A copy of the model would have it too, and tell this session of forwards that are not its own.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = demand("torch").compiler.disable(call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # what torch passes
        return self._call(*args, **kwargs)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise RuntimeError(
            "a model must not be copied or pickled while reattend is attached to it: do so outside "
            "of the block"
        )


def _announcing(model: Generating) -> list[ModelSession]:
    """Let a model's `generate` tell sessions of its calls, the last of a list that is given."""
    sessions: list[ModelSession] = []
    generate = model.generate
    mine = vars(model).get("generate")
    refused = [name for name in _PAGED if hasattr(model, name) and name not in vars(model)]

    @functools.wraps(generate)
    def announcing(*args: Any, **kwargs: Any) -> Any:  # what generate() has
        with sessions[-1].announced(args, cast("ForwardArguments", kwargs)):
            return generate(*args, **kwargs)

    def restore() -> None:
        for name in ("generate", *refused):
            vars(model).pop(name, None)
        if mine is not None:
            model.generate = mine

    announcing.sessions, announcing.restore = sessions, restore  # type: ignore[attr-defined]
    model.generate = announcing
    for name in refused:
        setattr(model, name, _refusing(type(model).__name__, name))
    return sessions


_PAGED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


def _refusing(model: str, name: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"{name}() of {model} is continuous batching: it holds keys in pages, those of several "
            "prompts in one row, which reattend does not support: use generate()"
        )

    return refuse
