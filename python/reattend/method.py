"""Method: the contract that a paper's file fulfils, and the registry that tables come from."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from reattend.call import Call
from reattend.following import ColumnRule, RowRule
from reattend.plan import Plan
from reattend.profile import Profile
from reattend.reading import Reading, changed_share

__all__ = [
    "Method",
    "check_bools",
    "check_finite",
    "check_shares",
    "integers",
    "method_table",
    "number",
    "paper",
    "registered",
]

Self = TypeVar("Self", bound="Method")

_registry: dict[str, type[Method]] = {}


class Method:
    """A rule that decides, from what a call knows, what each segment of keys shall get.

    A method is a frozen dataclass of its paper's parameters with one pure function, `plan`. It
    keeps nothing itself: what it must remember it returns, and the session hands it back at the
    next call of the same layer. Its docstring says in one sentence what it does, and names its
    paper in a line ``Paper: ...``; each field has a comment.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from reattend.policy import Reweight
    >>> @dataclass(frozen=True)
    ... class Scale(Method):
    ...     '''Every head's output is scaled.
    ...
    ...     Paper: none, an example.
    ...     '''
    ...
    ...     alpha: float = 1.0  # what multiplies the output
    ...
    ...     def plan(self, call, state):
    ...         return Plan(None, Reweight(weight=(self.alpha,))), state
    >>> paper(Scale)
    'none, an example.'
    """

    edits: ClassVar[str] = ""  # for tables: "scores", "weights", "outputs" or "null key"
    statistic: ClassVar[str] = ""  # for tables: what of the call decides, beside its parameters
    segment_names: ClassVar[tuple[str, ...]] = ("all",)  # of its plan's labels, for reports
    needs_image: ClassVar[bool] = False  # whether it leaves a prompt without an image as it is
    needs_text_only: ClassVar[bool] = False  # whether it compares with the prompt without its image
    knows_cross: ClassVar[bool] = False  # whether it says what it does in cross-attention
    # Whether the plan of the first step behind the prompt is that of all steps: `plan` is then not
    # called again, and a step costs little more than its attention.
    steady: ClassVar[bool] = False
    profile: ClassVar[Profile | None] = None  # where its parameters are from; that model's only

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "plan" in vars(cls):  # what another plan's class said of steps is not said of this one
            if "steady" not in vars(cls):
                cls.steady = False
            if "goes_on" not in vars(cls):
                cls.goes_on = Method.goes_on  # type: ignore[method-assign]
        if not cls.__name__.startswith("_"):
            _registry[cls.__name__] = cls

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Say what is to be done in this call.

        Parameters
        ----------
        call : Call
            What the call knows.
        state : None, array, Plan, or tuple of these
            What this function returned last time for this layer; None at first. Arrays are batch
            first, so that beam search can reorder them.

        Returns
        -------
        plan : Plan or None
            None means plain attention. The very object of the last call says that nothing has
            changed: what was prepared for it is used again. So neither a plan nor an array in it
            is ever written to once it was returned, and one that changes is a new one. Where plans
            are new but hold the same arrays, by identity, only what differs is prepared anew.
        state
            What to hand back next time.

        Examples
        --------
        See the example of the class.
        """
        raise NotImplementedError(f"{type(self).__name__} must define plan(call, state)")

    def goes_on(self, call: Call, state: Any) -> bool | ColumnRule | RowRule:
        """Say whether steps go on without asking: the plan of this one stays, or follows a rule.

        Parameters
        ----------
        call : Call
            A step, whose plan was asked for.
        state
            What `plan` gave with it. A session's only method is asked at the first step behind the
            prompt as well, with what it gave there: with a ColumnRule its plan is not asked for.

        Returns
        -------
        bool, ColumnRule or RowRule
            `steady`, where a method does not say more.

        Examples
        --------
        >>> from reattend import VHR
        >>> from reattend.call import Prompt
        >>> query = key = value = np.ones((1, 2, 1, 4), dtype=np.float32)
        >>> VHR().goes_on(Call(2, 8, query, key, value, Prompt(1)), None)
        True
        """
        return self.steady

    @classmethod
    def from_profile(
        cls: type[Self], profile: str | Path | Profile, model: Any = None, **parameters: Any
    ) -> Self:
        """Build the method as calibration found it best for a model.

        Parameters
        ----------
        profile : path, or Profile
            Of `reattend.evaluation.calibration`, or written by ``reattend calibrate``.
        model : model, or mapping, optional
            The model that it is for, or its fingerprint; another one than the profile's is
            refused. Without it that is done when the method is put to work: by its weights where
            a transformers model is attached, else by its sizes.
        **parameters
            In the place of the profile's.

        Raises
        ------
        ProfileError
            If the file is no profile, holds nothing for this method, or is of another model.

        Examples
        --------
        >>> from reattend.methods import HeadMask
        >>> found = Profile({"num_layers": 8}, {"HeadMask": {"heads": {3: (0, 2)}}})
        >>> HeadMask.from_profile(found, gate=0.5).heads
        ((3, (0, 2)),)
        """
        found = profile if isinstance(profile, Profile) else Profile.load(profile)
        if model is not None:
            found.check(model)
        takes = {each.name for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
        method = cls(**{**found.parameters(cls.__name__, takes=takes), **parameters})
        object.__setattr__(method, "profile", found)  # beside its fields: it is no parameter
        return method

    def check_model(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse a model in which the parameters cannot be meant; called before it runs.

        Parameters
        ----------
        num_layers : int
            How many layers the model has.
        num_heads, hidden_size : int or None
            How many query heads, and the size of its hidden states; None where that is not known.

        Raises
        ------
        ValueError
            Naming the parameter.

        Examples
        --------
        >>> Method().check_model(32, 32, None)
        """
        return None  # a method without such parameters fits every model

    def readings(self, state: Any) -> Mapping[str, Any]:
        """Give what a report shall show of a layer's state, by name.

        Parameters
        ----------
        state
            What `plan` returned last for the layer.

        Examples
        --------
        >>> Method().readings(None)
        {}
        """
        return {}

    def describe(self, readings: Sequence[Reading], num_layers: int) -> list[str]:
        """Say in a few clauses what the method did along an answer, as `reattend demo` shows it.

        Parameters
        ----------
        readings : sequence of Reading
            The method's in a session's report, one for each layer in which there is any.
        num_layers : int
            How many layers the model has.

        Examples
        --------
        >>> Method().describe([], 32)
        ['Method changed no row of the answer']
        """
        if not any(np.any(each.changed > 0) for each in readings):
            return [f"{type(self).__name__} changed no row of the answer"]
        share = changed_share(readings, num_layers)
        return [f"{share:.1%} of the answer's rows changed, over all heads"]


def number(method: Method, name: str) -> float:
    """Give a parameter that must be a real number.

    Parameters
    ----------
    method : Method
        Whose parameter it is.
    name : str
        The parameter's.

    Raises
    ------
    TypeError
        If it is none.

    Examples
    --------
    >>> from reattend.methods import VHR
    >>> number(VHR(alpha=2), "alpha")
    2.0
    """
    value = getattr(method, name)
    if isinstance(value, (str, bytes, bool)) or not isinstance(value, (Real, np.number)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_bools(method: Method, *names: str) -> None:
    """Check parameters that must be True or False.

    Parameters
    ----------
    method : Method
        Whose parameters they are.
    *names : str
        The parameters'.

    Raises
    ------
    TypeError
        Naming the parameter, what was expected and what came.

    Examples
    --------
    >>> from reattend.methods import ACT
    >>> check_bools(ACT(), "update_sinks")
    """
    for name in names:
        if not isinstance(getattr(method, name), (bool, np.bool_)):
            raise TypeError(f"{name} must be a bool, got {getattr(method, name)!r}")


def check_finite(method: Method, *names: str) -> None:
    """Check parameters that must be finite numbers.

    Parameters
    ----------
    method : Method
        Whose parameters they are.
    *names : str
        The parameters'.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what was expected and what came.

    Examples
    --------
    >>> from reattend.methods import VHR
    >>> check_finite(VHR(), "alpha")
    """
    for name in names:
        if not np.isfinite(number(method, name)):
            raise ValueError(f"{name} must be a finite number, got {getattr(method, name)!r}")


def check_shares(method: Method, *names: str) -> None:
    """Check parameters that must be numbers from 0 to 1.

    Parameters
    ----------
    method : Method
        Whose parameters they are.
    *names : str
        The parameters'.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what was expected and what came.

    Examples
    --------
    >>> from reattend.methods import ACT
    >>> check_shares(ACT(), "beta", "theta")
    """
    for name in names:
        if not 0 <= number(method, name) <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {getattr(method, name)!r}")


def integers(name: str, values: Any) -> tuple[int, ...]:
    """Give a parameter that must be a sequence of integers.

    Parameters
    ----------
    name : str
        The parameter's.
    values : sequence of int
        What the user gave.

    Raises
    ------
    TypeError
        If it is anything else; a number with a fraction is not cut off.

    Examples
    --------
    >>> integers("layers", [1, np.int64(2)])
    (1, 2)
    """
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        raise TypeError(f"{name} must hold integers, got {values!r}") from None


def paper(method: type[Method]) -> str:
    """Give the paper a method names in its docstring, empty if it names none.

    Parameters
    ----------
    method : type
        A subclass of `Method`.

    Examples
    --------
    >>> paper(Method)
    ''
    """
    text = re.sub(r"``.*?``", "", method.__doc__ or "")
    found = re.search(r"^\s*Paper:\s*(.+?)(?:\n\s*\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def registered() -> dict[str, type[Method]]:
    """Give the package's methods by name, in alphabetical order.

    Examples
    --------
    >>> import reattend.methods
    >>> list(registered())  # doctest: +ELLIPSIS
    ['ACT', 'ADHH', ..., 'VAR', 'VHR']
    """
    ours = {
        name: m for name, m in _registry.items() if m.__module__.startswith("reattend.methods.")
    }
    return dict(sorted(ours.items()))


def _venue(source: str) -> str:
    """Give where a paper is found: its conference, else its number at arXiv, else its year."""
    found = re.search(r"\(([^()]*\d{4})\)(?:, (arXiv [\d.]+\d))?", source)
    if found is None:
        return source.rstrip(".")
    return found[2] if found[1].isdigit() and found[2] else found[1]


def method_table(costs: Mapping[str, Sequence[str]] | None = None) -> str:
    """Write the table of methods in Markdown, as the README shows it; each page has the rest.

    Parameters
    ----------
    costs : mapping of str to (str, str), optional
        What each method takes, times plain attention: at a prompt, and in a step.

    Examples
    --------
    >>> import reattend.methods
    >>> print(method_table().splitlines()[0])
    | method | what it does | edits | statistic | paper |
    """
    heading = ["method", "what it does", "edits", "statistic", "paper"]
    heading += ["prompt", "step"] if costs else []
    rows = [heading, ["---"] * len(heading)]
    for name, method in registered().items():
        sentence = (method.__doc__ or "").strip().splitlines()[0].rstrip(".")
        cost = costs.get(name, ("", "")) if costs else ()
        page = f"[`{name}`](docs/methods/{name.lower()}.rst)"
        rows.append([page, sentence, method.edits, method.statistic, _venue(paper(method)), *cost])
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines)
