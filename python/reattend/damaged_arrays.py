"""What may go wrong as a damaged .npz is read: zip, deflate, npy headers, sizes that are lies."""

import struct
import tokenize
import zipfile
import zlib

__all__ = ["DAMAGED_ARRAYS"]

DAMAGED_ARRAYS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,  # of a header
    SyntaxError,
    EOFError,
    OSError,
    RuntimeError,  # encrypted, compressed by another method, nested too deep
    MemoryError,  # for a size that is a lie
    OverflowError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
