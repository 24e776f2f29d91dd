"""What the arguments of a call may be: each is checked once, and an error names it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reattend.border import config
from reattend.border.blocks import LAYOUTS, QuantizedBlocks, row_bytes
from reattend.border.prefixed import Prefixed
from reattend.border.quantized import Quantized, Stored
from reattend.border.request import MaskSpec
from reattend.checks import as_array, count, integer, real
from reattend.policy import LARGEST, MAX_SEGMENTS, SMALLEST_MASS, Array, Policy, Reweight

FLOAT32 = np.dtype(np.float32)
DTYPES = ("float32", "float16", "bfloat16")
MAX_THREADS = 1024  # OpenMP ends the process where the system refuses a thread
STATISTICS = (
    "score_sums", "abs_score_sums", "entropies", "largest", "largest_keys", "scores",
)  # fmt: skip
RETURNS = ("masses", "logsumexp", "column_sums", "factors", "changed", *STATISTICS)


class Shape(NamedTuple):
    """The sizes of one call."""

    batch: int
    num_heads: int
    query_len: int
    key_len: int
    head_dim: int

    @property
    def rows(self) -> tuple[int, int, int]:
        """[B, H, N]."""
        return self[:3]

    @property
    def columns(self) -> tuple[int, int, int]:
        """[B, H, M]."""
        return self.batch, self.num_heads, self.key_len


def array_or_stored(name: str, given: Any, axes: str | None = None) -> Any:
    """Take an array-like, or what is stored as it is, of any type; of four axes where named.

    What computes with it says which types it reads.
    """
    found = given if isinstance(given, Stored | Prefixed) else as_array(name, given)
    if axes is not None and found.ndim != 4:
        raise ValueError(f"{name} must have 4 axes {axes}, got shape {found.shape}")
    return found


def tensor(name: str, array: Any, axes: str, dtype: str | None = None) -> Array:
    """Give an array of four axes as the core reads it; copied only if strides demand it."""
    array = as_array(name, array)
    if array.dtype is not FLOAT32 or dtype is not None:
        _check_type(name, array.dtype, dtype)
    if array.ndim != 4:
        hint = f"; without a batch write {name}[None]" if array.ndim == 3 else ""
        raise ValueError(f"{name} must have 4 axes {axes}, got shape {array.shape}{hint}")
    return readable(array)


def stored(name: str, array: Any, axes: str, dtype: str | None = None) -> Array | Stored:
    """Give keys or values as the core reads them."""
    if isinstance(array, QuantizedBlocks):
        return _blocks(name, array, axes)
    if not isinstance(array, Quantized):
        return tensor(name, array, axes, dtype)
    numbers, scale = as_array(name, array.numbers), as_array(name, array.scale)
    if numbers.dtype != np.int8 or numbers.ndim != 4:
        raise TypeError(
            f"{name} must hold int8 numbers of 4 axes {axes}, got {numbers.dtype} {numbers.shape}"
        )
    if scale.dtype != FLOAT32 or scale.shape != numbers.shape[:3]:
        raise TypeError(
            f"{name} must have float32 scales {numbers.shape[:3]}, got {scale.dtype} {scale.shape}"
        )
    found = readable(numbers), readable(scale)
    same = found[0] is array.numbers and found[1] is array.scale
    return array if same and type(array) is Quantized else Quantized(*found)


def _blocks(name: str, array: QuantizedBlocks, axes: str) -> QuantizedBlocks:
    blocks, rest = as_array(name, array.blocks), as_array(name, array.rest)
    layout = array.layout
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"{name} must have a layout of {LAYOUTS}, got {layout!r}")
    if rest.dtype != FLOAT32 or rest.ndim != 4:
        raise TypeError(
            f"{name} must have a float32 rest of 4 axes {axes}, got {rest.dtype} {rest.shape}"
        )
    count = blocks.shape[2] if blocks.ndim == 4 else 0
    expected = (*rest.shape[:2], count, row_bytes(layout, rest.shape[3]))
    if blocks.dtype != np.uint8 or blocks.shape != expected:
        raise TypeError(
            f"{name} must have uint8 blocks {expected} of {layout}, got {blocks.dtype} "
            f"{blocks.shape}"
        )
    found = readable(blocks), readable(rest)
    same = found[0] is array.blocks and found[1] is array.rest and type(layout) is str
    if same and type(array) is QuantizedBlocks:
        return array
    return QuantizedBlocks(found[0], next(each for each in LAYOUTS if each == layout), found[1])


def prefixed(name: str, given: Prefixed, axes: str, dtype: str | None = None) -> Prefixed:
    """Check both parts of keys or values, which are to fit."""
    prefix, own = (stored(name, part, axes, dtype) for part in given)
    if prefix.shape != (1, own.shape[1], prefix.shape[2], own.shape[3]):
        raise ValueError(
            f"{name} must have a prefix [1, H_kv, P, D] with own's heads and head size, "
            f"got shapes {prefix.shape} and {own.shape}"
        )
    kinds = [getattr(part, "layout", part.dtype) for part in (prefix, own)]
    if kinds[0] != kinds[1]:
        raise TypeError(f"{name} must have parts of one type, got {kinds[0]} and {kinds[1]}")
    same = prefix is given.prefix and own is given.own
    return given if same and type(given) is Prefixed else Prefixed(prefix, own)


def _check_type(name: str, found: np.dtype[Any], dtype: str | None) -> None:
    if dtype is not None and (not isinstance(dtype, str) or dtype not in DTYPES):
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    if dtype in ("float16", "bfloat16") and found == np.uint16:
        return
    allowed = DTYPES if dtype is None else ("float32", dtype)
    if found.name not in allowed or not found.isnative:
        wanted = "float32, float16 or bfloat16" if dtype is None else f"float32 or {dtype}"
        hint = '; say what bits are by dtype="bfloat16"' if found == np.uint16 else ""
        if found.kind in "fiub" and not hint:
            hint = f"; convert it by {name}.astype(np.float32)"
        raise TypeError(f"{name} must be {wanted}, got {found}{hint}")


def check_half_types(dtype: str | None, **arrays: Array | Stored) -> None:
    """Check that the 16-bit arrays among the inputs have one type."""
    found: str | None = None
    for name, array in arrays.items():
        if array.dtype.itemsize == 2:
            own = dtype or array.dtype.name
            if found not in (None, own):
                raise TypeError(
                    f"{name} must have one 16-bit type with the others, {found}, got {own}"
                )
            found = own


def readable(array: Array) -> Array:
    """Give the array with a contiguous last axis and strides of whole elements."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return array
    size = array.itemsize
    contiguous = array.strides[-1] == size or array.shape[-1] <= 1
    if contiguous and flags.aligned and all(s % size == 0 for s in array.strides):
        return array
    return array.copy()  # np.ascontiguousarray leaves numbers where they are not aligned


def whole_strides(array: Array) -> Array:
    """Give the array with its numbers where the CPU reads them, and strides of whole elements."""
    whole = array.flags.aligned and all(step % array.itemsize == 0 for step in array.strides)
    return array if whole else array.copy()


def broadcasts(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to another one."""
    ends = zip(shape[::-1], full[::-1], strict=False)
    return len(shape) <= len(full) and all(n in (1, size) for n, size in ends)


def sizes(query: Array, key: Array | Stored) -> Shape:
    """Check query and key against each other."""
    batch, num_heads, query_len, head_dim = query.shape
    key_batch, num_kv_heads, key_len, key_dim = key.shape
    if key_batch != batch:
        raise ValueError(f"key must have the batch size of query, {batch}, got {key_batch}")
    if key_dim != head_dim:
        raise ValueError(f"key must have the head size of query, {head_dim}, got {key_dim}")
    if head_dim == 0:
        raise ValueError(f"query must have a head size of at least 1, got shape {query.shape}")
    if num_heads % num_kv_heads if num_kv_heads else num_heads:
        raise ValueError(
            f"query's number of heads must be a multiple of key's, {num_kv_heads}, got {num_heads}"
        )
    return Shape(batch, num_heads, query_len, key_len, head_dim)


def check_value(value: Array | Stored, key: Array | Stored) -> None:
    """Check value against key."""
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"value must have batch, heads and length of key, {key.shape[:3]}, "
            f"got {value.shape[:3]}"
        )


def masks(shape: Shape, mask: MaskSpec) -> MaskSpec:
    """Check scale and masks."""
    mask = scalars(mask)
    return mask._replace(
        key_mask=None if mask.key_mask is None else _key_mask(shape, mask.key_mask),
        bias=None if mask.bias is None else _bias(shape, mask.bias),
        dtype=None if mask.dtype is None else next(name for name in DTYPES if name == mask.dtype),
    )


def scalars(mask: MaskSpec) -> MaskSpec:
    """Check what is no array among scale and masks."""
    scale, causal, window, softcap = mask.scale, mask.causal, mask.window, mask.softcap
    if scale is not None:
        scale = real("scale", scale)
        if not abs(scale) <= LARGEST:
            raise ValueError(f"scale must be a finite float32 number, got {scale}")
    if not isinstance(causal, (bool, np.bool_)):
        raise TypeError(f"causal must be a bool, got {causal!r}")
    if window is not None:
        window = integer("window", window)
        if window < 1:
            raise ValueError(f"window must be at least 1 key, got {window}")
    if softcap is not None:
        softcap = real("softcap", softcap)
        if not SMALLEST_MASS <= softcap <= LARGEST:
            raise ValueError(f"softcap must be a positive finite number, got {softcap}")
    dtype = mask.dtype
    if dtype is not None and (not isinstance(dtype, str) or dtype not in DTYPES):
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    return mask._replace(scale=scale, causal=bool(causal), window=window, softcap=softcap)


def labels(shape: Shape, segments: Any) -> Array:
    """Check segments: integer labels [B, 1 or H, at most M] as uint8."""
    segments = as_array("segments", segments)
    if segments.dtype.kind not in "uib":
        raise TypeError(f"segments must be uint8 labels, got {segments.dtype}")
    if segments.ndim != 3:
        raise ValueError(f"segments must have 3 axes [B, 1 or H, M], got shape {segments.shape}")
    batch, heads, length = segments.shape
    if batch != shape.batch or heads not in (1, shape.num_heads) or length > shape.key_len:
        raise ValueError(
            f"segments must have shape [{shape.batch}, 1 or {shape.num_heads}, at most "
            f"{shape.key_len}], got {segments.shape}"
        )
    if segments.dtype.kind == "i" and segments.size and segments.min() < 0:
        raise ValueError(f"segments must hold labels from 0, got {segments.min()}")
    if segments.dtype.itemsize > 1 and segments.size and segments.max() > 255:
        raise ValueError(f"segments must be uint8 labels, got {segments.max()}")
    return readable(segments.astype(np.uint8, copy=False))


def count_segments(segments: Array | None, num_segments: int | None) -> int:
    """Give G; the core checks that labels are below it."""
    if num_segments is not None:
        return num_segments
    most = int(segments.max()) if segments is not None and segments.size else 0
    if most >= MAX_SEGMENTS:
        raise ValueError(
            f"segments must hold labels below {MAX_SEGMENTS}, the most a pass keeps apart, "
            f"got {most}"
        )
    return most + 1


def policies(policy: Any) -> Policy | tuple[Policy, ...] | None:
    """Check the policies; several become a tuple."""
    if policy is None:
        return None
    if callable(policy):
        found: Policy = policy
        return found
    if not isinstance(policy, (list, tuple)):
        raise TypeError(f"policy must be a callable or a sequence of them, got {policy!r}")
    for each in policy:
        if not callable(each):
            raise TypeError(f"policy must be a callable or a sequence of them, got {each!r}")
    sizes = {each.num_segments for each in policy if isinstance(each, Reweight)}
    if len(sizes) > 1:
        raise ValueError(f"policy: all weights must have one length, got lengths {sorted(sizes)}")
    return policy if type(policy) is tuple else tuple(policy)


def wheres(shape: Shape, where: Any, count: int) -> Array | tuple[Array | None, ...] | None:
    """Check the rows of the policies: one bool array for all, or one or None for each."""
    if where is None:
        return None
    if not isinstance(where, (list, tuple)):
        return _rows(shape, where)
    if len(where) != count:
        raise ValueError(
            f"where must be one array or one for each policy, {count}, got {len(where)}"
        )
    found = tuple(None if each is None else _rows(shape, each) for each in where)
    if type(where) is tuple and all(map(operator.is_, found, where)):
        return where
    return found


def check_weights(shape: Shape, policies: Sequence[Policy]) -> None:
    """Check that the weights of each Reweight broadcast to the call's heads."""
    for policy in policies:
        if not isinstance(policy, Reweight):
            continue
        weight = policy.packed[0]
        if weight.shape[0] not in (1, shape.batch) or weight.shape[1] not in (1, shape.num_heads):
            raise ValueError(
                f"policy: weight must broadcast to [B, H, G] = "
                f"{(shape.batch, shape.num_heads, policy.num_segments)}, got shape {weight.shape}"
            )


def names(returns: Any) -> tuple[str, ...]:
    """Check the names of what is to be returned."""
    found = (returns,) if isinstance(returns, str) else returns
    if not isinstance(found, (list, tuple, set, frozenset)):
        raise TypeError(f"returns must be a name or a sequence of names, got {returns!r}")
    for name in found:
        if name not in RETURNS:
            hint = "; rows of weights are measures.attention_rows'" if name == "weights" else ""
            raise ValueError(f"returns must hold names of {RETURNS}, got {name!r}{hint}")
    return returns if type(returns) is tuple else tuple(found)


def output(
    out: Any, full: tuple[int, ...], inputs: Sequence[Array | None], dtype: np.dtype[Any] = FLOAT32
) -> Array:
    """Check where results are written to; give other room where the core cannot write there."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.dtype not in (FLOAT32, dtype):
        other = "" if dtype == FLOAT32 else f" or {dtype}"
        raise TypeError(f"out must be float32{other}, got {out.dtype}")
    if out.shape != full:
        raise ValueError(f"out must have shape {full}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if _overlaps_itself(out):
        raise ValueError(f"out must not overlap with itself, got strides {out.strides}")
    for array in inputs:
        if array is not None and _overlap(out, array):
            raise ValueError("out must not overlap with an input, got memory that they share")
    between = any(array is not None and np.may_share_memory(out, array) for array in inputs)
    if between or readable(out) is not out:
        return np.empty(full, out.dtype)
    return out if type(out) is np.ndarray else out.view(np.ndarray)


def logsumexp(shape: Shape, given: Any) -> Array:
    """Check the logsumexp of an earlier pass."""
    found = as_array("logsumexp", given)
    if found.dtype != FLOAT32 or found.shape != shape.rows:
        raise ValueError(
            f"logsumexp must be float32 [B, H, N] = {shape.rows}, got {found.dtype} {found.shape}"
        )
    return found if found.flags.c_contiguous and found.flags.aligned else found.copy("C")


def head_set(shape: Shape, given: Any) -> Array:
    """Check the heads, bool [H] or [B, H], that something is computed for; give [B, H]."""
    heads = as_array("heads", given)
    if heads.dtype != bool or heads.shape not in (shape.rows[1:2], shape.rows[:2]):
        raise ValueError(
            f"heads must be bool [H] or [B, H] = {shape.rows[:2]}, got {heads.dtype} {heads.shape}"
        )
    return np.ascontiguousarray(np.broadcast_to(heads, shape.rows[:2]))


def threads(num_threads: int | None) -> int:
    """Check the number of threads; the default where it is None."""
    if num_threads is None:
        return config.num_threads()
    return count("num_threads", num_threads, 1, MAX_THREADS)


def _overlaps_itself(array: Array) -> bool:
    extent = array.itemsize  # of the axes with smaller strides
    for step, n in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if n > 1 and step < extent:
            return True
        extent += (n - 1) * step if n > 1 else 0
    return False


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _key_mask(shape: Shape, key_mask: Any) -> Array:
    key_mask = as_array("key_mask", key_mask)
    if key_mask.dtype != bool:
        raise TypeError(f"key_mask must be bool, False for padding, got {key_mask.dtype}")
    if key_mask.shape != (shape.batch, shape.key_len):
        raise ValueError(
            f"key_mask must have shape [B, M] = {(shape.batch, shape.key_len)}, "
            f"got {key_mask.shape}"
        )
    return np.ascontiguousarray(key_mask)


def _bias(shape: Shape, bias: Any) -> Array:
    bias = as_array("bias", bias)
    if bias.dtype.kind != "f":
        hint = "; for a mask use np.where(mask, 0, -np.inf)" if bias.dtype == bool else ""
        raise TypeError(f"bias must be float32, added to the scores, got {bias.dtype}{hint}")
    full = (*shape.rows, shape.key_len)
    if not broadcasts(bias.shape, full):
        raise ValueError(f"bias must broadcast to [B, H, N, M] = {full}, got shape {bias.shape}")
    return whole_strides(bias.astype(np.float32, copy=False))


def _rows(shape: Shape, where: Any) -> Array:
    where = as_array("where", where)
    if where.dtype != bool:
        raise TypeError(f"where must be bool, got {where.dtype}")
    if not broadcasts(where.shape, shape.rows):
        raise ValueError(
            f"where must broadcast to [B, H, N] = {shape.rows}, got shape {where.shape}"
        )
    rows: Array = where
    return rows
