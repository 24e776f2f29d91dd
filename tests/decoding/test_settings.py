"""Each setting equals its paper's formula, written out for one row in float64."""

import numpy as np
import pytest
from reattend.decoding import (
    DAMRO,
    ICD,
    M3ID,
    ONLY,
    VCD,
    AvisC,
    CausalMM,
    DeCo,
    DoLa,
    Guidance,
    TwoBranch,
    diffusion_noise,
    faint_tokens,
    mix,
    nucleus,
    outlier_patches,
)

RNG = np.random.default_rng(0)
ROWS, V = 6, 40
Z = RNG.normal(size=(ROWS, V)) * 2
OTHER = RNG.normal(size=(ROWS, V)) * 2
THIRD = RNG.normal(size=(ROWS, V)) * 2
EARLY = RNG.normal(size=(4, ROWS, V)) * 2


def log_p(z):
    return z - np.log(np.exp(z).sum())


def cut(mixed, z, beta):
    p = np.exp(log_p(z))
    return np.where(p >= beta * p.max(), mixed, -np.inf)


FORMULAS = {  # setting: (branches, what a row gives)
    VCD(0.7, 0.2): (1, lambda z, o: cut(1.7 * z - 0.7 * o, z, 0.2)),
    ICD(): (1, lambda z, o: cut(2 * z - o, z, 0.1)),
    DAMRO(): (1, lambda z, o: cut(3 * z - 2 * o, z, 0.1)),
    AvisC(alpha=2.5): (1, lambda z, o: cut(3.5 * z - 2.5 * o, z, 0.1)),
    CausalMM(0.5): (1, lambda z, o: cut(1.5 * z - 0.5 * o, z, 0.1)),
    CausalMM(0.4): (2, lambda z, o, q: cut(1.8 * z - 0.4 * o - 0.4 * q, z, 0.1)),
    Guidance(1.3): (
        1,
        lambda z, o: cut(1.3 * (log_p(z) - log_p(o)) + log_p(o), z, 0.1),
    ),
}


@pytest.mark.parametrize(("setting", "formula"), FORMULAS.items(), ids=[*map(str, FORMULAS)])
def test_settings_equal_their_formulas(setting, formula):
    branches, row = formula
    others = (OTHER, THIRD)[:branches]
    found = setting(Z, *others)
    expected = np.stack([row(*each) for each in zip(Z, *others, strict=True)])
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(found), finite)
    assert 0 < finite.sum() < finite.size
    assert np.allclose(found[finite], expected[finite], atol=1e-12)
    half = setting(Z.astype(np.float32), *(o.astype(np.float32) for o in others))
    assert half.dtype == np.float32


@pytest.mark.parametrize("step", [0, 1, 30, 200])
def test_m3id_grows_with_the_step(step):
    gone = np.exp(-0.02 * step)
    expected = [cut(z + (z - o) * (1 - gone) / gone, z, 0.1) for z, o in zip(Z, OTHER, strict=True)]
    assert np.allclose(M3ID()(Z, OTHER, step=step), expected, atol=1e-11)


def test_m3id_can_be_capped():
    assert np.allclose(M3ID(most=2.0)(Z, OTHER, step=10**6), VCD(2.0)(Z, OTHER))


def test_guidance_1_is_the_own_branch():
    expected = np.stack([log_p(z) for z in Z])
    assert np.allclose(Guidance(1, beta=0)(Z, OTHER), expected, atol=1e-12)


def test_only_decides_row_by_row():
    near = Z + RNG.normal(size=Z.shape) * np.linspace(0.01, 2, ROWS)[:, None]
    found = ONLY()(Z, near)
    added = 0
    for i, (z, o) in enumerate(zip(Z, near, strict=True)):
        close = np.abs(np.exp(log_p(z)) - np.exp(log_p(o))).sum() < 0.6
        expected = cut(z + 3 * o if close else 2 * z - o, z, 0.1)
        assert np.allclose(found[i], expected, atol=1e-12)
        added += close
    assert 0 < added < ROWS


def test_dola_equals_its_formula():
    found, layers = DoLa()(Z, *EARLY), set()
    for i, z in enumerate(Z):
        p, worst = np.exp(log_p(z)), []
        for early in EARLY[:, i]:
            q = np.exp(log_p(early))
            m = (p + q) / 2
            worst.append(((m * np.log(m / p)).mean() + (m * np.log(m / q)).mean()) / 2)
        layers.add(int(np.argmax(worst)))
        mixed = log_p(log_p(z) - log_p(EARLY[np.argmax(worst), i]))
        assert np.allclose(found[i], cut(mixed, z, 0.1), atol=1e-12)
    assert len(layers) > 1


def test_deco_equals_its_formula():
    found = DeCo()(Z, *EARLY)
    for i, z in enumerate(Z):
        order = np.argsort(-z)[:20]
        share, kept = np.exp(log_p(z)), []
        for token in order:
            kept.append(token)
            if share[kept].sum() >= 0.9:
                break
        early = np.exp([log_p(e) for e in EARLY[:, i]])[:, kept]
        layer = early.max(-1).argmax()
        expected = np.full(V, -np.inf)
        expected[kept] = z[kept] + 0.6 * early.max() * EARLY[layer, i, kept]
        assert np.allclose(found[i], expected, atol=1e-12)


def test_nucleus_always_keeps_one():
    sharp = np.array([[50.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert nucleus(sharp, top_k=2, top_p=0.5).tolist() == [
        [True, False, False],
        [True, True, False],
    ]


def test_a_fault_shows():
    """NaN in the logits does not become a row of -inf, of which any token may be chosen."""
    assert np.isnan(VCD()(np.array([1.0, np.nan]), np.zeros(2))).any()


def test_a_token_that_is_ruled_out_stays_out():
    z, other = np.array([1.0, -np.inf, 0.0]), np.array([0.0, -np.inf, 0.5])
    for setting in (VCD(beta=0), M3ID(beta=0), Guidance(beta=0), CausalMM(epsilon=0), ONLY(beta=0)):
        assert np.isneginf(setting(z, other, step=3)).tolist() == [False, True, False]
    for setting in (DoLa(beta=0), DeCo(top_p=1)):
        assert np.isneginf(setting(z, other)).tolist() == [False, True, False]


def test_neutral_settings_change_nothing():
    for setting in (VCD(0, 0), M3ID(0, 0), CausalMM(0, 0), ONLY(0, 0, 0, 0)):
        assert np.array_equal(setting(Z, OTHER, step=9), Z)
    assert np.array_equal(DeCo(alpha=0, top_k=V, top_p=1)(Z, OTHER), Z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VCD(alpha=-1), "alpha must be a number from 0, got -1"),
        (lambda: CausalMM(epsilon=2), "epsilon must be from 0 to 1, got 2"),
        (lambda: M3ID(lamb=np.nan), "lamb must be a number from 0, got nan"),
        (lambda: DoLa(beta=-1), "beta must be from 0 to 1, got -1"),
        (lambda: DeCo(top_k=0), "top_k must be at least 1, got 0"),
        (lambda: VCD()(Z), "VCD must be given one other branch, got 0"),
        (lambda: CausalMM()(Z, Z, Z, Z), "one or two other branches, got 3"),
        (lambda: DoLa()(Z), "at least one earlier layer, got none"),
        (lambda: ICD()(Z, OTHER[:1]), r"shape of logits, \(6, 40\), got \(1, 40\)"),
        (lambda: DeCo()(Z, OTHER[:1]), r"shape of logits, \(6, 40\), got \(1, 40\)"),
        (lambda: mix(Z, [OTHER], own=1, weights=[]), "weights must be as many as others, 1"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Rising:
    """A branch whose logits count its steps."""

    def begin(self):
        self.steps = 0
        return np.zeros((2, 3))

    def step(self, tokens):
        self.steps += 1
        return np.full((2, 3), float(self.steps))

    def reorder(self, indices):
        raise AssertionError("no row has moved")


def test_a_processor_hands_all_branches_and_the_step():
    seen = []

    def setting(logits, *others, step=0):
        seen.append((step, [int(o[0, 0]) for o in others]))
        return logits

    processor = TwoBranch([Rising(), Rising()], setting=setting)
    for start in (4, 6):
        ids = np.ones((2, start), int)
        for _ in range(3):
            processor(ids, np.zeros((2, 3)))
            ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=2)
    assert seen == [(0, [0, 0]), (1, [1, 1]), (2, [2, 2])] * 2


# What the branches see.


def test_noise_has_the_variance_of_its_step():
    betas = [1 / (1 + np.exp(-x)) * (5e-3 - 1e-5) + 1e-5 for x in np.linspace(-6, 6, 1000)]
    for step in (0, 500, 999):
        kept = np.prod([1 - b for b in betas[: step + 1]])
        image = np.full((3, 100, 100), 2.0, np.float32)
        noised = diffusion_noise(image, step=step, rng=np.random.default_rng(1))
        assert noised.dtype == np.float32
        assert noised.mean() == pytest.approx(2 * np.sqrt(kept), abs=0.05)
        assert noised.std() == pytest.approx(np.sqrt(1 - kept), abs=0.02)
        assert (image == 2).all()
    with pytest.raises(ValueError, match="step must be from 0 to 999, got 1000"):
        diffusion_noise(image, step=1000, rng=np.random.default_rng(1))


def test_outlier_patches_equal_the_softmax():
    query, keys = RNG.normal(size=(2, 16)), RNG.normal(size=(2, 30, 16))
    for item in range(2):
        scores = keys[item] @ query[item] / 4
        weights = np.exp(scores) / np.exp(scores).sum()
        expected = np.argsort(-weights)[:5]
        assert outlier_patches(query, keys, 5)[item].tolist() == expected.tolist()
    with pytest.raises(ValueError, match="k must be from 1 to 30"):
        outlier_patches(query, keys, 31)


def test_faint_tokens_equal_their_formula():
    weights = RNG.dirichlet(np.ones(20), size=(6, 3))
    image = (np.arange(20) >= 4) & (np.arange(20) < 16)
    mass = weights.mean(1)[:, 4:16].sum(-1)
    top, total = [], 0.0
    for layer in np.argsort(-mass):
        top.append(layer)
        total += mass[layer] / mass.sum()
        if total >= 0.5:
            break
    mean = weights[top].mean((0, 1))[4:16]
    found = faint_tokens(weights, image)
    assert found[4:16].tolist() == (mean < mean.mean() + mean.std()).tolist()
    assert not found[:4].any()
    assert 0 < found.sum() < 12
    assert np.array_equal(faint_tokens(weights, image, lamb=100), image)
    with pytest.raises(ValueError, match="at least one key"):
        faint_tokens(weights, np.zeros(20, bool))


@pytest.mark.parametrize("weight", [0.0, np.zeros((ROWS, 1))])
def test_a_branch_of_weight_0_is_left_out_whatever_it_says(weight):
    other = np.where(np.arange(V) % 3, OTHER, -np.inf)
    assert np.array_equal(mix(Z, [other], own=1, weights=[weight]), Z)
    assert np.array_equal(M3ID(beta=0)(Z, other, step=0), Z)
    assert np.array_equal(VCD(alpha=0, beta=0)(Z, other), Z)
    np.testing.assert_allclose(Guidance(gamma=1, beta=0)(Z, other), [log_p(z) for z in Z])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_strengths_beyond_the_type_give_numbers_or_a_sentence(dtype):
    z, other = np.array([20.0, 15.0], dtype), np.array([18.0, 17.0], dtype)
    strength = np.expm1(0.02 * 500)
    found = M3ID(beta=0)(z, other, step=500)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, (1 + strength) * z.astype(float) - strength * other, rtol=np.finfo(dtype).eps
    )
    message = f"logits must be of a type that holds what comes out, .* got {dtype.__name__}"
    with pytest.raises(ValueError, match=message):
        mix(z, [other], own=1e39, weights=[-1e39])
