"""POPE: is a thing in the picture, yes or no? Rules that read an answer, and what is counted.

Public scorers read the same answer differently, and an answer that is neither yes nor no counts
differently as well. So the rule is an argument, and what it could not read is a count of its own.
Paper: Evaluating Object Hallucination in Large Vision-Language Models (EMNLP 2023).
"""

from __future__ import annotations

import re

from reattend.evaluation.metrics.counts import QUESTION_MEASURES, Question, count_questions

RULES = ("official", "first", "exact", "logits")
POPE_MEASURES: dict[str, tuple[str, str]] = {
    **QUESTION_MEASURES,
    "unparsed": ("unparsed", "asked"),
}
_YES_OR_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def read_yes_no(text: str, rule: str = "official", margin: float | None = None) -> bool | None:
    """Read an answer as yes or no.

    Parameters
    ----------
    text : str
        The answer.
    rule : {"official", "first", "exact", "logits"}, optional
        ``"official"``: no, if one of the words before the first full stop is No, no or not (in
        these letters), else yes, also for an empty answer; ``"first"``: whichever of the words yes
        and no comes first; ``"exact"``: the whole answer, blanks aside; ``"logits"``: whether the
        logit of Yes is above that of No, whatever the answer says.
    margin : float, optional
        By how much the logit of Yes is above that of No, for ``"logits"``.

    Returns
    -------
    bool or None
        None where the rule can read neither.

    Raises
    ------
    ValueError
        If there is no such rule, or ``"logits"`` has no margin, or NaN as one.

    Examples
    --------
    >>> [read_yes_no("NO, there is none.", rule) for rule in ("official", "first", "exact")]
    [True, False, None]
    """
    check_rule(rule)
    if rule == "official":
        words = text.split(".")[0].replace(",", "").split(" ")
        return not {"No", "no", "not"} & set(words)
    if rule == "logits":
        if margin is None or margin != margin:
            got = "none" if margin is None else margin
            raise ValueError(
                f"rule 'logits' needs answers with a margin of yes above no, got {got}"
            )
        return margin > 0
    if rule == "first":
        found = _YES_OR_NO.search(text)
        return None if found is None else found[1].lower() == "yes"
    return {"yes": True, "no": False}.get(text.strip().lower())


def check_rule(rule: str) -> None:
    """Raise ValueError if there is no such rule of `read_yes_no`."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")


def count_yes_no(there: bool, yes: bool | None) -> dict[str, float]:
    """Count what `POPE_MEASURES` need of one question; yes is the positive class.

    An answer that could not be read is wrong on either side: it is no yes, and it counts among what
    recall should have found.

    Parameters
    ----------
    there : bool
        Whether the thing is in the picture.
    yes : bool or None
        Of `read_yes_no`.

    Examples
    --------
    >>> counts = count_yes_no(True, None)
    >>> counts["right"], counts["unparsed"], counts["asked_there"]
    (0.0, 1.0, 1.0)
    """
    if yes is None:
        counts = count_questions([Question(there, not there)])
        wrong_yes = float(not there)
        counts["yes"] -= wrong_yes
        counts["yes_and_there"] -= wrong_yes
        return {**counts, "unparsed": 1.0}
    return {**count_questions([Question(there, yes)]), "unparsed": 0.0}
