"""What the benchmarks are to show: a list of goals, each read from a run or from the study."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from results import Measured, Run, Study, over

P640, P2048 = "llava-1.5-7b prefill 640", "llava-1.5-7b prefill 2048"
SMALL, D64 = "smollm2-135m prefill 512", "smollm2-135m decode 64"
D4096 = "llava-1.5-7b decode 4096"
DECODES = (D4096, "llama3-llava-next-8b decode 4096", "smollm2-135m decode 4096")
PLAIN = ("reattend", "plain")
Value = Callable[[Run, Study | None], float | None]


class Goal(NamedTuple):
    what: str
    case: str
    sign: str  # >= or <=
    bound: float
    value: Value
    unit: str = "x"  # or %

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def number(self, value: float) -> str:
        """Write a value of it."""
        return f"{value:.0%}" if self.unit == "%" else f"{value:.2f}x"


def against(case: str, peer: str, ours: str = "plain", theirs: str = "plain") -> Value:
    """How many times longer a peer takes."""
    return lambda run, _: run[case].ratio((peer, theirs), ("reattend", ours))


def cost(case: str, method: str) -> Value:
    """How many times longer than plain attention ours takes with a method."""
    return lambda run, _: run[case].ratio(("reattend", method), PLAIN)


def share(case: str) -> Value:
    """What part of the rate that bounds the case ours reaches."""
    return lambda run, _: run[case].share()


def than_float32(case: str) -> Value:
    """How many times longer our float32 takes than our bfloat16."""
    return lambda run, _: over(run[case].time(), run[f"{case} bfloat16"].time())


def accuracy(dtype: str) -> Value:
    """Our largest error against float64, in units of the eager path's; the worst case."""

    def of(case: Measured) -> float | None:
        return over(case.error(), case.eager_error()) if case.fields["dtype"] == dtype else None

    def worst(run: Run, _: Study | None) -> float | None:
        ratios = [ratio for case in run.cases.values() if (ratio := of(case)) is not None]
        return max(ratios, default=None)

    return worst


def less_memory(length: int) -> Value:
    """How many times more memory eager torch takes than ours, both with VAR, at prefill."""

    def value(_: Run, study: Study | None) -> float | None:
        peaks = [_peak(study, name, length) for name in ("torch eager, VAR", "reattend, VAR")]
        return over(*peaks)

    return value


def growth(short: int, long: int) -> Value:
    """How many times more memory column sums take at a longer prompt."""
    name = "reattend, column sums"
    return lambda _, study: over(_peak(study, name, long), _peak(study, name, short))


def _peak(study: Study | None, candidate: str, length: int) -> float | None:
    return None if study is None else dict(study.memory("prefill", candidate)).get(length)


SDPA = "against torch SDPA"
GOALS = (
    Goal(SDPA, P640, ">=", 1.8, against(P640, "torch-sdpa")),
    Goal(SDPA, P2048, ">=", 1.5, against(P2048, "torch-sdpa")),
    Goal(SDPA, SMALL, ">=", 2.0, against(SMALL, "torch-sdpa")),
    *(Goal(SDPA, case, ">=", 2.4, against(case, "torch-sdpa")) for case in DECODES),
    Goal(SDPA, D64, ">=", 3.0, against(D64, "torch-sdpa")),
    Goal("of oneDNN's own tile rate", P2048, ">=", 0.85, share(P2048), "%"),
    *(Goal("of the read bandwidth", case, ">=", 0.9, share(case), "%") for case in DECODES),
    Goal(
        f"{SDPA}, bfloat16", P2048, ">=", 2.0, against(f"{P2048} bfloat16", "torch-sdpa")
    ),
    *(
        Goal(f"{SDPA}, bfloat16", case, ">=", 8.0, against(f"{case} bfloat16", "torch-sdpa"))
        for case in DECODES
    ),
    Goal("bfloat16 against our float32", P2048, ">=", 1.5, than_float32(P2048)),
    *(
        Goal("bfloat16 against our float32", case, ">=", 1.8, than_float32(case))
        for case in DECODES
    ),
    *(Goal("VAR on plain", case, "<=", 1.03, cost(case, "VAR")) for case in (P640, P2048)),
    Goal("VAR on plain", D4096, "<=", 1.05, cost(D4096, "VAR")),
    *(Goal("VHR on plain", case, "<=", 1.01, cost(case, "VHR")) for case in (P640, P2048, D4096)),
    *(
        Goal("ACT, 10% of heads, on plain", case, "<=", 1.08, cost(case, "ACT-10%"))
        for case in (P640, P2048, D4096)
    ),
    *(
        Goal("ACT, all heads, on plain", case, "<=", 1.6, cost(case, "ACT"))
        for case in (P640, P2048, D4096)
    ),
    *(
        Goal("column sums on plain", case, "<=", 1.6, cost(case, "column_sums"))
        for case in (P640, P2048)
    ),
    *(
        Goal("eager torch, both with VAR", case, ">=", bound,
             against(case, "torch-eager", "VAR", "VAR"))
        for case, bound in ((P640, 8.0), (P2048, 9.0), (D4096, 2.5))
    ),
    *(
        Goal(f"{peer}, ours with VAR", case, ">=", bound, against(case, name, "VAR", theirs))
        for peer, name, theirs in (
            ("FlexAttention without", "torch-flex", "plain"),
            ("SDPA with one-hot columns", "torch-one-hot", "masses"),
        )
        for case, bound in ((P640, 1.8), (P2048, 1.5), (D4096, 2.0))
    ),
    Goal("memory of eager torch, both with VAR", "prefill 4096, 8 heads", ">=", 20,
         less_memory(4096)),
    Goal("memory of column sums, four times the rows", "prefill 4096 to 16384", "<=", 5,
         growth(4096, 16384)),
    Goal("error, to NumPy's eager float32", "worst case, float32", "<=", 2, accuracy("float32")),
    Goal("error, to torch SDPA's", "worst case, bfloat16", "<=", 2, accuracy("bfloat16")),
    Goal("error, to torch SDPA's", "worst case, float16", "<=", 2, accuracy("float16")),
)  # fmt: skip
