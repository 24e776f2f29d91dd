"""Tokens and chat prompts as a GGUF file describes them, by the packages tokenizers and jinja2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reattend.models.weights import ModelFile, ModelFileError
from reattend.optional import demand

_CONTROL, _USER_DEFINED = 3, 4  # token types: special, and added by hand
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE = "\u2581"  # what SentencePiece writes for a space

# How text is cut into words before byte-pair merges, by the file's tokenizer.ggml.pre.
_GPT2 = ("default", "gpt-2", "gpt2")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")


class Tokenizer:
    """Text to tokens and back, and the model's chat template.

    Parameters
    ----------
    file : ModelFile
        A GGUF file with a byte-level ('gpt2') or SentencePiece ('llama') tokenizer.

    Raises
    ------
    ModelFileError
        If the file's tokenizer is of another kind.
    MissingPackageError
        If tokenizers is not installed.

    Examples
    --------
    >>> from reattend.models import find_smollm2
    >>> tokenizer = Tokenizer(ModelFile(find_smollm2()))
    >>> tokenizer.encode("Hello world")
    [19556, 905]
    >>> tokenizer.decode([19556, 905])
    'Hello world'
    """

    def __init__(self, file: ModelFile) -> None:
        self._path = file.path
        self._tokens = file.texts("tokenizer.ggml.tokens")
        self._bos, self._eos = self._special(file, "bos"), self._special(file, "eos")
        # A chat model may end its turn with a token of its own, besides the end of the text.
        ends = (self._special(file, name) for name in ("eos", "eot", "eom"))
        self.stop = frozenset(token for token in ends if token is not None)
        self.chat_template: str | None = file.get("tokenizer.chat_template")
        if not isinstance(self.chat_template, str | None):
            raise ModelFileError(f"{file.path}: tokenizer.chat_template must be a text")
        kind = file.require("tokenizer.ggml.model")
        if kind == "gpt2":
            self._tokenizer, add_bos = self._byte_level(file)
        elif kind == "llama":
            self._tokenizer, add_bos = self._sentence_piece(file), True
        else:
            raise ModelFileError(f"{file.path} has a tokenizer of kind {kind!r}: not supported")
        add_bos = file.get("tokenizer.ggml.add_bos_token", add_bos)
        self._prefix = [self._bos] if add_bos and self._bos is not None else []
        self._add_special_tokens(file)

    def encode(self, text: str, *, prefix: bool = True) -> list[int]:
        """Turn text into tokens; special tokens may be written in it.

        Parameters
        ----------
        text : str
            The text.
        prefix : bool, optional
            Whether to begin with the token that begins a text, if the model has one.

        Examples
        --------
        See the example of the class.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._prefix + ids if prefix else ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text, without special tokens.

        Parameters
        ----------
        tokens : sequence of int
            Token ids.

        Examples
        --------
        See the example of the class.
        """
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def token(self, token: int) -> str:
        """Give a token's text as the vocabulary has it.

        Parameters
        ----------
        token : int
            Of the vocabulary.

        Examples
        --------
        >>> from reattend.models import find_smollm2
        >>> Tokenizer(ModelFile(find_smollm2())).token(1)
        '<|im_start|>'
        """
        return self._tokens[token]

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Write a conversation as the model was trained to read it, ready for the answer.

        Parameters
        ----------
        messages : sequence of {"role": ..., "content": ...}
            Roles are system, user and assistant; a content is a text, or as the template takes it.

        Returns
        -------
        str
            To be encoded with ``prefix=False``.

        Raises
        ------
        ModelFileError
            If the file has no template, or the template refuses the conversation.

        Examples
        --------
        >>> from reattend.models import find_smollm2
        >>> tokenizer = Tokenizer(ModelFile(find_smollm2()))
        >>> print(tokenizer.chat([{"role": "system", "content": "Be brief."},
        ...                       {"role": "user", "content": "Hello"}]))
        <|im_start|>system
        Be brief.<|im_end|>
        <|im_start|>user
        Hello<|im_end|>
        <|im_start|>assistant
        <BLANKLINE>
        """
        if self.chat_template is None:
            raise ModelFileError(f"{self._path} has no chat template")
        jinja2 = demand("jinja2")
        # Templates come with a model from anywhere: they run in jinja's sandbox.
        environment = demand("jinja2.sandbox").ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment.globals["raise_exception"] = refuse
        special = {"bos": self._bos, "eos": self._eos}
        try:
            text: str = environment.from_string(self.chat_template).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **{
                    f"{name}_token": "" if token is None else self._tokens[token]
                    for name, token in special.items()
                },
            )
        except (
            jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
            AttributeError, RecursionError, MemoryError,
        ) as error:  # fmt: skip
            raise ModelFileError(f"{self._path}: its chat template fails: {error}") from error
        return text

    def _special(self, file: ModelFile, name: str) -> int | None:
        token: int | None = file.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None and not (isinstance(token, int) and 0 <= token < len(self._tokens)):
            raise ModelFileError(f"{file.path}: its {name} token {token} is not in the vocabulary")
        return token

    def _byte_level(self, file: ModelFile) -> tuple[Any, bool]:
        tokenizers = demand("tokenizers")
        words = tokenizers.pre_tokenizers
        name = file.get("tokenizer.ggml.pre", "default")
        if name in _GPT2:
            cut = words.ByteLevel(add_prefix_space=False)
        elif name in _SINGLE_DIGITS:
            cut = words.Sequence(
                [words.Digits(individual_digits=True), words.ByteLevel(add_prefix_space=False)]
            )
        elif name in _LLAMA3:
            pattern = tokenizers.Regex(_LLAMA3_WORDS)
            cut = words.Sequence(
                [
                    words.Split(pattern, behavior="isolated"),
                    words.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        else:
            raise ModelFileError(f"{file.path} cuts text into words by {name!r}: not supported")
        vocab = {token: index for index, token in enumerate(self._tokens)}
        merges = []
        for index, merge in enumerate(file.texts("tokenizer.ggml.merges")):
            first, _, second = merge.partition(" ")
            if not {first, second, first + second} <= vocab.keys():
                raise ModelFileError(
                    f"{file.path}: tokenizer.ggml.merges[{index}] must be two tokens that give "
                    f"one, got {merge!r}"
                )
            merges.append((first, second))
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocab=vocab,
                merges=merges,
                ignore_merges=name in _LLAMA3,  # a word that is a token is never put together
            )
        )
        tokenizer.pre_tokenizer = cut
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        return tokenizer, name in _LLAMA3

    def _sentence_piece(self, file: ModelFile) -> Any:
        tokenizers = demand("tokenizers")
        vocab = {token: index for index, token in enumerate(self._tokens)}
        unknown = self._special(file, "unknown")
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocab=vocab,
                merges=_merges(self._tokens, self._scores(file), vocab),
                unk_token=None if unknown is None else self._tokens[unknown],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        prefixed = file.get("tokenizer.ggml.add_space_prefix", True)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme="first" if prefixed else "never", split=False
        )
        decoders = tokenizers.decoders
        parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if prefixed:
            parts.append(decoders.Strip(content=" ", left=1))
        tokenizer.decoder = decoders.Sequence(parts)
        return tokenizer

    def _scores(self, file: ModelFile) -> Sequence[float]:
        scores = file.require("tokenizer.ggml.scores")
        whole = isinstance(scores, list) and len(scores) == len(self._tokens)
        if not whole or not all(isinstance(s, (int, float)) and s == s for s in scores):
            raise ModelFileError(
                f"{file.path}: tokenizer.ggml.scores must be a number for each token"
            )
        return list(scores)

    def _add_special_tokens(self, file: ModelFile) -> None:
        added = demand("tokenizers").AddedToken
        kinds = file.get("tokenizer.ggml.token_type", [])
        if not isinstance(kinds, list):
            raise ModelFileError(f"{file.path}: tokenizer.ggml.token_type must be a list")
        special = [
            added(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(self._tokens, kinds, strict=False)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
        self._tokenizer.add_tokens(special)


# By hand: tokenizers' DecodeStream raises behind bytes that are no text (SentencePiece models give
# such, byte by byte), and does not give an incomplete character at the end.
class TextStream:
    """Gives the text of tokens as they come, never half a character.

    Parameters
    ----------
    tokenizer : Tokenizer
        What decodes.

    Examples
    --------
    >>> from reattend.models import find_smollm2
    >>> tokenizer = Tokenizer(ModelFile(find_smollm2()))
    >>> stream = TextStream(tokenizer)
    >>> [stream.push(token) for token in tokenizer.encode("a é")]
    ['a', ' é']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # the tokens of the last piece: what follows may depend on them
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """Take a token and give the text that is complete now.

        Parameters
        ----------
        token : int
            The next token.

        Examples
        --------
        See the example of the class.
        """
        self._waiting.append(token)
        text = self._text()
        if not text or text.endswith("\ufffd"):  # nothing to see, or a character's first bytes
            return ""
        self._shown, self._waiting = self._waiting, []
        return text

    def flush(self) -> str:
        """Give what is left at the end, even if its last character is incomplete.

        Examples
        --------
        See the example of the class.
        """
        text, self._waiting = self._text(), []
        return text

    def _text(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._waiting)[len(before) :]


def _merges(
    tokens: Sequence[str], scores: Sequence[float], vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Every way to put a token together from two, the best-scored token first.

    SentencePiece stores scores instead of merges; the pair whose whole scores best is merged first.
    """
    whole = sorted(range(len(tokens)), key=lambda index: -scores[index])
    return [
        (token[:cut], token[cut:])
        for token in (tokens[index] for index in whole)
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
