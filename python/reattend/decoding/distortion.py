"""What the other branch sees: noised pixels, outlier patches, faint tokens."""

from __future__ import annotations

import numpy as np

from reattend.checks import integer, marks, numbers, place, real
from reattend.policy import Array


def diffusion_noise(pixels: Array, *, step: int = 500, rng: np.random.Generator) -> Array:
    r"""Give an image as it is after some steps of a diffusion: the other branch of VCD.

    .. code-block:: text

        x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps        abar_t = prod_{s <= t} (1 - beta_s)
        beta_s = sigmoid(-6 ... 6 in 1000 steps) (5e-3 - 1e-5) + 1e-5

    Paper: Mitigating Object Hallucinations in Large Vision-Language Models through Visual
    Contrastive Decoding (CVPR 2024), arXiv 2311.16922.

    Parameters
    ----------
    pixels : array of float, any shape
        After the model's preprocessing.
    step : int, optional
        From 0 to 999; the paper has 500 or 999.
    rng : numpy.random.Generator
        Where the noise comes from.

    Returns
    -------
    array
        Of the shape and type of pixels.

    Raises
    ------
    ValueError
        If step is out of its range.

    Examples
    --------
    >>> noised = diffusion_noise(np.zeros((3, 64, 64)), step=999, rng=np.random.default_rng(0))
    >>> bool(0.9 < noised.std() < 1)
    True
    """
    step = place("step", step, 1000)
    pixels = numbers("pixels", pixels)
    if pixels.dtype.kind in "iub":
        raise TypeError(f"pixels must be floats, as the model's preprocessing, got {pixels.dtype}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r}")
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (5e-3 - 1e-5) + 1e-5
    kept = np.cumprod(1 - betas)[step]
    noise = rng.standard_normal(pixels.shape)
    return np.asarray(
        (np.sqrt(kept) * pixels + np.sqrt(1 - kept) * noise).astype(pixels.dtype, copy=False)
    )


def outlier_patches(query: Array, keys: Array, k: int) -> Array:
    r"""Give the k patches that a vision encoder's class token attends to most: DAMRO's branch.

    .. code-block:: text

        softmax(q K^T / sqrt(C)), heads not split; the largest first

    Paper: DAMRO: Dive into the Attention Mechanism of LVLM to Reduce Object Hallucination
    (EMNLP 2024), arXiv 2410.04514.

    Parameters
    ----------
    query : array [..., C]
        Of the class token, in the layer that the projector reads (the last but one).
    keys : array [..., P, C]
        Of the patches, the class token's own left out.
    k : int
        How many.

    Returns
    -------
    array of int [..., k]
        In falling order of weight, which is the order in which the branch gets them; of equal
        weights the first patch first.

    Raises
    ------
    ValueError
        If k is out of its range or shapes do not fit.

    Examples
    --------
    >>> outlier_patches(np.array([1.0, 0.0]), np.array([[0.0, 9.0], [3.0, 0.0], [1.0, 0.0]]), k=2)
    array([1, 2])
    """
    query, keys = numbers("query", query, "[..., C]"), numbers("keys", keys, "[..., P, C]")
    k = integer("k", k)
    if keys.ndim != query.ndim + 1 or (*keys.shape[:-2], keys.shape[-1]) != query.shape:
        raise ValueError(
            f"keys must be [..., P, C] where query is [..., C], got {keys.shape} and {query.shape}"
        )
    if not 1 <= k <= keys.shape[-2]:
        raise ValueError(f"k must be from 1 to {keys.shape[-2]}, the patches of keys, got {k}")
    scores = (keys @ query[..., None])[..., 0]  # softmax and the scale keep the order
    scores = scores.astype(np.result_type(scores, np.float32), copy=False)  # none is unsigned
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def faint_tokens(weights: Array, image: Array, *, gamma: float = 0.5, lamb: float = 1.0) -> Array:
    r"""Mark the image keys without excess attention: those whose states AvisC's branch has as 0.

    .. code-block:: text

        share_l = image mass of layer l / sum over layers;  the first layers, in falling order, that
        hold gamma, and the one that reaches it;  their mean map a
        faint_j = a_j < mean a + lamb std a

    What is left, the blind tokens, draws attention whatever the question is. With the published
    code's lamb of 100 all are marked nearly always. Paper: Don't Miss the Forest for the Trees:
    Attentional Vision Calibration for Large Vision Language Models (2024), arXiv 2405.17820.

    Parameters
    ----------
    weights : array [L, H, M]
        Attention of the last prompt row in every layer, see `reattend.measures.attention_rows`.
    image : array of bool [M]
        The image keys.
    gamma : float, optional
        The share of image attention that the layers hold.
    lamb : float, optional
        How many standard deviations above the mean the limit lies.

    Returns
    -------
    array of bool [M]

    Raises
    ------
    ValueError
        If shapes do not fit, a number is out of its range, or there is no image.

    Examples
    --------
    >>> faint_tokens(np.array([[[0.1, 0.6, 0.1, 0.1]]]), np.array([False, True, True, True]))
    array([False, False,  True,  True])
    """
    weights = numbers("weights", weights, "[L, H, M]")
    image = marks("image", image, "[M] of weights", weights.shape[2:])
    gamma, lamb = real("gamma", gamma), real("lamb", lamb)
    if not image.any():
        raise ValueError("image must mark at least one key, got none")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, got {gamma!r}")
    maps = weights.mean(1)[:, image]  # [L, image keys]
    share = maps.sum(-1) / maps.sum()
    order = np.argsort(-share, kind="stable")
    count = int((np.cumsum(share[order]) < gamma).sum()) + 1
    found = maps[order[:count]].mean(0)
    faint = np.zeros(image.shape, bool)
    faint[image] = found < found.mean() + lamb * found.std()
    return faint
