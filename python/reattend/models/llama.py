"""A Llama-type decoder as a plain NumPy loop: the example to copy for a model of one's own.

Three of its lines are reattend's, in `Llama.__call__` and `generate`; the rest is the model.

    with session.generation(prompt_len=P):                                     # once a prompt
        keys, values = cache.append(layer, key, value)                         # in each layer
        out = session.attend(layer, query, keys, values, hidden_states=x)      # likewise

Run such a loop with OMP_WAIT_POLICY=passive in the environment: NumPy's BLAS has threads of its
own, and OpenMP's, which wait by spinning, take the cores from them (`reattend generate` does so).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass

import numpy as np

from reattend.cache.kv_cache import KVCache
from reattend.checks import as_array, integers, marks
from reattend.models.sampling import choose
from reattend.policy import Array
from reattend.session import Session

# Rows that go through a matrix at once. What they need between two matrices stays in the CPU's
# caches, and is small enough to be used again: large arrays would come from the system each time.
_ROWS = 1024


@dataclass(frozen=True)
class Config:
    """A model's sizes."""

    num_layers: int
    num_heads: int  # H
    num_kv_heads: int  # H_kv
    head_dim: int  # D
    hidden_size: int  # C
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    context_length: int = 2048  # longest prompt and answer it was trained for


@dataclass(frozen=True)
class Layer:
    """One layer's weights, float32, each matrix contiguous as [in, out].

    A decoding step reads every weight once and does little else, so matrices that multiply the same
    vector are one array. [in, out] is the layout in which OpenBLAS reads a wide matrix fastest: 38
    GB/s against 22 for [out, in] at 576 x 49152 (2 threads, Zen 4).
    """

    attention_norm: Array  # [C]
    query_key_value: Array  # [C, (H + 2 H_kv) D], rotary pairs side by side
    attention_output: Array  # [H D, C]
    mlp_norm: Array  # [C]
    gate_up: Array  # [C, 2 F]
    down: Array  # [F, C]
    query_key_value_bias: Array | None = None  # [(H + 2 H_kv) D], of Qwen 2
    query_norm: Array | None = None  # [D], of each head's query, rotary pairs side by side: Qwen 3
    key_norm: Array | None = None  # [D]


class Llama:
    """A decoder with grouped heads, rotary positions, RMSNorm and SwiGLU.

    Parameters
    ----------
    config : Config
        Sizes.
    layers : list of Layer
        Weights of each layer.
    embedding : float32 array [C, V]
        Token embeddings, in columns: also the last matrix where the two are tied.
    final_norm : float32 array [C]
        Weight of the last norm.
    head : float32 array [C, V], optional
        The last matrix; ``embedding`` by default.
    rope_divisors : array [D / 2], optional
        Divides the rotary frequencies (Llama 3.1's longer context).

    Examples
    --------
    >>> config = Config(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, hidden_size=8)
    >>> rng = np.random.default_rng(0)
    >>> def weight(*shape):
    ...     return rng.standard_normal(shape, dtype=np.float32)
    >>> matrices = weight(8, 16), weight(8, 8), weight(8, 12), weight(6, 8)
    >>> layer = Layer(weight(8), *matrices[:2], weight(8), *matrices[2:])
    >>> model = Llama(config, [layer], embedding=weight(8, 20), final_norm=weight(8))
    >>> session, prompt = Session([], num_layers=1), np.array([[3, 1, 4]])
    >>> len(list(generate(model, session, prompt, max_new_tokens=5)))
    5
    """

    def __init__(
        self,
        config: Config,
        layers: list[Layer],
        embedding: Array,
        final_norm: Array,
        head: Array | None = None,
        rope_divisors: Array | None = None,
    ) -> None:
        self.config = config
        self.layers = layers
        self.embedding = embedding
        self.final_norm = final_norm
        self.head = embedding if head is None else head
        # float32, because that is what the models were trained with.
        powers = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        self.frequencies = 1 / np.float32(config.rope_base) ** powers  # [D / 2]
        if rope_divisors is not None:
            self.frequencies = self.frequencies / rope_divisors.astype(np.float32)

    def __call__(
        self,
        tokens: Array,
        cache: KVCache,
        session: Session,
        key_mask: Array | None = None,
        *,
        layers: range | None = None,
    ) -> Array:
        """Read tokens after those in the cache; inside ``session.generation()``.

        Parameters
        ----------
        tokens : int array [B, N], or float32 array [B, N, C]
            Token ids, or embeddings, where some are not of tokens (a picture's).
        cache : KVCache
            Keys and values of the M - N tokens before; these N are added.
        session : Session
            Runs attention, with its methods.
        key_mask : bool array [B, M], optional
            False for padding, which goes to the left.
        layers : range, optional
            The layers to run, one after the other; all by default. From a later one than the first,
            ``tokens`` are the hidden states that enter it.

        Returns
        -------
        float32 array [B, N, C]
            Hidden states after the last of these layers; `logits` turns those of the model's last
            that matter into logits.

        Raises
        ------
        TypeError, ValueError
            If ``tokens`` are none of the model's, or embeddings of another type or size.
        """
        sizes = self.config
        embedded = self._embedded(tokens)
        batch, count = embedded.shape[:2]
        run = range(sizes.num_layers) if layers is None else layers
        lengths = {cache.length(layer) for layer in run}
        if len(lengths) > 1:
            raise ValueError(
                f"cache must hold as many keys in each of {run}, got {sorted(lengths)}"
            )
        past = max(lengths, default=0)
        if key_mask is not None:
            key_mask = marks("key_mask", key_mask, "[B, M]", (batch, past + count))
        heads, num_rotated = sizes.num_heads, sizes.num_heads + sizes.num_kv_heads
        rotation = self._rotation(batch, count, past, key_mask)
        # Rows of all items in one matrix [B N, C]: then weights are read once, whatever B.
        x = embedded.reshape(batch * count, -1)
        # Arrays of all rows are made once, not in each layer, and others hold a block of rows.
        qkv = np.empty((batch, count, num_rotated + sizes.num_kv_heads, sizes.head_dim), x.dtype)
        out = np.empty((batch, count, heads, sizes.head_dim), x.dtype)
        flat_qkv, flat_out = (each.reshape(batch * count, -1) for each in (qkv, out))
        query, key, value = np.split(qkv.transpose(0, 2, 1, 3), (heads, num_rotated), axis=1)
        rotated = qkv[:, :, :num_rotated].view(np.complex64)  # each pair of neighbours
        blocks = [slice(at, at + _ROWS) for at in range(0, batch * count, _ROWS)]
        for index in run:
            layer = self.layers[index]
            for rows in blocks:
                normed = _rms_norm(x[rows], layer.attention_norm, sizes.norm_eps)
                flat_qkv[rows] = normed @ layer.query_key_value
            if layer.query_key_value_bias is not None:
                flat_qkv += layer.query_key_value_bias
            for part, norm in ((query, layer.query_norm), (key, layer.key_norm)):
                if norm is not None:
                    part[:] = _rms_norm(part, norm, sizes.norm_eps)
            rotated *= rotation
            keys, values = cache.append(index, key, value)
            session.attend(
                index, query, keys, values,
                hidden_states=x.reshape(batch, count, -1), key_mask=key_mask,
                out=out.transpose(0, 2, 1, 3),
            )  # fmt: skip
            for rows in blocks:
                some = x[rows]
                some += flat_out[rows] @ layer.attention_output
                gate_up = _rms_norm(some, layer.mlp_norm, sizes.norm_eps) @ layer.gate_up
                some += _swiglu(gate_up) @ layer.down
        return x.reshape(batch, count, -1)

    def embed(self, tokens: Array) -> Array:
        """Turn tokens [B, N] into embeddings [B, N, C]; refuse what is no token of the model."""
        tokens, last = integers("tokens", tokens, "[B, N]"), self.embedding.shape[1] - 1
        if tokens.size and not (tokens.min() >= 0 and tokens.max() <= last):
            raise ValueError(
                f"tokens must be from 0 to {last}, got {tokens.min()} to {tokens.max()}"
            )
        return np.take(self.embedding, tokens, axis=1).transpose(1, 2, 0).copy()

    def _embedded(self, tokens: Array) -> Array:
        """Give embeddings [B, N, C] of tokens, or a copy of what came as embeddings."""
        given, size = as_array("tokens", tokens), self.config.hidden_size
        if given.ndim != 3:
            return self.embed(given)
        if given.dtype != np.float32 or given.shape[2] != size:
            raise TypeError(
                f"tokens must be integers [B, N] or float32 [B, N, {size}], got {given.dtype} of "
                f"shape {given.shape}"
            )
        return given.copy()

    def logits(self, hidden_states: Array) -> Array:
        """Turn hidden states after the last layer [..., C] into logits [..., V].

        Ask for few rows: of a prompt only the last one says what comes next.
        """
        logits: Array = _rms_norm(hidden_states, self.final_norm, self.config.norm_eps) @ self.head
        return logits

    def _rotation(self, batch: int, count: int, past: int, key_mask: Array | None) -> Array:
        """Rotary embedding of the rows as complex numbers [B or 1, N, 1, D / 2]."""
        positions = np.arange(past, past + count)[None]
        if key_mask is not None:  # count from the first token that is no padding
            positions = np.maximum(np.cumsum(key_mask, axis=1)[:, past:] - 1, 0)
        angles = positions[:, :, None, None].astype(np.float32) * self.frequencies
        return np.asarray(np.exp(1j * angles), dtype=np.complex64)


def _rms_norm(x: Array, weight: Array, eps: float) -> Array:
    mean_square = np.add.reduce(x * x, axis=-1, keepdims=True) / x.shape[-1]
    result: Array = x / np.sqrt(mean_square + eps) * weight
    return result


def _swiglu(gate_up: Array) -> Array:
    """[..., gate and up] -> gate / (1 + exp(-gate)) up, written over up."""
    half = gate_up.shape[-1] // 2
    gate, up = gate_up[..., :half], gate_up[..., half:]
    with np.errstate(over="ignore"):  # a very negative gate: exp is inf and the quotient -0
        divisor = np.negative(gate)  # one array, written over: new ones cost more than the numbers
        np.exp(divisor, out=divisor)
        divisor += 1
        up *= gate
        up /= divisor
    return up


def generate(
    model: Llama,
    session: Session,
    tokens: Array,
    *,
    max_new_tokens: int,
    key_mask: Array | None = None,
    image: Array | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Collection[int] = (),
    logits_processor: Callable[[Array, Array], Array] | None = None,
    observe: Callable[[Array], None] | None = None,
    shrink: bool = False,
) -> Generator[Array, None, None]:
    """Yield the tokens that follow a prompt, one step at a time.

    Parameters
    ----------
    model : Llama
        The model.
    session : Session
        Runs attention, with its methods; plain attention if it has none.
    tokens : int array [B, P], or float32 array [B, P, C]
        The prompt, padded on the left: tokens, or embeddings.
    max_new_tokens : int
        How many steps at most.
    key_mask : bool array [B, P], optional
        False for padding.
    image : bool array [B, P], optional
        True where the prompt is an image, for methods that ask.
    temperature, top_p, seed
        As for `choose`; greedy by default. ``seed`` makes sampling repeatable.
    stop : collection of int, optional
        Tokens that end an answer. Generation ends when every item had one.
    logits_processor : callable, optional
        Called with the new tokens so far [B, n] and the logits [B, V] of the next, of items that
        go on; gives the logits to choose from. `reattend.decoding.TwoBranch` is one.
    observe : callable, optional
        Called with each step's logits [B, V], those it chooses from, before its token is yielded.
    shrink : bool, optional
        Whether the steps after an item's end leave it out: faster for answers of different lengths.
        The session's report is then of the items that ended last.

    Yields
    ------
    int array [B]
        The next token of each item. What follows an item's end means nothing.

    Raises
    ------
    TypeError, ValueError
        At the first step, if the prompt is empty, padded at its end, or does not fit its masks.
    """
    tokens, key_mask, image = checked_prompt(tokens, key_mask, image)
    rng = np.random.default_rng(seed)
    batch, prompt_len = tokens.shape[:2]
    cache = KVCache(model.config.num_layers, capacity=prompt_len + max_new_tokens)
    ended, items = np.zeros(batch, dtype=bool), np.arange(batch)  # items: those that rows are of
    said = np.empty((batch, 0), np.int64)
    with session.generation(image, prompt_len=prompt_len):
        for _ in range(max_new_tokens):
            x = model(tokens, cache, session, key_mask)
            logits = model.logits(x[:, -1])
            if logits_processor is not None:
                logits = logits_processor(said, logits)
            if observe is not None:
                observe(_scattered(logits, items, batch))
            new = choose(logits, temperature, top_p, rng)
            yield _scattered(new, items, batch)
            said = np.concatenate([said, new[:, None]], axis=1)
            ended |= np.isin(new, list(stop))
            if ended.all():
                return
            if shrink and ended.any():
                rows = _close_up(ended)
                new, items, ended, said = new[rows], items[rows], ended[rows], said[rows]
                cache.reorder(rows)
                session.reorder(rows)
                key_mask = None if key_mask is None else key_mask[rows]
            tokens = new[:, None]
            if key_mask is not None:
                key_mask = np.pad(key_mask, ((0, 0), (0, 1)), constant_values=True)


def checked_prompt(
    tokens: Array, key_mask: Array | None, image: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """Give a prompt as arrays, or say what is wrong with it.

    What follows a prompt is read off its last column, which padding at the end would be.

    Parameters
    ----------
    tokens, key_mask, image
        As for `generate`.

    Raises
    ------
    TypeError, ValueError
    """
    tokens = as_array("tokens", tokens)
    if tokens.ndim not in (2, 3) or not all(tokens.shape[:2]):
        raise ValueError(
            "tokens must be prompts [B, P] or [B, P, C] of at least one token, got shape "
            f"{tokens.shape}"
        )
    if key_mask is not None:
        key_mask = marks("key_mask", key_mask, "[B, P]", tokens.shape[:2])
        padded = np.flatnonzero(~key_mask[:, -1])
        if padded.size:
            raise ValueError(
                "key_mask must be True at each prompt's last token: pad prompts on the left, got "
                f"padding at the end of {padded.tolist()}"
            )
    if image is not None:
        image = marks("image", image, "[B, P]", tokens.shape[:2])
    return tokens, key_mask, image


def _close_up(ended: Array) -> Array:
    """Give the rows that go on, the last ones in the places of those that ended: few move."""
    count = np.count_nonzero(~ended)
    rows = np.arange(count)
    rows[ended[:count]] = count + np.flatnonzero(~ended[count:])
    return rows


def _scattered(rows: Array, items: Array, batch: int) -> Array:
    """Put the rows of some items [n, ...] among those of all [B, ...], others 0."""
    if len(rows) == batch:
        return rows
    found = np.zeros((batch, *rows.shape[1:]), rows.dtype)
    found[items] = rows
    return found
