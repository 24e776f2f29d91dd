"""A tiny vision-language model with random weights, as the files that commands read."""

import numpy as np
import pytest
import tiny_llama
import tiny_vision
from reattend.models import read_vision_language

ROOM = {"llama.context_length": 2048}


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """Give the paths of weights and language model."""
    if any(not tiny_llama.installed(name) for name in ("gguf", "tokenizers", "jinja2")):
        pytest.skip("needs the extra demo")
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    language = tiny_llama.write(folder / "tiny.gguf", tiny_llama.weights(rng), metadata=ROOM)
    return tiny_vision.write(folder / "tiny.npz", tiny_vision.arrays(rng)), language


@pytest.fixture(scope="session")
def tiny_model(tiny_files):
    return read_vision_language(*tiny_files)
