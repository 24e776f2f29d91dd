"""SmolLM2 as transformers has it, read once for all tests that hold ours against it."""

import functools
import warnings

import pytest
from reattend.models import find_smollm2


@functools.cache
def read():
    """Give transformers' model of the same GGUF file as ours, in float32; skip if it cannot be."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    pytest.importorskip("gguf")
    try:
        path = find_smollm2()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
