"""ModelSession: what an attached model's forwards tell, and the attention they get."""

from __future__ import annotations

import time
import warnings
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from threading import local
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np

from reattend.adaptors.transformers.attending import Forward, attend
from reattend.adaptors.transformers.caches import cache_of
from reattend.adaptors.transformers.crossing import attend_across
from reattend.adaptors.transformers.interface import before, noted, owns
from reattend.adaptors.transformers.introspection import Structure
from reattend.adaptors.transformers.model_report import ModelReport
from reattend.adaptors.transformers.pictures import (
    features_of,
    pictures_given,
    places_given,
    separators_of,
    without_separators,
)
from reattend.adaptors.transformers.prompts import Prompt, Prompts, image_of, spans
from reattend.adaptors.transformers.protocols import (
    AttentionModule,
    AttentionOptions,
    Cache,
    Decoder,
    ForwardArguments,
    Model,
    Module,
    Tensor,
)
from reattend.adaptors.transformers.tensors import floats, padding_of
from reattend.adaptors.transformers.verify import Check
from reattend.measuring import Measure, Measured
from reattend.method import Method
from reattend.optional import demand
from reattend.policy import Array
from reattend.recording import Recording
from reattend.report import Report
from reattend.session import Session
from reattend.sinks import sink_dims

# Of each decoder, with the weights that it had.
_sink_dims: WeakKeyDictionary[Decoder, tuple[Hashable, tuple[int, ...]]] = WeakKeyDictionary()


class _Now(local):
    """What the forward of a thread is about, from one hook to the next."""

    def __init__(self) -> None:
        self.forward = Forward()
        self.read: Prompt | None = None  # of the latest forward; the last begun is a branch's
        self.generating = False  # whether generate() runs
        self.spoken: Prompt | None = None  # its own prompt; later ones are a second branch's
        self.announced: Array | None = None  # its ids [B, P]
        self.announced_length: int | None = None
        self.prompts: int | None = None  # how many it was given; beams repeat them
        self.ids: Array | None = None  # of the forward that runs
        self.pictures: str | None = None  # the argument that brought some, of either
        self.places: Array | None = None  # where a call says that they are
        self.probe: list[Array] | None = None  # sink dimensions seen, while they are looked for


class ModelSession:
    """What `attached` gives: the methods at work in a model, and what they did."""

    def __init__(
        self,
        model: Model,
        structure: Structure,
        methods: tuple[Method, ...],
        image: Array | None,
        *,
        verify: bool = True,
        measures: tuple[str | Measure, ...] = (),
    ) -> None:
        self.model = model
        self.structure = structure
        self.methods = methods
        self.measures = measures
        self.follows = bool(methods or measures)  # prompts, and does not only compute
        self.image = image
        self._check = Check(type(model).__name__) if verify else None
        self.knows_sdpa = bool(getattr(structure.decoder, "_supports_sdpa", True))
        self.own_cross = structure.own_cross
        self._prompts = Prompts()
        self._now = _Now()
        self._recorded: int | None = None  # the item of the batch
        self._found: tuple[int, ...] | None = None
        self._warned = False

    def __repr__(self) -> str:
        methods = ", ".join(map(repr, self.methods))
        return f"{type(self).__name__}({type(self.model).__name__}, [{methods}])"

    def _repr_html_(self) -> str:
        """Give the table of the latest generation that a notebook shows."""
        return self.report()._repr_html_()

    def report(self) -> ModelReport:
        """Say what the methods did in the latest generation.

        Returns
        -------
        ModelReport
        """
        last = self._prompts.last
        if last is None:
            return ModelReport(Report((), {}), self._found, [], None)
        report = last.session.report()
        return ModelReport(
            report, self._found, spans(last.image), last.text_seconds, last.text_tokens,
            self._idle(report), self.structure.without_attention,
        )  # fmt: skip

    def _idle(self, report: Report) -> tuple[str, ...]:
        """Give the methods that certainly changed no row; of a prompt only the sum is known."""
        names = tuple(dict.fromkeys(type(method).__name__ for method in self.methods))
        active = {r.method for r in report.readings if r.changed.any()}
        if any(report.prompt_changed.values()):
            active |= {r.method for r in report.readings}
        return tuple(name for name in names if name not in active)

    def _warn_of_idle(self, last: Prompt | None, stacklevel: int) -> None:
        """Warn, once, of methods that changed no row of a whole generation."""
        if last is None or self._warned or self._recorded is not None:
            return
        without = last.image is None  # then a warning was given when the prompt began
        idle = set(self._idle(last.session.report()))
        idle -= {type(m).__name__ for m in self.methods if m.needs_image and without}
        if idle:
            self._warned = True
            warnings.warn(
                f"{' and '.join(sorted(idle))} changed no row of a whole generation: "
                "session.report() says what was found",
                stacklevel=stacklevel + 1,
            )

    def record(self, item: int = 0) -> None:
        """Note from now on where the rows of answers attend, as `Session.record` does.

        Parameters
        ----------
        item : int, optional
            Which item of the batch.
        """
        if not self.methods:
            raise ValueError(
                "record() needs a method to be attached; VAR(p=1), for one, changes nothing"
            )
        self._recorded = item

    def recording(self) -> Recording:
        """Give what was noted of the latest generation.

        Returns
        -------
        Recording
        """
        last = self._prompts.last
        if last is None:
            raise RuntimeError("recording() needs a generation: call record(), then generate")
        found = last.session.recording()
        settings = {**found.settings, "model": type(self.model).__name__}
        return replace(found, settings=settings)

    def note_confidence(self, confidence: Array) -> None:
        """Tell the methods how sure the model was of its last token, as a `Session` is told.

        Parameters
        ----------
        confidence : array [B]
            The largest probability of what came next.

        Raises
        ------
        RuntimeError
            If no prompt was read.
        """
        if self._now.read is None:
            raise RuntimeError("note_confidence() needs a prompt that methods have read")
        self._now.read.session.note_confidence(confidence)

    def measured(self) -> Mapping[str, Measured]:
        """Give what the measures of `attached` found along the latest generation, by name.

        Items are the rows of the batch at its end: with beams, those that ran then.

        Raises
        ------
        RuntimeError
            If there were no measures, or no generation.

        Returns
        -------
        dict of str to Measured
        """
        last = self._prompts.last
        if last is None:
            raise RuntimeError("measured() needs attached(model, measures=...), then a generation")
        return last.session.measured()

    @property
    def image_spans(self) -> list[list[tuple[int, int]]]:
        """Each item's runs of image tokens in the latest prompt."""
        last = self._prompts.last
        return [] if last is None else spans(last.image)

    def end(self) -> None:
        """Close what is open; `attached` calls it."""
        self._warn_of_idle(self._prompts.last, stacklevel=4)
        self._prompts.end()
        self._now.ids = noted.padding = None

    # What the hooks call, in the order in which they do.

    @contextmanager
    def announced(self, args: tuple[Tensor, ...], kwargs: ForwardArguments) -> Iterator[None]:
        """Hear of a call of `generate`, and refuse what methods cannot follow."""
        if not (self.follows and owns(self, self.structure)):
            yield
            return
        _refuse_generate(self.model, kwargs)
        ids = kwargs.get("input_ids", kwargs.get("inputs"))
        ids = args[0] if ids is None and args else ids
        embeds = kwargs.get("inputs_embeds")
        now, kept = self._now, vars(self._now).copy()
        now.generating, now.spoken, now.announced = True, None, None
        if ids is not None and getattr(ids, "ndim", 0) == 2:
            now.announced = ids.detach().numpy()
        sized = embeds if embeds is not None else now.announced
        now.announced_length = None if sized is None else int(sized.shape[1])
        now.prompts = None if sized is None else int(sized.shape[0])
        self._see_pictures(kwargs)
        try:
            yield
            self._prompts.last = now.spoken or self._prompts.last  # a second branch may be younger
            self._warn_of_idle(now.spoken, stacklevel=5)
        finally:
            now.announced = now.announced_length = now.pictures = now.places = None
            now.generating, now.spoken = kept["generating"], kept["spoken"]
            now.prompts = kept["prompts"]

    def model_begins(
        self, module: Module, args: tuple[Tensor, ...], kwargs: ForwardArguments
    ) -> None:
        """See the token ids of a forward, which the decoder does not get."""
        if self._now.forward.text or not owns(self, self.structure):
            return
        given = _named(module, args, kwargs)
        asked = given.get("output_attentions")
        if asked or (asked is None and getattr(self.model.config, "output_attentions", False)):
            raise NotImplementedError(
                "output_attentions needs the attention matrix, which reattend never makes: use "
                "eager attention for it"
            )
        if not self._now.generating:  # what a forward that raised has left
            self._now.pictures = self._now.places = None
        self._see_pictures(given)
        ids = given.get("input_ids")
        flat = ids if getattr(ids, "ndim", 0) == 2 else None
        self._now.ids = None if flat is None else flat.detach().numpy()

    def _see_pictures(self, values: ForwardArguments) -> None:
        self._now.pictures = pictures_given(values) or self._now.pictures
        places = places_given(values)
        self._now.places = self._now.places if places is None else places

    def decoder_begins(
        self, module: Module, args: tuple[Tensor, ...], kwargs: ForwardArguments
    ) -> tuple[tuple[Tensor, ...], ForwardArguments] | None:
        """Learn where in a prompt a forward is, and open a generation if it begins one."""
        if self._now.forward.text or not owns(self, self.structure):
            return None
        if module.training:
            raise RuntimeError(
                f"{type(self.model).__name__} is in training mode and reattend is for inference: "
                "call model.eval()"
            )
        given = _named(module, args, kwargs)
        inputs = given.get("inputs_embeds")
        inputs = given.get("input_ids") if inputs is None else inputs
        if inputs is None:
            raise NotImplementedError(
                f"{type(module).__name__} was called without input_ids and inputs_embeds, which "
                "reattend does not support"
            )
        cache = cache_of(given)
        past = int(cache.get_seq_length()) if cache is not None else 0
        ids, self._now.ids = self._now.ids, None
        prompt = None
        if self.follows and past == 0:
            mask = given.get("attention_mask")
            flat = getattr(mask, "ndim", 0) == 2 or noted.padding is None
            padding = padding_of(mask) if flat else noted.padding
            _refuse_packed(module, given.get("position_ids"), padding)
            prompt = self._begin(inputs, padding, ids, cache, given)
        elif self.follows:
            prompt = self._resume(cache, past, ids if inputs.shape[1] > 1 else None)
        self._now.read = prompt
        if prompt is not None:
            if self._now.generating and self._now.spoken is None:
                self._now.spoken = prompt
            prompt.batch, prompt.keys = int(inputs.shape[0]), past + int(inputs.shape[1])
        self._now.forward = Forward(
            past, int(inputs.shape[1]), prompt, check=self._check, before=before(self.structure),
            cache=cache,
        )  # fmt: skip
        headless = not hasattr(module, "lm_head")  # Llama 4's decoder has the head in it
        if prompt is not None and headless and kwargs.get("logits_to_keep"):
            # A decoder that is told so reads the last rows only in its last layers (Gemma 4), but
            # methods want the whole prompt in each; the head on top cuts by itself.
            return args, {**kwargs, "logits_to_keep": 0}
        return None

    def layer_begins(
        self, layer: int, module: Module, args: tuple[Tensor, ...], kwargs: ForwardArguments
    ) -> None:
        """See the hidden states that enter a layer."""
        forward = self._now.forward
        states = args[0] if args else kwargs.get("hidden_states")
        active = getattr(self.structure.config, "altup_active_idx", None)
        if states is not None and getattr(states, "ndim", 3) == 4:  # several streams of states
            states = None if active is None else states[active]
        if self._now.probe is not None and forward.text and states is not None:
            dims = sink_dims(floats(states))  # [B, C]
            self._now.probe.append(np.flatnonzero(dims.any(0)))
        if forward.prompt is None or forward.past >= forward.prompt.length:
            return
        forward.states = states
        if layer == self.structure.first:
            self._see_cache(cache_of(kwargs))

    def first_begins(
        self, module: Module, args: tuple[Tensor, ...], kwargs: ForwardArguments
    ) -> None:
        """See the cache that a decoder made by itself."""
        self._see_cache(cache_of(kwargs))

    def _see_cache(self, cache: Cache | None) -> None:
        forward = self._now.forward
        if cache is not None and forward.prompt is not None and forward.past == 0:
            forward.cache = cache
            self._prompts.bind(forward.prompt, cache)

    def cross_begins(
        self, module: Module, args: tuple[Tensor, ...], kwargs: ForwardArguments
    ) -> None:
        """See the states that the keys of cross-attention are made of; later steps keep keys."""
        self._now.forward.key_states = kwargs.get("cross_attention_states")

    def attend(
        self,
        module: AttentionModule,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: AttentionOptions,
    ) -> Tensor:
        """Compute a layer's attention [B, N, H, Dv]; the attention function calls it."""
        cross, forward = self.structure.cross, self._now.forward
        across = cross and cross.get(module.layer_idx) is module
        function = attend_across if across else attend
        return function(forward, module, query, key, value, mask, noted.padding, options)

    def decoder_ends(self, module: Module, args: tuple[Tensor, ...], output: object) -> None:
        """Forget what was of one forward only."""
        if not self._now.forward.text:
            noted.padding = None
            self._now.forward = Forward()

    # What a prompt begins with.

    def _begin(
        self,
        inputs: Tensor,
        padding: Array | None,
        ids: Array | None,
        cache: Cache | None,
        values: ForwardArguments,
    ) -> Prompt:
        batch, length = inputs.shape[:2]
        announced, announced_length = self._now.announced, self._now.announced_length
        self._now.announced = self._now.announced_length = (
            None  # a second branch's prompt is not meant
        )
        if announced_length is not None and announced_length > length:
            ids, length = announced, announced_length  # the prompt comes in chunks
        elif ids is None:  # some models' generate() gives the decoder embeddings only
            ids = announced
        if ids is not None and (ids.shape[1] != length or batch % len(ids)):
            ids = None
        pictures, places = self._now.pictures, self._now.places
        self._now.pictures = self._now.places = None
        tokens = self.structure.image_tokens
        places = places if self.image is None else self.image
        if places is None and ids is None and tokens:
            raise ValueError(
                "the prompt came as inputs_embeds, in which image tokens cannot be told: pass "
                "input_ids as well, or attached(..., image=mask)"
            )
        repeats = batch // (self._now.prompts or batch)  # by beams and returned sequences
        found = image_of(places, ids, tokens, batch, length, repeats)
        image = self._shown(found, inputs, values)
        wanting = [type(m).__name__ for m in self.methods if m.needs_image]
        if image is None and pictures is not None and wanting and self.structure.own_cross:
            raise NotImplementedError(
                f"{type(self.model).__name__} sees {pictures} through cross-attention that stays "
                f"its own, and no token of the prompt is a part of an image, so "
                f"{', '.join(wanting)} would do nothing: attach it without"
            )
        if image is None and pictures is not None and wanting:
            raise ValueError(
                f"{type(self.model).__name__} was given {pictures}, but no token of its prompt is "
                f"known to stand for a part of an image, so {', '.join(wanting)} would do nothing: "
                "pass attached(..., image=mask), bool [B, P], True at the image's tokens"
            )
        whole = length == inputs.shape[1]
        for_text = image is not None and whole and any(m.needs_text_only for m in self.methods)
        methods = self._with_sink_dims() if whole else self.methods
        probe = methods is None
        session = Session(
            methods or self.methods, num_layers=self.structure.num_layers,
            cross_layers=self.structure.cross,
        )  # fmt: skip
        if self._recorded is not None:
            session.record(self._recorded)
        if self.measures:
            session.measure(self.measures)
        prompt = Prompt(session, length, image)
        if probe or for_text:
            keep = np.ones((batch, length), bool) if found is None else ~found
            keep = keep if padding is None else keep & padding[:, :length]
            begun = time.perf_counter()
            outputs = self._run_text(inputs, ids, keep, probe)
            if for_text:
                prompt.text_outputs = outputs
                prompt.text_seconds = time.perf_counter() - begun
                prompt.text_tokens = int(keep.sum())
            if probe:
                session.methods = self._with_sink_dims() or self.methods
        # Reports are of the prompt that generate() was called with, and not of a second branch's.
        self._prompts.begin(prompt, cache, last=self._now.spoken is None)
        return prompt

    def _shown(self, found: Array | None, inputs: Tensor, values: ForwardArguments) -> Array | None:
        """Leave out of a picture's tokens what separates its rows."""
        between = [] if found is None or self.image is not None else separators_of(self.model)
        if found is None or not between:
            return found
        if found.shape[1] != inputs.shape[1] and any(m.needs_image for m in self.methods):
            raise NotImplementedError(
                f"{type(self.model).__name__} puts separators between the rows of a picture, which "
                "are told from its tokens only where the prompt is read in one call: leave out "
                "prefill_chunk_size, or pass attached(..., image=mask)"
            )
        if inputs.ndim < 3:
            return found
        return without_separators(found, features_of(found, inputs, values), between)

    def _with_sink_dims(self) -> tuple[Method, ...] | None:
        """Give the methods with the model's sink dimensions; None if these are not known yet."""
        without = [m for m in self.methods if getattr(m, "sink_dims", ()) is None]
        if not without:
            return self.methods
        weights, found = _sink_dims.get(self.structure.decoder, (None, ()))
        if weights != _weights_of(self.structure.decoder):  # others may have been loaded
            return None
        self._found = found
        if not found:  # each prompt may still show some
            return self.methods
        return tuple(
            replace(m, sink_dims=found) if m in without else m  # type: ignore[type-var]
            for m in self.methods
        )

    def _resume(self, cache: Cache | None, past: int, ids: Array | None) -> Prompt:
        prompt = self._prompts.of(cache)
        if prompt is None:
            raise RuntimeError(
                f"the cache holds {past} keys of a prompt that was read without these methods: "
                "let the prompt begin inside the block, with an empty cache"
            )
        if past > prompt.keys:
            raise RuntimeError(
                f"the cache holds {past} keys, of which these methods have seen {prompt.keys}: the "
                "others were added without them; let the prompt begin anew"
            )
        self._now.announced = self._now.announced_length = None
        more = ids is not None and np.isin(ids, self.structure.image_tokens).any()
        if past >= prompt.length and more:
            raise NotImplementedError(
                f"image tokens came after the prompt of {prompt.length} tokens was over; let one "
                "prompt hold all images, or read it in chunks by generate(prefill_chunk_size=...)"
            )
        return prompt

    def _run_text(
        self, inputs: Tensor, ids: Array | None, keep: Array, probe: bool
    ) -> dict[int, Array]:
        """Run the decoder on prompts without their images; gives each layer's last rows [B, H, Dv].

        Prompts of one length run together and without padding: families differ in what padding
        does to positions and masks, and each must be what the model gives it alone.
        """
        torch = demand("torch")
        decoder = self.structure.decoder
        if not keep.any(1).all():
            raise ValueError(
                "every prompt must have text beside its image: without it there is no text-only "
                "branch, nor a first token to find sink dimensions on"
            )
        by_ids = ids is not None and hasattr(decoder, "get_per_layer_inputs")  # a second embedding
        tokens = torch.from_numpy(ids) if by_ids else inputs
        name = "input_ids" if tokens.ndim == 2 else "inputs_embeds"
        lengths = keep.sum(1)
        outputs: dict[int, Array] = {}
        saved = self._now.forward, noted.padding
        self._now.probe = [] if probe else None
        noted.padding = None
        try:
            for length in np.unique(lengths):
                items = np.flatnonzero(lengths == length)
                packed = torch.stack([tokens[item, torch.from_numpy(keep[item])] for item in items])
                found: dict[int, Array] = {}
                self._now.forward = Forward(rows=int(length), text=True, text_outputs=found)
                with torch.no_grad():
                    decoder(**{name: packed}, use_cache=False)
                for layer, last in found.items():
                    room = outputs.setdefault(layer, np.zeros((len(keep), *last.shape[1:]), "f4"))
                    room[items] = last
            if self._now.probe is not None:
                seen = sorted({int(d) for x in self._now.probe for d in x})
                _sink_dims[decoder] = _weights_of(decoder), tuple(seen)
        finally:
            self._now.forward, noted.padding = saved
            self._now.probe = None
        return outputs


def _refuse_packed(module: Module, places: Tensor | None, padding: Array | None) -> None:
    """Refuse several prompts in one row, whose positions begin anew: methods would see one."""
    if places is None or places.ndim != 2 or places.shape[1] < 2:
        return
    back = places.numpy()[:, 1:] <= places.numpy()[:, :-1]
    if padding is not None:
        back = back & padding[:, 1 : back.shape[1] + 1] & padding[:, : back.shape[1]]
    if back.any():
        raise NotImplementedError(
            f"{type(module).__name__} was given position_ids that go back within a row, as of "
            "several prompts in one, of which methods know nothing: give each a row of its own"
        )


_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")


def _weights_of(decoder: Decoder) -> Hashable:
    """Give what changes when a model's weights do."""
    weights: list[Any] = list(decoder.parameters())  # torch.nn.Parameter
    return tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)


def _named(module: Module, args: tuple[Tensor, ...], kwargs: ForwardArguments) -> ForwardArguments:
    """Give the arguments of a forward by name, those that came by place too."""
    if not args:
        return kwargs
    names = signature(module.forward).parameters
    return cast("ForwardArguments", {**dict(zip(names, args, strict=False)), **kwargs})


def _refuse_generate(model: Model, kwargs: ForwardArguments) -> None:
    given = dict(kwargs)
    configs = given.get("generation_config"), getattr(model, "generation_config", None)

    def option(name: str) -> object:
        if name in given:
            return given[name]
        said = (getattr(config, name, None) for config in configs)  # the model's fills in
        return next((value for value in said if value is not None), None)

    asked = [name for name in _ASSISTED if option(name)]
    if asked:
        raise NotImplementedError(
            "assisted generation reads guessed tokens together with the prompt and takes rows "
            f"back, which methods cannot follow: leave out {' and '.join(asked)}"
        )
    if option("use_cache") is False:
        raise NotImplementedError(
            "generate(use_cache=False) reads the prompt anew at each step, so methods would take "
            "generated tokens for the prompt: use a cache"
        )
