"""Every model: with no method it is as before, with each method it equals the formula."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from models import IMAGE, MODELS, Model  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.methods import ACT  # noqa: E402
from runs import KINDS, METHODS, check_formula, generate, tokens  # noqa: E402
from table import parts  # noqa: E402

STEPS = 6

each_model = pytest.mark.parametrize("case", MODELS, ids=str)
each_method = pytest.mark.parametrize("name", METHODS)


@each_model
def test_without_a_method_it_is_as_before(case: Model):
    model, inputs = case.load(), case.inputs()
    assert model.get_decoder().config._attn_implementation == case.plain
    plain = generate(model, inputs, 32)
    with attached(model):
        ours = generate(model, inputs, 32)
    assert torch.equal(plain.sequences, ours.sequences)
    for before, now in zip(plain.logits, ours.logits, strict=True):
        assert (before - now).abs().max() < 1e-4
    after = generate(model, inputs, 32)
    assert all(torch.equal(*pair) for pair in zip(plain.logits, after.logits, strict=True))


@each_method
@each_model
def test_a_method_equals_its_formula(case: Model, name: str, table):
    inputs = case.inputs()
    session = check_formula(case, name, inputs, STEPS)
    table.note(case, name, session)


@each_method
@each_model
def test_a_batch_gives_each_prompt_what_it_gets_alone(case: Model, name: str):
    model, method = case.load(), KINDS[name](**METHODS[name])
    whole = case.inputs()
    with attached(model, method):
        together = tokens(model, whole, STEPS)
        alone = [tokens(model, case.inputs((item,)), STEPS)[0] for item in (0, 1)]
    assert together == alone


@each_model
def test_it_finds_the_layers_and_the_image(case: Model):
    model, inputs = case.load(), case.inputs()
    with attached(model, ACT({})) as session:
        tokens(model, inputs, 1)
        assert session.structure.image_token in (IMAGE, None)
        expected = case.shown(inputs["input_ids"]).numpy()
        for row, spans in zip(expected, session.image_spans, strict=False):
            marked = np.zeros_like(row)
            for start, end in spans:
                marked[start:end] = True
            assert (row == marked).all()
        assert bool(session.image_spans) == bool(case.image)
        assert session.structure.num_layers == 5
        assert session.structure.num_heads == 4


def test_the_table_is_what_the_tests_found(table):
    if len(table.rows) <= len(MODELS) or any(len(r["methods"]) < 3 for r in table.rows.values()):
        pytest.skip("needs the tests of all models")
    found = table.markdown()
    assert parts()[1] == found, f"run python tests/adaptors/table.py; it must be:\n\n{found}"
