"""What a GGUF file claims, held against its size before anybody believes it.

The package gguf reads as many elements as a file says it has: a file of some bytes may claim 10^9.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_MOST_AXES = 4
_LEAST_FIELD = 8 + 4 + 1  # bytes: a name's length, a type, a value
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # a name's length, the number of axes, one, a type, an offset


class StructureError(ValueError):
    """What is wrong, and in which field."""


def check(path: Path, blocks: Mapping[int, tuple[int, int]]) -> None:
    """Raise StructureError if a count, length, offset or dimension does not fit the file.

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
            _Reader(content).check(blocks)


class _Reader:
    """Goes through a file from its beginning; `field` says where it is."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.size = content, len(content)
        self.at, self.field = 4, "version"
        self.alignment = 32

    def check(self, blocks: Mapping[int, tuple[int, int]]) -> None:
        version = self.number("<I")
        if version not in _VERSIONS:
            self.wrong(f"must be one of {_VERSIONS} (little-endian), got {version}")
        tensors = self.count("tensor_count", _LEAST_TENSOR)
        fields = self.count("metadata_kv_count", _LEAST_FIELD)
        keys: set[str] = set()
        for index in range(fields):
            self.field = f"metadata {index}"
            key = self.string()
            self.field = f"metadata {key!r}"
            if key in keys:
                self.wrong("is there twice")
            keys.add(key)
            self.value(key, self.number("<I"))
        self.places(tensors, blocks)

    def count(self, name: str, least: int) -> int:
        self.field = name
        return self.fits(self.number("<Q"), least)

    def value(self, key: str, kind: int) -> None:
        if key == "general.alignment":
            self.read_alignment(kind)
        elif kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            inner = self.number("<I")
            if inner == _ARRAY:
                self.wrong("is an array of arrays: not supported")
            if inner != _STRING and inner not in _SIZES:
                self.wrong(f"has elements of an unknown type {inner}")
            length = self.number("<Q")
            if inner == _STRING:
                for _ in range(self.fits(length, 8)):
                    self.string()
            else:
                self.at += self.fits(length, _SIZES[inner]) * _SIZES[inner]
        elif kind in _SIZES:
            self.at += self.fits(1, _SIZES[kind]) * _SIZES[kind]
        else:
            self.wrong(f"is of an unknown type {kind}")

    def read_alignment(self, kind: int) -> None:
        if kind != _UINT32:
            self.wrong("must be a uint32")
        alignment = self.number("<I")
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            self.wrong(f"must be a power of two up to {1 << 20}, got {alignment}")
        self.alignment = alignment

    def places(self, count: int, blocks: Mapping[int, tuple[int, int]]) -> None:
        """Read where tensors lie, and hold that against the file and against one another."""
        found: list[tuple[int, int, str]] = []
        names: set[str] = set()
        for index in range(count):
            self.field = f"tensor {index}"
            name = self.string()
            self.field = f"tensor {name!r}"
            if name in names:
                self.wrong("is there twice")
            names.add(name)
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
            found.append((offset, total // numbers * size, name))
        start = -(-self.at // self.alignment) * self.alignment
        end, before = 0, ""
        for offset, size, name in sorted(found):
            self.field = f"tensor {name!r}"
            if offset < end:
                self.wrong(f"overlaps tensor {before!r}")
            end, before = offset + size, name
            if start + end > self.size:
                self.wrong(f"ends at byte {start + end} of a file of {self.size}")

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
