"""Reads what a GGUF file holds; what it claims is held against its size before it is believed.

The package gguf's own reader takes some 5 s for a vocabulary of 50,000 tokens, and reads as many
elements as a file says it has: a file of some bytes may claim 10^9.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from reattend.policy import Array

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TYPES = {  # of scalars, as the file numbers them
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_MOST_AXES = 4
_LEAST_FIELD = 8 + 4 + 1  # bytes: a name's length, a type, a value
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # a name's length, the number of axes, one, a type, an offset


class StructureError(ValueError):
    """What is wrong, and in which field."""


class Tensor(NamedTuple):
    """Numbers as the file packs them."""

    shape: tuple[int, ...]  # as NumPy has it, rows first
    kind: int  # the number of a GGMLQuantizationType
    data: Array  # uint8 [*shape[:-1], bytes of a row], in the file


class Content(NamedTuple):
    """All that a file holds."""

    fields: dict[str, Any]  # numbers, texts, or a list of one of them
    tensors: dict[str, Tensor]


def read(path: Path, blocks: Mapping[int, tuple[int, int]]) -> Content:
    """Read a file; its tensors stay there. What does not fit it raises StructureError.

    Parameters
    ----------
    path : path
        Of the file.
    blocks : mapping
        From a tensor's type to the numbers in a block of it, and its bytes.
    """
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise StructureError("magic: the file does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reader = _Reader(content)
            fields, places = reader.metadata(), reader.places(blocks)
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))  # plain: a memmap's pieces cost twice that
    return Content(fields, {name: place.of(mapped) for name, place in places.items()})


class _Place(NamedTuple):
    """Where a tensor lies."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int

    def of(self, content: Array) -> Tensor:
        data = content[self.start : self.start + self.size]
        return Tensor(self.shape, self.kind, data.reshape(*self.shape[:-1], -1))


class _Reader:
    """Goes through a file from its beginning; `field` says where it is."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.size = content, len(content)
        self.at, self.field = 4, "version"
        self.alignment, self.tensors = 32, 0

    def metadata(self) -> dict[str, Any]:
        version = self.number("<I")
        if version not in _VERSIONS:
            self.wrong(f"must be one of {_VERSIONS} (little-endian), got {version}")
        self.tensors = self.count("tensor_count", _LEAST_TENSOR)
        fields: dict[str, Any] = {}
        for index in range(self.count("metadata_kv_count", _LEAST_FIELD)):
            self.field = f"metadata {index}"
            key = self.string()
            self.field = f"metadata {key!r}"
            if key in fields:
                self.wrong("is there twice")
            fields[key] = self.value(key, self.number("<I"))
        return fields

    def count(self, name: str, least: int) -> int:
        self.field = name
        return self.fits(self.number("<Q"), least)

    def value(self, key: str, kind: int) -> Any:
        if key == "general.alignment":
            return self.read_alignment(kind)
        if kind == _STRING:
            return self.string()
        if kind in _TYPES:
            return self.scalars(1, kind)[0]
        if kind != _ARRAY:
            self.wrong(f"is of an unknown type {kind}")
        inner = self.number("<I")
        if inner == _ARRAY:
            self.wrong("is an array of arrays: not supported")
        if inner != _STRING and inner not in _TYPES:
            self.wrong(f"has elements of an unknown type {inner}")
        length = self.number("<Q")
        if inner == _STRING:
            return [self.string() for _ in range(self.fits(length, 8))]
        return self.scalars(length, inner)

    def scalars(self, count: int, kind: int) -> list[Any]:
        dtype = np.dtype(_TYPES[kind])
        found: Array = np.frombuffer(self.content, dtype, self.fits(count, dtype.itemsize), self.at)
        self.at += found.nbytes
        return list(found.tolist())

    def read_alignment(self, kind: int) -> int:
        if kind != _UINT32:
            self.wrong("must be a uint32")
        alignment = self.number("<I")
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            self.wrong(f"must be a power of two up to {1 << 20}, got {alignment}")
        self.alignment = alignment
        return alignment

    def places(self, blocks: Mapping[int, tuple[int, int]]) -> dict[str, _Place]:
        """Read where tensors lie, and hold that against the file and against one another."""
        found: dict[str, _Place] = {}
        for index in range(self.tensors):
            self.field = f"tensor {index}"
            name = self.string()
            self.field = f"tensor {name!r}"
            if name in found:
                self.wrong("is there twice")
            axes = self.number("<I")
            if not 1 <= axes <= _MOST_AXES:
                self.wrong(f"must have 1 to {_MOST_AXES} axes, got {axes}")
            shape = [self.number("<Q") for _ in range(axes)]
            kind, offset = self.number("<I"), self.number("<Q")
            if kind not in blocks:
                self.wrong(f"is of an unknown type {kind}")
            numbers, size = blocks[kind]
            total = 1
            for length in shape:
                total *= length
            if total == 0 or shape[0] % numbers:
                self.wrong(f"must have rows of whole blocks of {numbers}, got shape {shape}")
            if offset % self.alignment:
                self.wrong(f"must begin at a multiple of {self.alignment}, got offset {offset}")
            found[name] = _Place((*reversed(shape),), kind, offset, total // numbers * size)
        start = -(-self.at // self.alignment) * self.alignment
        end, before = 0, ""
        for name, place in sorted(found.items(), key=lambda each: each[1].start):
            self.field = f"tensor {name!r}"
            if place.start < end:
                self.wrong(f"overlaps tensor {before!r}")
            end, before = place.start + place.size, name
            if start + end > self.size:
                self.wrong(f"ends at byte {start + end} of a file of {self.size}")
        return {name: place._replace(start=start + place.start) for name, place in found.items()}

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        self.fits(1, size)
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += size
        return int(value)

    def string(self) -> str:
        length = self.fits(self.number("<Q"), 1)
        text = self.content[self.at : self.at + length]
        self.at += length
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.wrong(f"holds text that is no UTF-8: {text[:20]!r}")

    def fits(self, count: int, size: int) -> int:
        """Give a count of things of at least so many bytes, if the rest of the file holds them."""
        if count > (self.size - self.at) // size:
            self.wrong(f"claims {count} of {size} bytes, {self.size - self.at} are left")
        return count

    def wrong(self, what: str) -> NoReturn:
        raise StructureError(f"{self.field}: {what}")
