"""Text to tokens and back as a Hugging Face folder describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reattend.models.json_files import read_json
from reattend.models.tokenizer import Tokenizer
from reattend.models.weights import ModelFileError
from reattend.optional import demand


class FolderTokenizer(Tokenizer):
    """Text to tokens and back as a Hugging Face folder describes it, and its chat template.

    Parameters
    ----------
    path : path
        Of a folder with tokenizer.json.

    Raises
    ------
    FileNotFoundError
        If there is no tokenizer.json.
    ModelFileError
        If the files cannot be read.
    MissingPackageError
        If tokenizers is not installed.

    Examples
    --------
    >>> FolderTokenizer("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: nowhere has no tokenizer.json
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        file = self._path / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{self._path} has no tokenizer.json")
        tokenizers = demand("tokenizers")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises Exception itself
            raise ModelFileError(f"{file} cannot be read: {error}") from error
        said = self._said("tokenizer_config.json")
        count = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._tokens = [self._tokenizer.id_to_token(token) or "" for token in range(count)]
        self._bos, self._eos = (self._id(said.get(f"{name}_token")) for name in ("bos", "eos"))
        ends = self._said("generation_config.json").get("eos_token_id", self._eos)
        ends = ends if isinstance(ends, list) else [ends]
        self.stop = frozenset(token for token in (*ends, self._eos) if token is not None)
        template = self._path / "chat_template.jinja"
        older = self._said("chat_template.json")  # as processors kept it
        self.chat_template = said.get("chat_template", older.get("chat_template"))
        if template.is_file():
            self.chat_template = template.read_text(encoding="utf-8")
        if not isinstance(self.chat_template, str | None):
            raise ModelFileError(f"{self._path}: chat_template must be a text")
        begins = self._tokenizer.encode("", add_special_tokens=True).ids
        self._prefix = begins if begins == [self._bos] else []

    def _said(self, name: str) -> dict[str, Any]:
        if not (self._path / name).is_file():
            return {}
        return read_json(self._path, name, name)

    def _id(self, token: Any) -> int | None:
        text = token.get("content") if isinstance(token, dict) else token
        found: int | None = None if text is None else self._tokenizer.token_to_id(text)
        return found
