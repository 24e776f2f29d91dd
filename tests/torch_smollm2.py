"""SmolLM2 as transformers reads it, for tests that hold ours against it."""

import warnings

import pytest
from reattend.models import find_smollm2


def read():
    """Give transformers' model of the same GGUF file as ours, in float32; skip if it cannot be."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    return from_file("AutoModelForCausalLM", find(), dtype=torch.float32)


def find():
    """Give the file's path, or skip."""
    try:
        return find_smollm2()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def from_file(kind, path, **options):
    """Give what a class of transformers reads from a GGUF file."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = getattr(transformers, kind)
        return reader.from_pretrained(path.parent, gguf_file=path.name, **options)
