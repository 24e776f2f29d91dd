"""Reads Hugging Face folders: config.json and safetensors, for the NumPy loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reattend.models.folder_llama import llama_from
from reattend.models.json_files import read_json
from reattend.models.llama import Llama
from reattend.models.llava import Llava, llava_from, plain_name
from reattend.models.tensor_files import TensorFiles


def read(
    path: str | Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> Llama | Llava:
    """Read a Llama, Qwen 2 or Qwen 3, or a LLaVA built on one, from a Hugging Face folder.

    Parameters
    ----------
    path : path
        Of a folder with config.json and weights in safetensors, of float32, float16 or bfloat16; a
        LLaVA's also with its tokenizer.json and preprocessor_config.json.
    progress : callable, optional
        Wraps the sequence of layers that are read, as tqdm does.

    Returns
    -------
    Llama or Llava
        In float32.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it lacks a file.
    ModelFileError
        If the model is of another type, or has what these loops do not know: a sliding window,
        another scaling of rotary positions, experts, tensors that would be left out.
    MissingPackageError
        If a package of the extra demo is not installed; for bfloat16 ml_dtypes.

    Examples
    --------
    >>> read("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: nowhere is no folder with config.json
    """
    path = Path(path)
    said = read_json(path, "config.json", f"{path} is no folder with config.json")
    found: Llama | Llava
    if said.get("model_type") == "llava":
        tensors = TensorFiles(path, plain_name)
        found = llava_from(path, said, tensors, progress)
    else:
        tensors = TensorFiles(path)
        found = llama_from(path, said, tensors, progress)
    tensors.end(f"a plain {said['model_type']}")
    return found
