"""The compiled object: what it exports, and how it is hardened."""

import re
import shutil
import subprocess
import sys

import pytest
from reattend import _core

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("readelf") is None,
    reason="reads an ELF file by readelf",
)


def readelf(*options):
    return subprocess.run(
        ["readelf", "-W", *options, _core.__file__], capture_output=True, text=True, check=True
    ).stdout


def test_only_the_modules_entry_is_exported():
    exported = [
        fields[7].split("@")[0]
        for line in readelf("--dyn-syms").splitlines()
        if len(fields := line.split()) >= 8
        and fields[4] in ("GLOBAL", "WEAK", "UNIQUE")
        and fields[6] != "UND"
    ]
    assert exported == ["PyInit__core"]


def test_it_is_hardened():
    assert "__stack_chk_fail" in readelf("--dyn-syms")
    dynamic, segments = readelf("-d"), readelf("-l")
    assert re.search(r"FLAGS.*(BIND_NOW|NOW)", dynamic)
    assert "TEXTREL" not in dynamic
    assert "GNU_RELRO" in segments
    assert re.search(r"GNU_STACK.* RW ", segments)


def test_no_path_of_the_build_is_in_it():
    with open(_core.__file__, "rb") as file:
        content = file.read()
    assert b"cpp/bindings" not in re.sub(rb"\./cpp/bindings", b"", content)
