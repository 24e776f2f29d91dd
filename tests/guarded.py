"""Arrays beside memory that nobody may touch: a read or write past an end stops the process."""

import ctypes
import mmap

import numpy as np

_PAGE = mmap.PAGESIZE
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_kept = []  # mappings live as long as the process: arrays point into them


def guarded(array, side):
    """Copy a C-contiguous array so that it ends ("end") or begins ("begin") at a page's edge."""
    pages = -(-array.nbytes // _PAGE) or 1
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + (pages + 1) * _PAGE):
        if _mprotect(page, _PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(memory)
    offset = _PAGE if side == "begin" else (pages + 1) * _PAGE - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy
