"""A row's products with all keys, made once: the pass that knows them gives the bytes of one."""

import numpy as np
import pytest
from reattend import Reweight, quantize
from reattend.border.core_call import attend
from reattend.border.prefixed import Prefixed
from reattend.border.request import MaskSpec, Request
from reattend.border.row_products import products_of
from reattend.transform import Transform

KEYS = 1100  # some tiles
MASKS = {
    "plain": {},
    "causal": {"causal": True},
    "scale": {"scale": 0.2},
    "softcap": {"softcap": 3.0},
    "window": {"causal": True, "window": 300},
    "padding": {"causal": True, "key_mask": np.arange(KEYS) >= np.array([[0], [700]])},
    "bias": {"bias": np.linspace(-1, 1, KEYS, dtype=np.float32)[None]},
}
STORED = {
    "float32": lambda x: x,
    "float16": lambda x: x.astype(np.float16),
    "int8": quantize,
    "int4": lambda x: quantize(x, bits=4, by_channel=True),
    "prefix": lambda x: Prefixed(np.ascontiguousarray(x[:1, :, :600]), x[:, :, 600:]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
@pytest.mark.parametrize(
    "policy", [None, Reweight((1, 0.5), to=(0,)), np.copy], ids=["none", "compiled", "callable"]
)
def test_products_that_are_known_give_the_same_bytes(mask, stored, policy, rng):
    query = rng.standard_normal((2, 6, 1, 32), np.float32)
    key, value = rng.standard_normal((2, 2, 2, KEYS, 32), np.float32)
    finite = stored in (quantize, STORED["int4"])
    key[1, :, :5] = 1e4 if finite else np.inf  # of padding, where there is any
    key, value = stored(key), stored(value)
    query = query.astype(np.float16) if stored is STORED["float16"] else query
    labels = (np.arange(KEYS) % 97 < 30)[None, None].repeat(2, 0).view(np.uint8)
    transform = Transform(scale=rng.uniform(0.5, 2, (1, 6, 700)))
    returns = ("masses", "logsumexp", "column_sums")
    for edit in (None, transform):
        request = Request(labels, policy, transform=edit, returns=returns)
        with np.errstate(all="ignore"):
            found = attend(query, key, value, MaskSpec(**mask), request, None)
            products = products_of(query, key, MaskSpec(**mask), None)
            request = request._replace(products=products)
            again = attend(query, key, value, MaskSpec(**mask), request, None)
        for one, other in zip(found, again, strict=True):
            assert one is None or np.array_equal(one, other, equal_nan=True)


def test_products_of_another_call_are_refused(rng):
    query, key = rng.standard_normal((2, 1, 2, 1, 8), np.float32)
    for wrong in (np.zeros((1, 2, 1, 2), np.float32), np.zeros((1, 2, 1, 1))):
        with pytest.raises(ValueError, match="products: not of this call"):
            attend(query, key, key, MaskSpec(), Request(products=wrong), None)
