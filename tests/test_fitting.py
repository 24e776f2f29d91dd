"""What cannot be meant is refused where it is written, and what will do nothing is said once."""

import json
import subprocess
import sys
import warnings
from dataclasses import fields

import numpy as np
import pytest
import reattend
from reattend import ACT, VAR, VHR, Session
from reattend.method import Method, registered
from reattend.testing import run
from reattend.testing.sample import sample


@pytest.mark.parametrize(
    ("method", "given"),
    [
        *((ACT, {name: "x"}) for name in ("theta", "beta")),
        *((VAR, {name: "x"}) for name in ("p", "rho", "tau", "image_mass")),
        (VHR, {"alpha": "x"}),
        (VHR, {"alpha": None}),
        (ACT, {"theta": True}),
        (ACT, {"theta": np.array([0.1, 0.2])}),
    ],
    ids=str,
)
def test_parameters_must_be_numbers(method, given):
    (name,) = given
    with pytest.raises(TypeError, match=f"{name} must be a number, got "):
        method(**given)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ACT(heads={2: (0.5,)}), "heads must"),
        (lambda: ACT(update_sinks="no"), "update_sinks must be a bool"),
        (lambda: VAR(sink_dims=(1.5,)), "sink_dims must hold integers"),
        (lambda: VAR(sink_dims=3), "sink_dims must hold integers"),
        (lambda: VHR(layers=(1, 2.5)), "layers must hold integers"),
    ],
)
def test_places_must_be_integers(make, says):
    with pytest.raises(TypeError, match=says):
        make()


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            ACT(heads={99: (0,)}),
            "heads must be in layers below 4, those of the model, got layer 99",
        ),
        (ACT(heads={2: (7,)}), "heads must be below 4, the heads of the model, got 7 in layer 2"),
        (VHR(layers=(4,)), "layers must be below 4"),
    ],
)
def test_a_session_refuses_what_its_model_lacks(method, says):
    with pytest.raises(ValueError, match=says):
        Session(method, num_layers=4, num_heads=4)


BEYOND = (
    {"heads": {4: (0,)}},
    {"heads": {1: (4,)}},
    {"layers": (4,)},
)  # a model of 4 layers, 4 heads


@pytest.mark.parametrize("method", registered().values(), ids=registered())
def test_every_method_refuses_layers_and_heads_that_its_model_lacks(method):
    names = {each.name for each in fields(method)}
    for given in BEYOND:
        if names >= given.keys():
            with pytest.raises(ValueError, match=r"must be (in layers )?below 4, th"):
                Session(method(**given), num_layers=4, num_heads=4)
    for given in ({"heads": {3: (3,)}}, {"layers": (3,)}):
        if names >= given.keys():
            Session(method(**given), num_layers=4, num_heads=4)


def test_a_method_of_ones_own_may_keep_heads_in_its_own_form():
    class Own(Method):
        heads = "all", 9
        layers = "last"

    Session(Own(), num_layers=4, num_heads=4)


def test_what_depends_on_the_hidden_size_is_said_before_anything_runs():
    with pytest.raises(ValueError, match=r"tau must be below sqrt\(C\) = 8"):
        VAR().check_model(4, 4, 64)
    with pytest.raises(ValueError, match="sink_dims must be below 1024"):
        VAR(sink_dims=(2533,)).check_model(4, 4, 1024)
    VAR(tau=0.3).check_model(4, 4, 64)
    VAR(sink_dims=(1415, 2533)).check_model(32, 32, 4096)


def test_a_class_is_no_method():
    with pytest.raises(TypeError, match="methods must be Method instances"):
        Session(VHR, num_layers=4)


@pytest.mark.parametrize("method", [VAR(), VHR()])
@pytest.mark.parametrize("image", [None, np.zeros((1, 6), bool)])
def test_a_method_for_images_says_once_that_there_is_none(method, image):
    session = Session([method, ACT()], num_layers=4)
    name = type(method).__name__
    with pytest.warns(UserWarning, match=f"{name} will change nothing"):
        session.generation(image, prompt_len=6).__enter__()
    session = Session([method, ACT()], num_layers=4)
    with warnings.catch_warnings(record=True) as all_said:
        warnings.simplefilter("always")
        for _ in range(2):
            with session.generation(image, prompt_len=6):
                pass
    assert len(all_said) == 1
    assert all_said[0].filename == __file__  # it points at the line that opened the generation


def test_nothing_is_said_where_something_happens():
    with Session(VAR(), num_layers=4).generation(np.ones((1, 6), bool)):
        pass
    with Session(ACT(), num_layers=4).generation():
        pass
    session = Session(VHR(), num_layers=4)
    with session.text_only():
        pass
    with session.generation():  # the text-only run is what it compares with
        pass


@pytest.mark.parametrize(
    ("change", "given", "says"),
    [
        (lambda x: x.astype(np.float64), {}, r"convert it by query.astype\(np.float32\)"),
        (lambda x: x.astype(np.int64), {}, r"convert it by query.astype\(np.float32\)"),
        (lambda x: x[0], {}, r"without a batch write query\[None\]"),
        (lambda x: x, {"attn_mask": None}, "key_mask="),
        (lambda x: x, {"is_causal": True}, "pass causal="),
        (lambda x: x, {"softmax_scale": 1.0}, "pass scale="),
        (lambda x: x, {"attn_bias": None}, "as bias="),
        (lambda x: x, {"mask": None}, "key_mask="),
        (lambda x: x, {"need_weights": True}, "measures.attention_rows"),
        (lambda x: x, {"scales": 1}, "has no argument 'scales'$"),
        (lambda x: x, {"returns": "weights"}, "rows of weights are measures.attention_rows'"),
    ],
)
def test_users_of_other_libraries_are_told_the_conversion(change, given, says):
    array = change(np.zeros((1, 2, 3, 8), np.float32))
    with pytest.raises((TypeError, ValueError), match=says):
        reattend.attention(array, array, array, **given)


def test_tensors_of_torch_in_bfloat16_are_told_the_conversion():
    torch = pytest.importorskip("torch")
    x = torch.randn(1, 2, 3, 8).bfloat16()
    with pytest.raises(TypeError, match=r"query.view\(torch.uint16\) with dtype='bfloat16'"):
        reattend.attention(x, x, x)
    bits = x.view(torch.uint16)
    found = reattend.attention(bits, bits, bits, dtype="bfloat16")
    expected = torch.nn.functional.scaled_dot_product_attention(x.float(), x.float(), x.float())
    whole = (np.asarray(found).astype(np.uint32) << 16).view(np.float32)
    assert np.abs(whole - expected.numpy()).max() < 2e-2


def test_results_are_short_to_read():
    array = np.zeros((1, 2, 3, 8), np.float32)
    result = reattend.attention(array, array, array, returns="logsumexp")
    shown = "AttentionResult(out=float32[1, 2, 3, 8], logsumexp=float32[1, 2, 3])"
    assert repr(result) == shown
    assert len(repr(reattend.segment_pass(array, array, array, segments=None))) < 120


def test_a_report_is_data_for_other_tools():
    inputs = sample(0)
    session = Session(VAR(), num_layers=5)
    run((), inputs, session=session)
    report = session.report()
    assert len(repr(report)) < 100
    told = json.loads(report.to_json())
    assert told["readings"] == report.to_dict()["readings"]
    first = report.readings[0]
    assert told["readings"][0]["before"] == first.before.tolist()
    assert told["readings"][0]["found"]["visual sinks"] == first.found["visual sinks"]
    table = pytest.importorskip("pandas") and report.to_pandas()
    sizes = [reading.before.size for reading in report.readings]
    assert len(table) == sum(sizes)
    row = table.iloc[1]
    assert (row.layer, row.segment, row.before) == (first.layer, "text sinks", first.before[0, 1])


def test_rooms_are_there_without_an_import():
    code = "import reattend as ra; ra.models.find_smollm2; ra.plot; ra.decoding.contrast"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert dir(reattend) == sorted([*reattend.__all__, "decoding", "models", "plot"])
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        reattend.nothing  # noqa: B018


def test_sessions_are_short_to_read():
    session = Session([VAR(), ACT()], num_layers=32, num_heads=8)
    shown = f"Session([{VAR()!r}, {ACT()!r}], num_layers=32, num_heads=8)"
    assert repr(session) == shown
