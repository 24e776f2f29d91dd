"""What every test may ask for, and which examples property tests draw."""

import os
import signal

# Workers share the CPUs: threads of BLAS that wait by spinning took most of the time of some tests.
# Before NumPy is loaded, and for processes that tests start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    share = max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(share))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
from examples import NIGHTLY
from hypothesis import settings
from hypothesis.internal.conjecture import providers

# It draws constants of whichever modules are loaded by then: by who ran before in this worker.
providers._get_local_constants = lambda: providers._local_constants


def pytest_configure(config):
    settings.load_profile(NIGHTLY if config.option.markexpr == NIGHTLY else "ci")
    # In the background SIGINT is ignored, and so it would be by children that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config, items):
    """Refuse names that differ by process; by night run every property test, with new examples."""
    for item in items:
        # Workers must find the same names, and most times the first digits of two addresses agree.
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} is named by an address: give it an id")
    if config.option.markexpr == NIGHTLY:
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(NIGHTLY)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """Give the paths of weights and language model of a tiny vision-language model."""
    import tiny_llama
    import tiny_vision

    if any(not tiny_llama.installed(name) for name in ("gguf", "tokenizers", "jinja2")):
        pytest.skip("needs the extra demo")
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    room = {"llama.context_length": 2048}
    language = tiny_llama.write(folder / "tiny.gguf", tiny_llama.weights(rng), metadata=room)
    return tiny_vision.write(folder / "tiny.npz", tiny_vision.arrays(rng)), language


@pytest.fixture(scope="session")
def tiny_model(tiny_files):
    from reattend.models import read_vision_language

    return read_vision_language(*tiny_files)
