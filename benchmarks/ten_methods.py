"""What ten methods, and three settings at the logits, do to hallucination in the package's model.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/ten_methods.py --out ten_methods

tunes each strength on scenes of the split ``tune`` (`reattend.evaluation.calibration.tune`: what
hallucinates least at equal recall; where nothing is better than plain, the best of them), then lets
all describe scenes of the split ``test`` and answer questions about them. NAME.json and NAME.md are
written, and journals from which it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reattend import decoding, methods
from reattend.evaluation.calibration import AnswerDescriptions, Described, tune
from reattend.evaluation.datasets import load_dataset
from reattend.evaluation.datasets.emoji_world.cases import Cell
from reattend.evaluation.report.score_tables import write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.evaluation.runner.evaluate import evaluate
from reattend.evaluation.runner.progress import ProgressBar
from reattend.evaluation.runner.second_branch import Change
from reattend.models import read_vision_language
from reattend.whole_file import whole_file

# The paper's own first, then weaker ones: the model is small, and strengths are for 7 billion.
# What is constant stands in `FIXED`: the heads of AD-HH and CAAC's strength, which is that of the
# confidence where a loop tells it.
GRID: dict[str, dict[str, Sequence[Any]]] = {
    "PAI": {"alpha": (0.5, 0.2, 0.05)},
    "VAF": {"enhance": (1.15, 1.05, 1.3)},
    "SPIN": {"gamma": (0.08, 0.5, 0.8)},
    "ADHH": {"threshold": (0.4, 0.6, 0.8)},
    "EAH": {"threshold": (0.002, 0.01, 0.05)},
    "ScalingVis": {"w": (0.5, 1.2, 0.9)},
    "FarSight": {"sigma": (0.8, 1.6, 3.2)},
    "CAAC": {"strength": (1.5, 1.2, 1.05)},
    "OWL": {"alpha": (0.4, 0.1, 0.03)},
    "MiddleLayers": {"alpha": (0.5, 0.2, 0.05)},
    "VCD": {"alpha": (1.0, 0.5, 0.2)},
    "ICD": {"alpha": (1.0, 0.5, 0.2)},
    "M3ID": {"lamb": (0.02, 0.1, 0.005)},
}
FIXED: dict[str, dict[str, Any]] = {"ADHH": {"heads": None}}
CELLS = (Cell("dim"), Cell("dim", long=True))  # prompts are short, and much is hallucinated


class Shared:
    """Descriptions of one method's strengths; the plain ones are made once, for all methods."""

    def __init__(self, describe: AnswerDescriptions, plain: dict[range, list[Described]]) -> None:
        self._describe, self._plain = describe, plain

    def identity(self) -> dict[str, Any]:
        """Say what decides the descriptions."""
        return self._describe.identity()

    def __call__(self, parameters: Mapping[str, Any] | None, samples: range) -> list[Described]:
        """Describe samples."""
        if parameters is not None:
            return self._describe(parameters, samples)
        if samples not in self._plain:
            self._plain[samples] = self._describe(None, samples)
        return self._plain[samples]


def main() -> None:
    """Tune, evaluate, and write what came out."""
    parser = argparse.ArgumentParser(prog="ten_methods", description=__doc__)
    parser.add_argument("--tuned-on", type=int, default=8, metavar="N", help="scenes")
    parser.add_argument("--scenes", type=int, default=32, metavar="N", help="to be described")
    parser.add_argument("--asked", type=int, default=16, metavar="N", help="scenes asked about")
    parser.add_argument("--batch", type=int, default=16, metavar="N")
    parser.add_argument("--only", metavar="NAMES", help="leave the others out")
    parser.add_argument(
        "--tune", metavar="NAMES", help="tune these alone, and stop: beside a run that does all"
    )
    parser.add_argument("--out", type=Path, default=Path("ten_methods"), metavar="NAME")
    options = parser.parse_args()
    answerer = VisionLanguageAnswerer(read_vision_language())
    some = options.only if options.tune is None else options.tune
    names = [*GRID] if some is None else some.split(",")
    chosen = _tuned(answerer, names, options)
    if options.tune is not None:
        return
    settings: dict[str, list[Change]] = {"plain": []}
    for name, found in chosen.items():
        settings[name] = [_built(name, found["parameters"])]
    results: dict[str, Any] = {"tuned": chosen}
    text = [_strengths(chosen)]
    for kind, scenes in (
        ("emoji-world", options.scenes),
        ("emoji-world-questions", options.asked),
    ):
        data = load_dataset(kind, scenes=scenes, split="test", cells=CELLS)
        journal = options.out.with_name(f"{options.out.name}.{kind}.jsonl")
        found = evaluate(
            data, answerer, settings, journal, batch=options.batch, progress=ProgressBar(kind)
        )
        results[kind] = score(found)
        text.append(write_scores(results[kind]))
        _write(options.out, results, text)


def _tuned(
    answerer: VisionLanguageAnswerer, names: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    data = load_dataset("emoji-world", scenes=options.tuned_on, split="tune", cells=CELLS)
    plain: dict[range, list[Described]] = {}
    chosen = {}
    for name in names:

        def build(parameters: Mapping[str, Any], name: str = name) -> Change:
            return _built(name, parameters)

        describe = AnswerDescriptions(data, answerer, build, batch=options.batch)
        journal = options.out.with_name(f"{options.out.name}.{name}.jsonl")
        found = tune(
            Shared(describe, plain), GRID[name], options.tuned_on, journal=journal,
            progress=ProgressBar(name),
        )  # fmt: skip
        best = min(found.trials, key=lambda trial: trial.excess.value)
        chosen[name] = {
            "parameters": best.parameters, "excess": [*best.excess], "verdict": found.verdict,
            "trials": [[trial.parameters, [*trial.excess]] for trial in found.trials],
        }  # fmt: skip
    return chosen


def _built(name: str, parameters: Mapping[str, Any]) -> Change:
    build: Any = getattr(methods, name, None) or getattr(decoding, name)
    change: Change = build(**{**FIXED.get(name, {}), **parameters})
    return change


def _strengths(chosen: Mapping[str, Any]) -> str:
    lines = ["| method | strength | hallucinated at equal recall, where it was tuned |"]
    lines.append("| --- | --- | --- |")
    for name, found in chosen.items():
        strength = ", ".join(f"{key}={value}" for key, value in found["parameters"].items())
        value, low, high = (100 * each for each in found["excess"])
        lines.append(f"| {name} | {strength} | {value:+.1f} [{low:+.1f}, {high:+.1f}] |")
    return "\n".join(lines) + "\n"


def _write(out: Path, results: Mapping[str, Any], text: Sequence[str]) -> None:
    for path, content in (
        (out.with_name(f"{out.name}.json"), json.dumps(results, indent=1) + "\n"),
        (out.with_name(f"{out.name}.md"), "\n".join(text)),
    ):
        with whole_file(path) as partial:
            partial.write_text(content, "utf-8")


if __name__ == "__main__":
    main()
