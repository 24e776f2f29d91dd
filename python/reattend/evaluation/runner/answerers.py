"""What answers cases: a transformers model, the package's own model, a function, or a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reattend.adaptors.transformers import attached
from reattend.cache import KVCache
from reattend.decoding import TEXT_ONLY
from reattend.evaluation.datasets.dataset import (
    Answer,
    Case,
    DataError,
    Dataset,
    Problem,
    sha256,
)
from reattend.evaluation.datasets.records import field_of, read_records
from reattend.evaluation.runner.second_branch import (
    CaseSetting,
    Change,
    model_processor,
    split,
    vision_language_processor,
)
from reattend.fingerprint import fingerprint
from reattend.models import TextStream, VisionLanguage
from reattend.optional import demand
from reattend.policy import Array
from reattend.session import Session

__all__ = [
    "Answerer",
    "Change",
    "FileAnswerer",
    "FunctionAnswerer",
    "RecordedAnswerer",
    "TransformersAnswerer",
    "VisionLanguageAnswerer",
    "answers_of",
    "yes_margin",
]

_YES, _NO = ("Yes", "yes"), ("No", "no")
_KEYS = ("question_id", "id", "key", "image_id")
_TEXTS = ("answer", "text", "response", "caption", "output")


@contextmanager
def _idle_methods(setting: CaseSetting | None) -> Iterator[None]:
    """Let methods change nothing without a warning: in one case of many that is an answer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* changed no row of a whole generation")
        if setting is not None and setting.branch == TEXT_ONLY:
            warnings.filterwarnings("ignore", ".* will change nothing: the prompt has no image")
        yield


class Answerer(Protocol):
    """Answers cases, with methods at work, and a setting that mixes logits with a second branch."""

    def identity(self) -> dict[str, Any]:
        """Say what decides its answers, as JSON can hold it."""

    def __call__(self, cases: Sequence[Case], methods: Sequence[Change]) -> list[Answer]:
        """Answer cases side by side, in their order."""


def answers_of(
    answerer: Answerer, cases: Sequence[Case], methods: Sequence[Change]
) -> list[Answer]:
    """Let an answerer answer cases.

    Parameters
    ----------
    answerer : Answerer
        What answers.
    cases : sequence of Case
        Side by side.
    methods : sequence of Method, and of decoding settings
        What is at work.

    Raises
    ------
    ValueError
        If there are not as many answers as cases.
    """
    found = [*answerer(cases, methods)]
    if len(found) != len(cases):
        raise ValueError(
            f"answerer must give an answer for each of {len(cases)} cases, got {len(found)}"
        )
    return found


class TransformersAnswerer:
    """A transformers model with its processor; reattend is its attention while it answers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        On the CPU, in evaluation mode.
    processor : transformers.ProcessorMixin
        Of the model.
    template : callable, optional
        Writes a question as the model's prompt, its image token included; by default the
        processor's chat template.
    **generate
        Options of ``model.generate``; it decodes greedily by default.

    Raises
    ------
    ValueError
        If the processor has no chat template, and no ``template`` is given.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        template: Callable[[str], str] | None = None,
        **generate: Any,
    ) -> None:
        if template is None and getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"processor must have a chat template, got {type(processor).__name__} without one: "
                "give template, a function from a question to a prompt"
            )
        self.model, self.processor = model, processor
        self._template = template or self._chat
        self._generate = {"do_sample": False, **generate}

    def identity(self) -> dict[str, Any]:
        """Give the model's fingerprint, and how it decodes."""
        return {
            **fingerprint(self.model),
            "template": self._template("?"),
            "generate": {name: repr(value) for name, value in sorted(self._generate.items())},
        }

    def __call__(self, cases: Sequence[Case], methods: Sequence[Change]) -> list[Answer]:
        """Answer cases in one batch, padded on the left."""
        torch = demand("torch")
        edits, setting = split(methods)

        def read(questions: Sequence[str], shown: bool) -> Any:
            pictures = {"images": [_picture(case) for case in cases]} if shown else {}
            texts = [self._template(each) if shown else self._text_only(each) for each in questions]
            return self.processor(**pictures, text=texts, padding=True, return_tensors="pt")

        with _padded_left(self.processor.tokenizer), torch.no_grad():
            inputs = read([case.prompt for case in cases], True)
            with _idle_methods(setting), attached(self.model, *edits, processor=self.processor):
                mixes = {}
                if setting is not None:
                    mixer = model_processor(self.model, setting, cases, inputs, read)
                    mixes = {"logits_processor": [mixer]}
                found = self.model.generate(
                    **inputs, max_new_tokens=max(case.max_new_tokens for case in cases),
                    return_dict_in_generate=True, output_logits=setting is None,
                    output_scores=setting is not None,
                    **mixes, **self._generate,
                )  # fmt: skip
        steps = found.logits if setting is None else found.scores  # what tokens are chosen from
        sequences = found.sequences[:, inputs["input_ids"].shape[1] :]
        answers = []
        for row, case in enumerate(cases):
            said = sequences[row, : case.max_new_tokens]  # a batch may hold cases that say more
            if case.yes_or_no:
                margin = self._margin(_logits(found, steps, row, 0).numpy())
                answers.append(Answer(self._decode(said).strip(), margin))
                continue
            sure = [
                float(_logits(found, steps, row, step).softmax(-1)[token])
                for step, token in enumerate(said)
            ]
            tokens = _pieces([self._decode(said[: n + 1]) for n in range(len(said))], sure)
            answers.append(Answer("".join(text for text, _ in tokens), tokens=tokens))
        return answers

    def _decode(self, tokens: Any) -> str:
        return str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True))

    def hidden_states(self, case: Case) -> Iterator[Array]:
        """Give what enters each layer while a case's prompt is read, float32 [1, P, C]."""
        torch = demand("torch")
        with torch.no_grad():
            inputs = self.processor(
                images=[_picture(case)], text=[self._template(case.prompt)], return_tensors="pt"
            )
            found = self.model(**inputs, output_hidden_states=True).hidden_states
        yield from (states.float().numpy() for states in found[:-1])

    def _text_only(self, question: str) -> str:
        """Write a question as the model's prompt, without its picture."""
        if self._template == self._chat:
            return self._chat(question, shown=False)
        token, text = getattr(self.processor, "image_token", None), self._template(question)
        if not token or token not in text:
            raise ValueError(
                f"template must write the processor's image_token, {token!r}, where the picture "
                f"is, for the branch without it, got {text!r}"
            )
        return text.replace(token, "")

    def _chat(self, question: str, shown: bool = True) -> str:
        content = [{"type": "image"}] if shown else []
        content += [{"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        text: str = self.processor.apply_chat_template(message, add_generation_prompt=True)
        return text

    def _margin(self, logits: Array) -> float | None:
        tokenizer = self.processor.tokenizer

        def encode(word: str) -> int:
            token: int = tokenizer.encode(word, add_special_tokens=False)[0]
            return token

        return yes_margin(logits, encode)


class VisionLanguageAnswerer:
    """The package's own vision-language model.

    Parameters
    ----------
    model : VisionLanguage
        Of `reattend.models.read_vision_language`.
    name : str, optional
        What tells its weights from others, such as their file's checksum; their fingerprint by
        default.
    """

    def __init__(self, model: VisionLanguage, name: str | None = None) -> None:
        self.model = model
        self._name = fingerprint(model)["weights"] if name is None else name

    def identity(self) -> dict[str, Any]:
        """Give the name of the weights."""
        return {"model": "VisionLanguage", "weights": self._name}

    def __call__(self, cases: Sequence[Case], methods: Sequence[Change]) -> list[Answer]:
        """Answer cases in one batch."""
        model, config = self.model, self.model.llama.config
        edits, setting = split(methods)
        prompts, pixels = self._prompts(cases)
        longest = max(case.max_new_tokens for case in cases)
        session = Session(edits, num_layers=config.num_layers, num_heads=config.num_heads)
        mixer = None
        if setting is not None:
            mixer = vision_language_processor(model, setting, edits, cases, pixels, longest)
        first: list[Array] = []
        sure: list[Array] = []

        def observe(logits: Array) -> None:
            if not first:
                first.append(logits.copy())
            shifted = logits - logits.max(axis=-1, keepdims=True)
            sure.append(1 / np.exp(shifted).sum(axis=-1))  # of the likeliest: it is what comes

        steps = [
            *model.generate(
                session, prompts, pixels, logits_processor=mixer, observe=observe,
                max_new_tokens=longest,
            )
        ]  # fmt: skip
        answers = []
        for row, case in enumerate(cases):
            said = [
                (int(step[row]), float(probability[row]))
                for step, probability in zip(steps, sure, strict=True)
            ]
            tokens = self._tokens(said[: case.max_new_tokens])
            text = "".join(each for each, _ in tokens)
            if case.yes_or_no:
                answers.append(Answer(text, self.margin(first[0][row])))
            else:
                answers.append(Answer(text, tokens=tokens))
        return answers

    def embed(self, cases: Sequence[Case]) -> tuple[Array, Array | None, Array]:
        """Turn cases into what the language model reads, as `VisionLanguage.embed` gives it."""
        return self.model.embed(*self._prompts(cases))

    def margin(self, logits: Array) -> float | None:
        """Give by how much yes is above no in the logits [V] of an answer's first token."""
        return yes_margin(logits, self._encode)

    def hidden_states(self, case: Case) -> Iterator[Array]:
        """Give what enters each layer while a case's prompt is read, float32 [1, P, C]."""
        llama = self.model.llama
        states, _, image = self.embed([case])
        session = Session([], num_layers=llama.config.num_layers)
        cache = KVCache(llama.config.num_layers, capacity=states.shape[1])
        for layer in range(llama.config.num_layers):
            yield states
            with session.generation(image):
                states = llama(states, cache.fork(), session, layers=range(layer, layer + 1))

    def _prompts(self, cases: Sequence[Case]) -> tuple[list[list[int]], Array]:
        pixels = np.stack([_resized(_picture(case)) for case in cases])
        return [self.model.prompt(case.prompt) for case in cases], pixels

    def _encode(self, word: str) -> int:
        return int(self.model.tokenizer.encode(word, prefix=False)[0])

    def _tokens(self, said: Sequence[tuple[int, float]]) -> tuple[tuple[str, float], ...]:
        stop, stream = self.model.tokenizer.stop, TextStream(self.model.tokenizer)
        found = []
        for token, probability in said:
            if token in stop:
                break
            found.append((stream.push(token), probability))
        rest = stream.flush()
        return (*found, (rest, 1.0)) if rest else tuple(found)


class FunctionAnswerer:
    """Any function that answers cases: a service, another library, a model of one's own.

    Parameters
    ----------
    function : callable
        Called with cases and methods; gives an `Answer` or a text for each.
    name : str
        What tells it from others.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Case], Sequence[Change]], Sequence[Answer | str]],
        name: str,
    ) -> None:
        self._function, self._name = function, name

    def identity(self) -> dict[str, Any]:
        """Give its name."""
        return {"model": "function", "name": self._name}

    def __call__(self, cases: Sequence[Case], methods: Sequence[Change]) -> list[Answer]:
        """Answer cases."""
        found = self._function(cases, methods)
        return [Answer(each) if isinstance(each, str) else each for each in found]


class _MadeBefore:
    """Answers that are there already, by key."""

    _answers: Mapping[str, Answer]

    def __call__(self, cases: Sequence[Case], methods: Sequence[Change]) -> list[Answer]:
        """Give them.

        Raises
        ------
        ValueError
            If methods are to be at work: the answers are made.
        """
        if methods:
            raise ValueError("methods must be none: the answers are made")
        return [self._answers[case.key] for case in cases]


class FileAnswerer(_MadeBefore):
    """Answers made elsewhere: JSON Lines or an array, by key.

    Parameters
    ----------
    path : path
        Each record has one of question_id, id, key, image_id and one of answer, text, response,
        caption, output.
    cases : sequence of Case
        What they must answer: each once, and nothing else.

    Raises
    ------
    DataError
        Naming file and line: a missing field, a margin that is no number, a key that joins no case
        or was there before, a case without an answer.
    """

    def __init__(self, path: Path, cases: Sequence[Case]) -> None:
        self.path = path
        problems: list[Problem] = []
        wanted = {case.key for case in cases}
        found: dict[str, Answer] = {}
        for record in read_records(path, problems):
            key = field_of(record, _KEYS, path, problems)
            text = field_of(record, _TEXTS, path, problems)
            if key is None or text is None:
                continue
            if str(key) not in wanted:
                problems.append(Problem(str(path), record.line, f"{key!r} joins no case"))
            elif str(key) in found:
                problems.append(Problem(str(path), record.line, f"{key!r} was answered before"))
            elif not _is_margin(margin := record.values.get("margin")):
                what = f"the margin must be a number, got {margin!r}"
                problems.append(Problem(str(path), record.line, what))
            else:
                found[str(key)] = Answer(str(text), margin)
        missing = [case.key for case in cases if case.key not in found]
        problems += [Problem(str(path), None, f"has no answer to {key!r}") for key in missing]
        if problems:
            raise DataError(problems)
        self._answers = found

    def identity(self) -> dict[str, Any]:
        """Give the file's checksum."""
        return {"model": "file", "sha256": sha256(self.path)}


class RecordedAnswerer(_MadeBefore):
    """Answers, or a judge's verdicts, that a data set's files bring along.

    Parameters
    ----------
    data : Dataset
        Whose ``made`` they are.

    Raises
    ------
    DataError
        Naming the cases without one.
    """

    def __init__(self, data: Dataset) -> None:
        missing = [case.key for case in data.cases if case.key not in data.made]
        if missing:
            raise DataError([Problem(data.name, None, f"has no answer to {k!r}") for k in missing])
        self._answers = data.made

    def identity(self) -> dict[str, Any]:
        """Say that they are the files' own; the data set has these files' checksums."""
        return {"model": "recorded"}


def yes_margin(logits: Array, encode: Callable[[str], int]) -> float | None:
    """Give by how much the larger logit of Yes and yes is above that of No and no.

    Parameters
    ----------
    logits : array [V]
        Of the first token.
    encode : callable
        Gives a word's first token.

    Returns
    -------
    float or None
        None if the tokenizer does not tell them apart. A token that is ruled out counts as the
        least that is not.
    """
    yes, no = ({encode(word) for word in words} for words in (_YES, _NO))
    if yes & no:
        return None
    ruled_out = np.isneginf(logits)
    if ruled_out.any():
        logits = np.where(ruled_out, logits[~ruled_out].min(), logits)
    return float(logits[[*yes]].max() - logits[[*no]].max())


def _is_margin(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and value == value)


def _logits(found: Any, steps: Any, row: int, step: int) -> Any:
    """Give the logits from which an answer's token was chosen; beams have a batch of their own."""
    beams = getattr(found, "beam_indices", None)
    return steps[step][row if beams is None else int(beams[row, step])].float()


def _pieces(texts: Sequence[str], sure: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Cut the last of growing texts into what each token added, blanks around it aside.

    >>> _pieces([" A", " A b", " A bus", " A bus "], [1.0, 0.5, 0.8, 0.3])
    (('A', 1.0), (' b', 0.5), ('us', 0.8))
    """
    if not texts:
        return ()
    whole = texts[-1]
    start, end = len(whole) - len(whole.lstrip()), len(whole.rstrip())
    at, found, carried = start, [], 1.0
    for text, probability in zip(texts, sure, strict=True):
        # Half a character stands as U+FFFD until the token with its other half comes.
        reached = min(max(len(text.rstrip("\ufffd")), at), end)
        if text is whole:
            reached = max(end, at)
        carried *= probability
        if reached > at:
            found.append((whole[at:reached], carried))
            at = reached
        if not text.endswith("\ufffd"):
            carried = 1.0
    return tuple(found)


def _picture(case: Case) -> Any:
    image = demand("PIL.Image")
    if case.image is None:
        raise ValueError(f"case {case.key} must have a picture: give the folder of images")
    if isinstance(case.image, Path):
        with image.open(case.image) as file:
            return file.convert("RGB")
    return image.fromarray(case.image)


def _resized(picture: Any) -> Array:
    how = demand("PIL.Image").Resampling.LANCZOS
    return np.asarray(picture.resize((120, 120), how), np.uint8)


@contextmanager
def _padded_left(tokenizer: Any) -> Iterator[None]:
    before = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side = before
