"""Descriptions of a data set's pictures at the strengths that tuning tries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reattend.evaluation.calibration.tuning import Described, Parameters
from reattend.evaluation.datasets.dataset import Answer, Case, Dataset
from reattend.evaluation.metrics.certainty import sure_words
from reattend.evaluation.runner.answerers import Answerer, answers_of
from reattend.evaluation.runner.journal import written_out
from reattend.evaluation.runner.second_branch import Change


class AnswerDescriptions:
    """What a model says of a data set's pictures, for `tune`.

    Parameters
    ----------
    dataset : Dataset
        That asks for descriptions, such as those of kind ``"chair"``; a sample is a case.
    answerer : Answerer
        What describes.
    build : callable
        From parameters to the method at that strength.
    batch : int, optional
        Cases side by side.

    Raises
    ------
    ValueError
        If the data set asks for no descriptions.

    Examples
    --------
    >>> from reattend import HeadMask
    >>> from reattend.evaluation.datasets import Naming
    >>> from reattend.evaluation.metrics.vocabulary import Vocabulary
    >>> from reattend.evaluation.runner.answerers import FunctionAnswerer
    >>> pets = Vocabulary({"cat": [], "dog": []})
    >>> case = Case("1", "Describe it.", None, "a.jpg", truth={0})
    >>> data = Dataset("pets", [case], lambda case, answer: {}, {},
    ...                naming=Naming(pets.mentions, lambda case: case.truth))
    >>> model = FunctionAnswerer(lambda cases, methods: ["A cat and a dog."], "two pets")
    >>> AnswerDescriptions(data, model, lambda parameters: HeadMask(**parameters))(None, range(1))
    [Described(words=[(0, 1.0), (1, 1.0)], there={0})]
    """

    def __init__(
        self,
        dataset: Dataset,
        answerer: Answerer,
        build: Callable[[Parameters], Change],
        *,
        batch: int = 8,
    ) -> None:
        if dataset.naming is None:
            raise ValueError(
                f"dataset must ask for descriptions, such as chair or emoji-world, got "
                f"{dataset.name}"
            )
        self._data, self._answerer, self._build, self._batch = dataset, answerer, build, batch
        self._naming = dataset.naming

    def identity(self) -> dict[str, Any]:
        """Say what decides the descriptions."""
        return {
            "data": self._data.identity(),
            "right": self._data.right(),
            "model": self._answerer.identity(),
            "method": written_out(self._build({})),
            "batch": self._batch,
        }

    def __call__(self, parameters: Parameters | None, samples: range) -> list[Described]:
        """Describe these cases; None: without the method."""
        methods = [] if parameters is None else [self._build(parameters)]
        cases = [self._data.cases[place] for place in samples]
        found = []
        for at in range(0, len(cases), self._batch):
            some = cases[at : at + self._batch]
            found += [*map(self._described, some, answers_of(self._answerer, some, methods))]
        return found

    def _described(self, case: Case, answer: Answer) -> Described:
        # Where tokens have no probabilities, the text is one that is sure.
        tokens = answer.tokens or ((answer.text, 1.0),)
        text = "".join(each for each, _ in tokens)
        words = sure_words(tokens, self._naming.mentions(text))
        return Described(
            [(word.noun, word.probability) for word in words], self._naming.there(case)
        )
