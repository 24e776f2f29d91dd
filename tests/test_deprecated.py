"""Names of before work still, and say what they are called now."""

import inspect
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import reattend as ra
from reattend import sinks


@pytest.mark.parametrize(
    ("use", "expected", "new"),
    [
        (lambda: ra.revise, ra.apply_policy, "apply_policy"),
        (lambda: sinks.follow_columns, sinks.update_column_sinks, "update_column_sinks"),
        (lambda: ra.VHR().reinforced(32), ra.VHR().layers_for(32), "layers_for"),
        (lambda: ra.ACT(follow=False), ra.ACT(update_sinks=False), "update_sinks"),
        (lambda: ra.ACT(update_sinks=False).follow, False, "update_sinks"),
    ],
)
def test_old_names_warn_and_work(use, expected, new):
    with pytest.warns(DeprecationWarning, match=f"is called {new} now") as found:
        assert use() == expected
    assert found[0].filename == __file__  # the caller's line is shown


def test_an_array_in_8_bits_has_its_old_name():
    stored = ra.quantize(np.ones((1, 1, 2, 4), np.float32))
    with pytest.warns(DeprecationWarning, match="to_float32"):
        np.testing.assert_array_equal(stored.widened(), stored.to_float32())


def test_a_renamed_field_is_a_field_like_others():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        act = replace(ra.ACT(update_sinks=False), theta=0.3)
        assert act == pickle.loads(pickle.dumps(act)) == eval(repr(act), vars(ra))
    assert "update_sinks" in inspect.signature(ra.ACT).parameters
    with pytest.raises(TypeError, match="follow is the old name of update_sinks, got both"):
        ra.ACT(follow=True, update_sinks=True)


@pytest.mark.parametrize("module", [ra, sinks])
def test_other_names_are_unknown(module):
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
