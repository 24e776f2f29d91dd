"""Files with some bytes changed or cut off: read, or refused by name; at once, in little memory."""

import contextlib
import random
import resource
import signal
import sys
import time
from pathlib import Path

MEMORY = 64 << 20  # beyond twice the file
SECONDS = 10  # of a CPU, for one file


def changed(content, draw):
    """Change some bytes, or cut the content."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(min(len(content), draw.choice((64, 2000, 20_000, len(content)))))
        content[at : at + draw.choice((1, 4, 8))] = draw.choice(
            (b"\xff" * 8, b"\0" * 8, draw.randbytes(8), b"\xff" * 7 + b"\x7f")
        )[: draw.choice((1, 4, 8))]
    return bytes(content[: draw.randrange(len(content))] if draw.random() < 0.1 else content)


def changed_text(content, draw):
    """Change a text as who edits it may: other numbers, signs and words, lines twice or gone."""
    if draw.random() < 0.3:
        return changed(content, draw)
    words = (b"-1", b"1e999", b"NaN", b"9" * 400, b"null", b"[", b"{", b'"', b"\\u0000", b"\n",
             b"[" * 5000, b"true", b"0", b"{}", b"\xff")  # fmt: skip
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(content))
        content = content[:at] + draw.choice(words) + content[at + draw.choice((0, 1, 2, 9)) :]
    return content


def _status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def _peak():
    if sys.platform.startswith("linux"):
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _forget_peak():
    """Let the peak be counted from now on, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def names(error, path):
    """Make sure that an error names the file, or its folder."""
    assert path.name in str(error) or path.parent.name in str(error), error
    return True


def _hangs(*_):
    raise TimeoutError(f"a file was read for {SECONDS} s of a CPU")


def fuzz(path, read, refusal, times, change=changed):
    """Change a file so often and read it: it is read, or refused by an error that names it.

    Gives how many were read, how many refused, the longest seconds and the most memory.
    """
    content, draw = path.read_bytes(), random.Random(0)
    refused = read_well = longest = most = 0
    before = signal.signal(signal.SIGPROF, _hangs)
    try:
        for _ in range(times):
            path.write_bytes(change(content, draw))
            _forget_peak()
            held, start = _peak(), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                read(path)
                read_well += 1
            except refusal as error:
                refused += names(error, path)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            longest = max(longest, time.process_time() - start)
            most = max(most, _peak() - held)
            assert most <= 2 * len(content) + MEMORY
    finally:
        signal.signal(signal.SIGPROF, before)
        path.write_bytes(content)
    assert refused > 0
    return read_well, refused, longest, most
