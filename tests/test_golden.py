"""The published code's numbers: every case of golden/, in float32, through the whole road."""

import json
from pathlib import Path

import numpy as np
import pytest
from reattend import attention, column_sums, reference
from reattend.border.request import MaskSpec
from reattend.call import Call, Prompt
from reattend.measures import head_divergence, total_divergence
from reattend.methods import ACT, VAR, VHR
from reattend.methods.var import REST, TEXT_SINK, VISUAL, VISUAL_SINK
from reattend.session import Session
from reattend.sinks import column_sinks, sink_score
from reattend.testing import Recorder

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())["cases"]


class Golden:
    """One case: its arrays as attributes, its parameters and tolerances as items."""

    def __init__(self, case):
        self.case, self.params = case, case["params"]
        with np.load(GOLDEN / case["file"]) as arrays:
            self.arrays = dict(arrays)

    def __getattr__(self, name):
        return self.arrays[name]

    def close(self, name, actual, *, relative_to=None):
        tolerance = self.case["tolerance"]["float32"][name]
        expected = self.arrays.get(f"expected_{name}", None)
        self.near(actual, expected, tolerance, relative_to)

    @staticmethod
    def near(actual, expected, tolerance, relative_to=None):
        unit = 1 if relative_to is None else relative_to
        assert actual.shape == expected.shape
        assert np.max(np.abs(actual - expected) / unit, initial=0) <= tolerance

    def tolerance(self, name):
        return self.case["tolerance"]["float32"][name]


def golden(method, kind=None):
    cases = [c for c in CASES if c["method"] == method and kind in (None, c.get("kind"))]
    assert cases
    return pytest.mark.parametrize("case", cases, ids=[c["name"] for c in cases])


def identity(key):
    """Give values that make the output the attention weights themselves."""
    batch, heads, length, _ = key.shape
    values = np.broadcast_to(np.eye(length, dtype=np.float32), (batch, heads, length, length))
    return np.ascontiguousarray(values)


def test_every_case_has_a_test():
    assert len(CASES) == 34
    assert {(c["method"], c.get("kind")) for c in CASES} == {
        ("attention", None), ("act", None), ("var", "prefill"), ("var", "decode"),
        ("var", "generation"), ("vhr", "heads"), ("vhr", "layers"), ("vhr", "decode"),
        ("vhr", "padded"), ("vhr", "stack"),
    }  # fmt: skip


@golden("attention")
def test_attention(case):
    g = Golden(case)
    position = np.arange(g.k.shape[2])
    mask = {"causal": g.params["causal"], "key_mask": position >= g.pad_left[:, None]}
    result = attention(g.q, g.k, g.v, returns="logsumexp", **mask)
    rows = np.broadcast_to(g.row_valid[:, None], result.logsumexp.shape)
    g.near(result.out[rows], g.expected_out[rows], g.tolerance("out"))
    g.near(result.logsumexp[rows], g.expected_lse[rows], g.tolerance("lse"))
    if "expected_weights" in g.arrays:
        g.close("weights", attention(g.q, g.k, identity(g.k), **mask))
    np.testing.assert_array_equal(reference.weights(g.q, g.k, **mask)[2][:, 0], g.mask)
    exact = reference.attention(g.q, g.k, g.v, **mask)
    g.near(exact[rows], g.expected_out[rows], case["tolerance"]["float64"]["out"])


def run_var(g, value, chunks=None):
    """Run a case as its kind says; also give the methods' plans."""
    p = g.params
    method = Recorder(
        VAR(tuple(g.dim_sink.tolist()), p=p["p"], rho=p["rho"], tau=p["tau"], image_mass=p["summ"])
    )
    session = Session(method, num_layers=p["num_layers"])
    image = np.zeros((1, p["prompt_len"]), dtype=bool)
    image[:, p["image_start"] : p["image_start"] + p["image_count"]] = True
    length, offset, total = p["prompt_len"], p["q_offset"], g.k.shape[2]
    outputs = []
    with session.generation(image):
        query = np.zeros_like(g.k, shape=(1, g.q.shape[1], length, g.q.shape[3]))
        if not offset:
            query[:] = g.q[:, :, :length]
        for start, end in chunks or [(0, length)]:
            outputs.append(
                session.attend(
                    p["layer"],
                    query[:, :, start:end],
                    g.k[:, :, :end],
                    value[:, :, :end],
                    hidden_states=g.hidden[:, start:end],
                )
            )
        outputs = [] if offset else outputs
        for row in range(max(length, offset), total):
            step = g.q[:, :, row - offset : row - offset + 1]
            end = row + 1
            outputs.append(session.attend(p["layer"], step, g.k[:, :, :end], value[:, :, :end]))
    return np.concatenate(outputs, axis=2), method.plans, session, image


@golden("var")
def test_var(case):
    g = Golden(case)
    p = g.params
    out, plans, session, image = run_var(g, g.v)
    g.close("out", out)
    # Weights of keys that a step does not see yet are not there.
    full = np.zeros(g.expected_weights.shape)
    values = identity(g.k)
    weights, *_ = run_var(g, values)
    full[..., : weights.shape[-1]] = weights
    g.close("weights", full)
    assert np.abs(weights.sum(-1) - 1).max() <= g.tolerance("row_sum")

    g.close("phi", sink_score(g.hidden, g.dim_sink))
    phi = sink_score(g.hidden, g.dim_sink)[0]
    sinks = np.flatnonzero(phi > p["tau"]) if p["layer"] > 1 else []
    np.testing.assert_array_equal(sinks, g.expected_sinks)
    if plans and plans[-1] is not None:
        found = session.report().readings[0].found
        assert (
            sorted(found["visual sinks"][0] + found["text sinks"][0]) == g.expected_sinks.tolist()
        )

    labels = np.where(image, VISUAL, REST)
    labels[0, g.expected_sinks] = np.where(image[0, g.expected_sinks], VISUAL_SINK, TEXT_SINK)
    policy = VAR(g.dim_sink, p=p["p"], rho=p["rho"], tau=p["tau"], image_mass=p["summ"])._policy
    result = attention(
        g.q, g.k, g.v, causal=True, segments=labels[:, None].astype(np.uint8), policy=policy,
        where=g.mask[:, None, :, : image.shape[1]][..., image[0]].all(-1)
        & (np.arange(g.q.shape[2]) + p["q_offset"] >= p["image_start"] + p["image_count"]),
        returns=("masses", "factors"),
    )  # fmt: skip
    order = [VISUAL_SINK, TEXT_SINK, VISUAL, REST]
    g.close("mass", result.masses[..., order])
    if (labels == VISUAL_SINK).any():
        passes = np.all([share(result.masses) for share in policy.when], axis=0)
        np.testing.assert_array_equal(passes, g.expected_image_centric)
        np.testing.assert_array_equal((result.factors != 1).any(-1), g.expected_selected)


@golden("var", "prefill")
def test_var_in_chunks(case):
    g = Golden(case)
    length = g.params["prompt_len"]
    out, *_ = run_var(g, g.v, [(0, 5), (5, length - 3), (length - 3, length)])
    g.close("out", out)


@golden("var", "generation")
def test_var_one_pass_over_prompt_and_answer(case):
    g = Golden(case)
    p = g.params
    session = Session(
        VAR(g.dim_sink, p=p["p"], rho=p["rho"], tau=p["tau"]), num_layers=p["num_layers"]
    )
    image = np.zeros((1, p["prompt_len"]), dtype=bool)
    image[:, p["image_start"] : p["image_start"] + p["image_count"]] = True
    states = np.pad(g.hidden, ((0, 0), (0, g.q.shape[2] - p["prompt_len"]), (0, 0)))
    with session.generation(image):
        out = session.attend(p["layer"], g.q, g.k, g.v, hidden_states=states)
    g.close("out", out)


@golden("act")
def test_act(case):
    g = Golden(case)
    p = g.params
    method = Recorder(ACT({p["layer"]: p["heads"]}, theta=p["theta"], beta=p["beta"]))
    outputs = []
    for value in (g.v, identity(g.k)):
        session = Session(method, num_layers=32)
        with session.generation():
            outputs.append(session.attend(p["layer"], g.q, g.k, value))
    out, weights = outputs
    g.close("out", out)
    g.close("weights", weights)
    assert np.abs(weights.sum(-1) - 1).max() <= g.tolerance("row_sum")

    call = Call(p["layer"], 32, g.q, g.k, g.v, Prompt(), MaskSpec(causal=True))
    means = call.column_sums() / call.row_counts[:, None]
    g.close("col_mean", means)
    sinks = column_sinks(means, p["theta"])
    sinks[..., 0] = False
    np.testing.assert_array_equal(sinks, g.expected_sinks)
    plan = method.plans[0]
    if plan is not None:
        labels = plan.segments[:, p["heads"]]  # they end with the last sink
        np.testing.assert_array_equal(labels, sinks[:, p["heads"], : labels.shape[-1]])
        assert not sinks[:, p["heads"], labels.shape[-1] :].any()
    labels = sinks.astype(np.uint8)
    result = attention(g.q, g.k, g.v, causal=True, segments=labels, returns="masses")
    masses = np.zeros(g.expected_mass.shape)  # without a sink there is one segment only
    masses[..., : result.masses.shape[-1]] = result.masses
    g.close("mass", masses[..., ::-1])
    lse = attention(g.q, g.k, g.v, causal=True, returns="logsumexp").logsumexp
    sums = column_sums(g.q, g.k, lse, causal=True)
    g.near(sums / call.row_counts[:, None], g.expected_col_mean, g.tolerance("col_mean"))


def check_heads(g, found, layers=slice(None)):
    """Compare a divergence [L, H] with the expected one, relative to the largest of the layer."""
    for name, actual in (
        ("vhd", found.divergence),
        ("ta", found.text_activation),
        ("vhd_zeroed", np.where(found.outlier, 0, found.divergence)),
    ):
        expected = g.arrays[f"expected_{name}"][layers]
        largest = np.abs(expected).max(-1, keepdims=True)
        g.near(actual, expected, g.tolerance(name), largest)
    largest = g.expected_vhd_zeroed[layers].max(-1)
    g.near(found.median, g.expected_median[layers], g.tolerance("median"), largest)
    limits = g.expected_limits[layers]
    g.near(found.limits, limits, g.tolerance("limits"), limits)
    np.testing.assert_array_equal(found.outlier, g.expected_outlier[layers])
    np.testing.assert_array_equal(found.chosen, g.expected_selected[layers])


def check_total(g, divergence):
    if "t_vhd" in g.case:
        total, expected = g.case["t_vhd"]["k"], g.case["t_vhd"]["from_expected_vhd"]
        actual = total_divergence(divergence, total)
        assert abs(actual / expected - 1) <= g.tolerance("t_vhd")


@golden("vhr", "heads")
def test_vhr_heads(case):
    g = Golden(case)
    found = head_divergence(g.o_img_last, g.o_txt_last)
    check_heads(g, found)
    check_total(g, found.divergence)
    num_layers = len(g.o_img_last)
    if num_layers == 32:
        assert VHR().layers_for(32) == tuple(g.params["layers"])


def check_session(g, session, num_layers):
    readings = {r.layer: r.found for r in session.report().readings}
    divergence = np.array([readings[layer]["divergence"][0] for layer in range(num_layers)])
    largest = g.expected_vhd.max(-1, keepdims=True)
    g.near(divergence, g.expected_vhd, g.tolerance("vhd"), largest)
    check_total(g, divergence)
    for layer in range(num_layers):
        np.testing.assert_array_equal(readings[layer]["chosen"][0], g.expected_selected[layer])
        reinforced = np.flatnonzero(g.expected_selected[layer]).tolist()
        assert readings[layer].get("heads", [None])[0] == (
            reinforced if layer in g.params["layers"] else None
        )


@golden("vhr", "layers")
@pytest.mark.parametrize("branch", ["own_run", "same_batch"])
def test_vhr_layers(case, branch):
    run_vhr(Golden(case), branch)


@golden("vhr", "decode")
@pytest.mark.parametrize("branch", ["own_run", "same_batch"])
def test_vhr_decode(case, branch):
    run_vhr(Golden(case), branch)


def run_vhr(g, branch):
    num_layers, length, text = len(g.q), g.q.shape[2], g.q_txt.shape[2]
    session = Session(VHR(g.params["alpha"], tuple(g.params["layers"])), num_layers=num_layers)
    image = np.zeros((1, length), dtype=bool)
    image[:, g.params["image_start"] : g.params["image_start"] + g.params["image_count"]] = True
    rows = slice(0, 1)
    if branch == "own_run":
        with session.text_only():
            for layer in range(num_layers):
                session.attend(layer, *(x[layer][None] for x in (g.q_txt, g.k_txt, g.v_txt)))
        inputs = [[x[layer][None] for x in (g.q, g.k, g.v)] for layer in range(num_layers)]
        mask = {"key_mask": None}
        opened = session.generation(image)
    else:  # a second row of the batch, left-padded
        pad = ((0, 0), (length - text, 0), (0, 0))
        inputs = [
            [
                np.stack([x[layer], np.pad(t[layer], pad)])
                for x, t in zip((g.q, g.k, g.v), (g.q_txt, g.k_txt, g.v_txt), strict=True)
            ]
            for layer in range(num_layers)
        ]
        mask = {"key_mask": np.arange(length) >= np.array([[0], [length - text]])}
        both = np.concatenate([image, np.zeros_like(image)])
        opened = session.generation(both, text_only=np.array([False, True]))
    with opened:
        out = [
            session.attend(layer, *inputs[layer], **mask)[rows][0] for layer in range(num_layers)
        ]
        g.close("out", np.stack(out))
        if "q_step" in g.arrays:
            steps = []
            for step in range(g.q_step.shape[2]):
                now = []
                for layer in range(num_layers):
                    q, k, v = (x[layer][None] for x in (g.q_step, g.k_step, g.v_step))
                    if branch == "same_batch":
                        q, k, v = (np.concatenate([x, x]) for x in (q, k, v))
                    end = step + 1
                    k, v = (
                        np.concatenate([old, new[:, :, :end]], axis=2)
                        for old, new in zip(inputs[layer][1:], (k, v), strict=True)
                    )
                    keys = mask["key_mask"]
                    keys = (
                        None
                        if keys is None
                        else np.pad(keys, ((0, 0), (0, end)), constant_values=True)
                    )
                    now.append(session.attend(layer, q[:, :, step:end], k, v, key_mask=keys)[0])
                steps.append(np.stack(now))
            g.near(np.concatenate(steps, 2), g.expected_out_step, g.tolerance("out_step"))
    check_session(g, session, num_layers)


@golden("vhr", "padded")
def test_vhr_padded(case):
    g = Golden(case)
    length = g.q.shape[2]
    key_mask = np.arange(length) >= g.pad_left[:, None]
    image = np.zeros((2, length), dtype=bool)
    image[0, g.params["image_start"] : g.params["image_start"] + g.params["image_count"]] = True
    session = Session(VHR(g.params["alpha"], tuple(g.params["layers"])), num_layers=1)
    with session.generation(image, text_only=np.array([False, True])):
        out = session.attend(0, g.q, g.k, g.v, key_mask=key_mask)
    valid = np.broadcast_to(key_mask[:, None], out.shape[:3])
    g.near(out[valid], g.expected_out[valid], g.tolerance("out"))
    check_session(g, session, 1)
    readings = session.report().readings
    assert readings[0].found["heads"][1] == []  # the text-only branch is never reinforced


@golden("vhr", "stack")
def test_vhr_stack(case):
    g = Golden(case)
    num_layers, (_, size) = len(g.wq), g.wq.shape[1:]
    head_dim = g.expected_out.shape[-1]
    heads = size // head_dim
    session = Session(VHR(g.params["alpha"], tuple(g.params["layers"])), num_layers=num_layers)

    def forward(x):
        outputs = []
        for layer in range(num_layers):
            q, k, v = (
                (x @ w[layer]).reshape(1, len(x), heads, head_dim).swapaxes(1, 2)
                for w in (g.wq, g.wk, g.wv)
            )
            out = session.attend(layer, q, k, v)
            outputs.append(out[0])
            x = x + out[0].swapaxes(0, 1).reshape(len(x), size) @ g.wo[layer]
        return np.stack(outputs), x

    with session.text_only():
        text, x_text = forward(g.x[g.text_rows])
    image = np.ones((1, len(g.x)), dtype=bool)
    image[:, g.text_rows] = False
    with session.generation(image):
        out, x = forward(g.x)
    g.close("out", out)
    g.near(text, g.expected_out_txt, g.tolerance("out"))
    g.near(x, g.expected_x_last, g.tolerance("out"))
    g.near(x_text, g.expected_x_txt_last, g.tolerance("out"))
    check_session(g, session, num_layers)
