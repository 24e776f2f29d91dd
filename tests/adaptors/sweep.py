"""Every family of transformers, tiny and random: attached, it gives what it must.

`nice python tests/adaptors/sweep.py` sweeps all, with names those families, `multimodal` or `text`,
and puts each row into rows.json and docs/models.md as it comes out. `--rest` leaves out what was
swept at this commit, so it goes on with a sweep that was stopped. One takes 10 seconds or so.
Gemma 3n, FastVLM and PerceptionLM have towers of timm, and keep their rows where that is not.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
import transformers as hf
from beside import Beside, beside
from given import Given, given
from reattend.adaptors.transformers import attached
from rows import ROWS, UNBUILT, Row, store, stored
from runs import KINDS
from tiny import MEDIA, MENDED, TEXT, model_of

# Each method in the first of these ways in which it has something to do.
METHODS: dict[str, list[dict[str, Any]]] = {
    "VAR": [
        {"sink_dims": dims, "tau": 0.15, "p": 0.3, "rho": 0.1, "image_mass": 0.02}
        for dims in ((3, 7), (1,), (12,), (20,), (33,), (41,), (50,))
    ]
    + [
        {"sink_dims": (dim,), "tau": tau, "p": 0.3, "rho": 0.02, "image_mass": 0.001}
        for tau in (0.3, 0.05)
        for dim in (5, 17, 29, 47)
    ],
    "ACT": [{"theta": theta, "beta": 0.4} for theta in (0.08, 0.03, 0.015)],
    "VHR": [{"alpha": 2.0}],
}
STEPS, TOLERANCE = 8, 5e-5
BARRED = -1e30  # what some models give a token that must not come, as Chameleon does images'
WAYS: dict[str, dict[str, Any]] = {
    "dynamic cache": {},
    "static cache": {"cache_implementation": "static"},
    "2 beams": {"num_beams": 2, "num_return_sequences": 1},
}


def generated(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """Generate greedily."""
    return model.generate(
        **inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


def difference(before: Any, now: Any) -> float:
    """Give the largest difference of logits, relative to the largest logit; inf: other tokens."""
    if not torch.equal(before.sequences, now.sequences):
        return float("inf")
    pairs = zip(before.logits, now.logits, strict=True)
    finite = [(a * (a > BARRED), b * (b > BARRED)) for a, b in pairs]  # not barred
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in finite)


def swept(family: str, ways: tuple[str, ...] = tuple(WAYS)) -> Row:
    """Hold a family without methods against itself, and with each method against its formula."""
    try:
        model = model_of(family)
        what = given(model)
        plain = generated(model, what.inputs)
    except Exception as error:
        return Row(family, UNBUILT, why=_short(error), transformers=hf.__version__)
    before = {"dynamic cache": plain}
    for way in ways:
        try:
            before.setdefault(way, generated(model, what.inputs, **WAYS[way]))
        except Exception:
            continue  # the model itself does not know this way
    row = Row(family, "exact", what.pictures, transformers=hf.__version__, beside=_tower_of(model))
    try:
        with attached(model) as session:
            off = max(
                difference(expected, generated(model, what.inputs, **WAYS[way]))
                for way, expected in before.items()
            )
    except NotImplementedError as error:
        return row._replace(result="refused", why=_short(error))
    except Exception as error:
        return row._replace(result="wrong", why=f"{type(error).__name__}: {_short(error)}")
    if not off <= TOLERANCE:
        return row._replace(result="wrong", why=f"logits differ by {off:.0e}")
    row = row._replace(off=off, methods=_layers(session.structure))
    try:
        found = {name: _with(name, model, what, tuple(before)) for name in METHODS}
    except NotImplementedError as error:
        return row._replace(result="exact without methods", methods="", why=_short(error))
    except Exception as error:
        return row._replace(result="wrong", why=f"{type(error).__name__}: {_short(error)}")
    wrong = [said for each, _ in found.values() for said in each]
    if wrong:
        return row._replace(result="wrong", why="; ".join(wrong))
    idle = [name for name, (_, some) in found.items() if not some]
    said = [MENDED.get(family, ""), f"{' and '.join(idle)} had nothing to do" if idle else ""]
    return row._replace(why="; ".join(filter(None, said)))


def _tower_of(model: Any) -> str:
    """Name the package that built a model's tower, if another one did."""
    borrowed = any(type(part).__name__ == "TimmWrapperModel" for part in model.modules())
    return f"timm {version('timm')}" if borrowed else ""


def can_be_built(row: Row) -> bool:
    """Whether this environment has what a row's model was built with."""
    other = bool(row.transformers) and row.transformers != hf.__version__
    return not other and (not row.beside or find_spec(row.beside.split()[0]) is not None)


def _layers(structure: Any) -> str:
    count = len(structure.attention) + len(structure.cross)
    across = f", {len(structure.cross)} of them across" if structure.cross else ""
    return f"{count} of {structure.num_layers} layers{across}"


def _with(name: str, model: Any, what: Given, ways: tuple[str, ...]) -> tuple[list[str], bool]:
    """Hold a method against its formula, in each layer, of the prompt and of each step.

    Gives what is wrong, and whether the formula had something to do.
    """
    structure = attached(model).structure
    layers = tuple(sorted({*structure.attention, *structure.cross}))
    for choice in METHODS[name]:
        how = {**choice, **({"layers": tuple(at for at in layers if at)} if name == "VHR" else {})}
        block = attached(model, KINDS[name](**how), image=None if what.pictures else what.image)
        oracle = Beside(model, block.structure, {name: how}, what.image, what.holders)
        oracle.one_valid = what.inputs["attention_mask"].bool().numpy()
        if name == "VHR":
            with torch.no_grad(), attached(model), beside(oracle):
                oracle.read_text(what.inputs["input_ids"], what.inputs["attention_mask"])
        wrong = []
        with block, beside(oracle):
            for way in ways:
                oracle.off, oracle.calls = 0.0, 0
                generated(model, what.inputs, **WAYS[way])
                if not oracle.off <= TOLERANCE:
                    wrong.append(f"{name}, {way}: a layer is {oracle.off:.0e} off its formula")
                elif oracle.calls < STEPS * len(layers):
                    wrong.append(f"{name}, {way}: {oracle.calls} calls were seen")
                if not oracle.changed[name]:
                    break
        if wrong or oracle.changed[name]:
            break
    return wrong, bool(oracle.changed[name])


def _short(error: Exception) -> str:
    words = " ".join(str(error).replace("|", "/").split())
    return words if len(words) <= 160 else words[:157] + "..."


def families() -> dict[str, list[str]]:
    """Give the families; a composite's language model is a family of its own."""
    text = [name for name in sorted(TEXT) if not hf.CONFIG_MAPPING[name].sub_configs]
    return {"multimodal": sorted(MEDIA), "text": [name for name in text if name not in MEDIA]}


def keep(row: Row) -> None:
    """Put a row into the table; what cannot be built here keeps the row of where it could."""
    table = stored()
    kind = next(kind for kind, names in families().items() if row.family in names)
    rows = table.setdefault(kind, {})
    old = rows.get(row.family)
    lost = row.result == UNBUILT and old is not None and old.result != UNBUILT
    if not lost or can_be_built(old):
        rows[row.family] = row
    store(table)


def this_commit() -> str:
    """Give the last commit that changed the package, and its day."""
    top = str(ROWS.parents[2])
    command = ["git", "-C", top, "log", "-1", "--format=%h of %cs", "--", "python/reattend", "cpp"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    hf.logging.set_verbosity_error()
    torch.set_num_threads(1)
    known, names = families(), [name for name in sys.argv[1:] if name != "--rest"]
    commit = this_commit()
    done = {
        row.family
        for rows in stored().values()
        for row in rows.values()
        if "--rest" in sys.argv and row.swept == commit
    }
    for family in [each for name in names or known for each in known.get(name, [name])]:
        if family not in done:
            found = swept(family)._replace(swept=commit)
            print(found.markdown(hf.__version__), flush=True)
            keep(found)
