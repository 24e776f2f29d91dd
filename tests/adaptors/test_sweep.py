"""A part of the sweep over transformers' families, and what it found once."""

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

import rows  # noqa: E402
from beside import Beside, beside  # noqa: E402
from given import given  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.methods import ACT, VAR, VHR  # noqa: E402
from rows import BEGIN, END, PAGE, UNBUILT, Row, store, stored, tables  # noqa: E402
from runs import generate  # noqa: E402
from sweep import can_be_built, difference, families, keep, swept  # noqa: E402
from tiny import model_of  # noqa: E402

EXACT = {
    "bamba": "", "diffllama": "", "gemma3n_text": "", "minimax": "", "olmo_hybrid": "", "hy_v4": "",
    "inkling2_text": "", "longcat_flash": "", "phimoe": "", "mllama": "cross-attention",
    "chameleon": "square", "cohere2_vision": "square, with its size",
    "gemma4": "patches with their places", "glm5_next": "patches",
    "granite4_vision": "tiles and an overview",
    "idefics2": "parts", "lfm2_vl": "patches in their own shape",
    "minicpmv4_6": "patches in a strip", "molmo2": "crops, pooled", "ovis2": "square",
    "paligemma": "square", "qwen3_5": "patches",
}  # fmt: skip


def test_the_page_is_what_came_out():
    """docs/models.md is written from rows.json, which has a row for every family."""
    table = stored()
    _, _, shown = PAGE.read_text().partition(BEGIN)
    assert shown.partition(END)[0] == tables(table)
    found = [row for each in table.values() for row in each.values()]
    assert {row.result for row in found} <= {"exact", "exact without methods", "refused", UNBUILT}
    assert all(row.why for row in found if row.result != "exact")
    if hf.__version__ == max(row.transformers for row in found):
        assert {kind: sorted(each) for kind, each in table.items()} == families()


ASKED_FOR = [
    "qwen3_5", "qwen3_vl", "internvl", "gemma3", "gemma3n", "gemma4", "llama4", "mistral3",
    "paligemma", "mllama", "lfm2_vl", "smolvlm", "granite4_vision", "llava_next", "aya_vision",
    "glm4v", "ovis2", "deepseek_vl", "minicpmv4_6", "molmo2",
]  # fmt: skip


def test_the_models_that_are_asked_for_most_are_exact_with_pictures():
    table = stored()["multimodal"]
    assert [(name, table[name].result) for name in ASKED_FOR] == [
        (name, "exact") for name in ASKED_FOR
    ]
    assert all(table[name].picture for name in ASKED_FOR)
    found = [row for rows in stored().values() for row in rows.values() if row.result != UNBUILT]
    assert sum(row.result == "exact" for row in found) >= 0.85 * len(found)


def test_rows_that_were_swept_by_another_version(tmp_path, monkeypatch):
    """What this version cannot run keeps its row; what it can gets a new one."""
    monkeypatch.setattr(rows, "ROWS", tmp_path / "rows.json")
    monkeypatch.setattr(rows, "PAGE", tmp_path / "models.md")
    rows.PAGE.write_text(f"before {BEGIN}{END} behind")
    old = Row("llama", "exact", off=1e-7, transformers="5.0.0")
    store({"text": {"llama": old}})
    keep(Row("llama", UNBUILT, why="no", transformers="5.1.0"))
    assert stored() == {"text": {"llama": old}}
    keep(Row("llama", "refused", why="no", transformers="5.1.0", swept="abc of a day"))
    keep(old._replace(family="qwen2"))
    tower = Row("gemma3n_text", "exact", transformers=hf.__version__, beside="no_such 1.0")
    keep(tower)
    keep(Row("gemma3n_text", UNBUILT, why="no", transformers=hf.__version__))
    assert stored()["text"]["gemma3n_text"] == tower
    assert [row.result for row in stored()["text"].values()] == ["exact", "refused", "exact"]
    assert "| gemma3n_text | exact |  | 0e+00 |  | with no_such 1.0 |" in rows.PAGE.read_text()
    assert "| qwen2 | exact |  | 1e-07 |  | with transformers 5.0.0 |" in rows.PAGE.read_text()
    assert "Swept at commit abc of a day; gemma3n_text, qwen2: before." in rows.PAGE.read_text()


@pytest.mark.parametrize("family", EXACT)
def test_families_are_exact_with_and_without_methods(family):
    row = swept(family, ("static cache",))
    expected = "exact without methods" if family == "diffllama" else "exact"
    assert (row.result, row.picture) == (expected, EXACT[family]), row
    known = {**stored()["text"], **stored()["multimodal"]}[family]
    if known.transformers == row.transformers:
        assert row.finding() == known.finding()


@pytest.mark.nightly
@pytest.mark.parametrize("family", [name for names in families().values() for name in names])
def test_every_row_comes_out_anew(family):
    known = {**stored()["text"], **stored()["multimodal"]}[family]
    if not can_be_built(known):
        pytest.skip(f"swept with transformers {known.transformers} {known.beside}")
    assert swept(family).finding() == known.finding()


@pytest.mark.parametrize("family", ["bamba", "qwen3_5"])
def test_hybrids_read_prompts_in_chunks_and_skip_layers_without_attention(family):
    """The states of its recurrent layers go on; VHR, which compares whole prompts, refuses.

    A layer that a method names and that has no attention is skipped, and the report says so.
    """
    model = model_of(family)
    what = given(model)
    image = None if what.pictures else what.image
    var = VAR(sink_dims=(3, 7), tau=0.15, p=0.3, rho=0.1, image_mass=0.02)
    with attached(model, var, image=image):
        whole = generate(model, what.inputs, 4)
        chunks = generate(model, what.inputs, 4, prefill_chunk_size=9)
    assert difference(whole, chunks) < 5e-5
    with attached(model, VHR(alpha=2.0, layers=(1, 2)), image=image) as session:
        generate(model, what.inputs, 2)
        report = session.report()
    assert report.skipped == tuple(at for at in range(5) if at not in session.structure.attention)
    assert {reading.layer for reading in report.readings} <= set(session.structure.attention)
    said = f"which methods skip: {', '.join(map(str, report.skipped))}"
    assert said in str(report)
    assert report.to_dict()["skipped"] == list(report.skipped) != []
    with (
        attached(model, VHR(alpha=2.0), image=image),
        pytest.raises(ValueError, match="read in one call"),
    ):
        generate(model, what.inputs, 2, prefill_chunk_size=9)


def test_a_formula_that_is_not_held_is_said(monkeypatch):
    """The sweep itself can fail: a method that computes something else is found out."""
    from reattend.methods import act

    monkeypatch.setattr(act.ACT, "_policy", act.Reweight(weight=(1, 0.41), to=(act.REST,)))
    row = swept("llama", ())
    assert row.result == "wrong"
    assert "ACT, dynamic cache: a layer is" in row.why


def test_a_kosmos_and_a_paligemma_read_a_text_of_a_padded_batch_as_alone():
    """One counts positions from its padding token, the other reads a prompt in both directions."""
    alone = hf.__version__.startswith("5.23.")  # there Kosmos-2 reads no text without a picture
    for family in ("paligemma",) if alone else ("kosmos-2", "paligemma"):
        row = swept(family, ())
        assert row.result == "exact", row


def test_act_moves_logits_of_chameleon():
    """It bars image tokens by the lowest float: a largest logit is nothing to compare with."""
    model = model_of("chameleon")
    what = given(model)
    plain = generate(model, what.inputs, 4)
    assert plain.logits[0].min() < -1e30
    with attached(model, ACT(theta=0.03)) as session:
        changed = generate(model, what.inputs, 4)
    assert session.report().idle == ()
    assert difference(plain, changed) > 1e-4


def test_var_has_nothing_to_do_in_a_tiny_idefics2():
    """Nor has its formula on the full matrix: it was no fault that no logit moved."""
    model, how = model_of("idefics2"), {"sink_dims": (3, 7), "tau": 0.15, "image_mass": 0.02}
    what = given(model)
    block = attached(model, VAR(**how))
    oracle = Beside(model, block.structure, {"VAR": {**how, "p": 0.6, "rho": 0.5}}, what.image)
    oracle.one_valid = what.inputs["attention_mask"].bool().numpy()
    with block as session, beside(oracle):
        generate(model, what.inputs, 4)
    assert oracle.changed["VAR"] == 0
    assert oracle.off < 5e-5
    assert session.report().idle == ("VAR",)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("blip", "does not route its attention through transformers' AttentionInterface"),
        ("diffusion_gemma", "was called without input_ids and inputs_embeds"),
        ("zamba2", r"passes one attention \(Zamba2Attention\) in several layers"),
    ],
)
def test_families_that_are_refused(family, sentence):
    model = model_of(family)
    what = given(model)
    with pytest.raises(NotImplementedError, match=sentence), attached(model):
        generate(model, what.inputs, 2)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("florence2", "is an encoder with a decoder"),
        ("hrm_text", "has two attentions in layer 0 .* methods name an attention by its layer"),
        ("idefics", "sees pixel_values through cross-attention that stays its own"),
        ("t5gemma2", "attends to its own past and to an encoder in one softmax"),
    ],
)
def test_families_that_take_no_methods_are_exact_without(family, sentence):
    row = swept(family, ("static cache",))
    assert row.result == "exact without methods", row
    model = model_of(family)
    inputs = given(model).inputs
    with (
        pytest.raises(NotImplementedError, match=sentence),
        attached(model, VAR(sink_dims=(3,), tau=1)),
    ):
        generate(model, inputs, 2)
