"""Language models as plain NumPy loops: the demonstration, and the example to copy."""

from reattend.models.branch import LlamaBranch
from reattend.models.folder import read
from reattend.models.folder_tokenizer import FolderTokenizer
from reattend.models.llama import Config, Layer, Llama, generate
from reattend.models.llava import Llava
from reattend.models.tokenizer import TextStream, Tokenizer
from reattend.models.vision import Encoder
from reattend.models.vision_language import (
    IMAGE,
    SHIPPED_WEIGHTS,
    VisionLanguage,
    read_vision_language,
)
from reattend.models.weights import ModelFile, ModelFileError, find_smollm2, read_llama

__all__ = [
    "IMAGE",
    "SHIPPED_WEIGHTS",
    "Config",
    "Encoder",
    "FolderTokenizer",
    "Layer",
    "Llama",
    "LlamaBranch",
    "Llava",
    "ModelFile",
    "ModelFileError",
    "TextStream",
    "Tokenizer",
    "VisionLanguage",
    "find_smollm2",
    "generate",
    "read",
    "read_llama",
    "read_vision_language",
]
