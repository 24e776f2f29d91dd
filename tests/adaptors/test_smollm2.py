"""SmolLM2-135M with its real weights: real sinks, real text."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from models import Model  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.methods import ACT, VAR  # noqa: E402
from reattend.models import ModelFile, Tokenizer, find_smollm2, read_llama  # noqa: E402
from reattend.testing.torch_llama import torch_llama  # noqa: E402
from runs import check_formula, generate, tokens  # noqa: E402

TEXT = (
    "The lighthouse keeper counted the ships every morning. On the first day there were three, on "
    "the second day there were five, and on the third day the fog hid them all, so he counted the"
)


def read():
    """Give the model, or skip."""
    pytest.importorskip("gguf")
    try:
        file = ModelFile(find_smollm2())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return torch_llama(read_llama(file), eos_token_id=2, pad_token_id=2)


SMOLLM2 = Model("SmolLM2-135M, its weights", read)
METHODS = {
    "VAR": {"sink_dims": (507,), "tau": 0.54, "p": 0.6, "rho": 0.1, "image_mass": 0.01},
    "ACT": {"theta": 0.1, "beta": 0.4},
    "VHR": {"alpha": 2.0, "layers": (1, *range(17, 30))},
}


@pytest.fixture(scope="module")
def model():
    return SMOLLM2.load()


@pytest.fixture(scope="module")
def inputs():
    ids = torch.tensor([Tokenizer(ModelFile(find_smollm2())).encode(TEXT)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_without_a_method_it_is_as_before(model, inputs):
    plain = generate(model, inputs, 32)
    with attached(model):
        ours = generate(model, inputs, 32)
    assert torch.equal(plain.sequences, ours.sequences)
    off = max((a - b).abs().max() for a, b in zip(plain.logits, ours.logits, strict=True))
    assert off < 1e-3  # of logits up to 30


def test_its_sink_dimension_is_found(model, inputs):
    image = np.zeros(inputs["input_ids"].shape, bool)
    image[:, 10:20] = True  # words in place of an image: what VAR does is not at issue here
    with attached(model, VAR(tau=20 / 64), image=image) as session:
        tokens(model, inputs, 2)
    assert 507 in session.report().sink_dims


def test_act_finds_later_sinks(model, inputs):
    with attached(model, ACT()) as session:
        found = tokens(model, inputs, 8)
    sinks = [reading.found["sinks"][0] for reading in session.report().methods.readings]
    assert len(found[0]) == 8
    assert sum(map(len, sinks)) > 20
    assert not any(0 in each for each in sinks)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_equals_its_formula(inputs, name, table):
    """Words stand for an image; phi of the model's sink dimension is about 10 to 13 at them."""
    table.note(SMOLLM2, name, check_formula(SMOLLM2, name, inputs, 3, METHODS[name]))
