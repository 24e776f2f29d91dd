"""Language models as plain NumPy loops: the demonstration, and the example to copy."""

from reattend.models.llama import Config, Layer, Llama, generate
from reattend.models.tokenizer import TextStream, Tokenizer
from reattend.models.weights import ModelFile, ModelFileError, find_smollm2, read_llama

__all__ = [
    "Config",
    "Layer",
    "Llama",
    "ModelFile",
    "ModelFileError",
    "TextStream",
    "Tokenizer",
    "find_smollm2",
    "generate",
    "read_llama",
]
