"""Print the files that a guest needs, each followed by a zero byte, its folders before it.

They are this Python, the distributions that are named with what they need, this repository and a
shell; what links point to and the libraries that all of these load are among them.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

NOT_OF_PYTHON = re.compile(r"/(test|idlelib|lib2to3|ensurepip|tkinter|site-packages)(/|$)")
NOT_NEEDED = re.compile(r"/tests/|/config-\d|\.opt-\d\.pyc$|\.[ah]$")
TWICE = re.compile(r"/libdnnl\.so(\.3\.\d)?$")  # beside libdnnl.so.3, which is loaded


def normal(path: Path) -> Path:
    """Leave out what `..` takes back."""
    return Path(os.path.normpath(path))


def distributions(names: list[str]) -> dict[str, Distribution]:
    """Give the installed ones of those named and of what they need."""
    found: dict[str, Distribution] = {}
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        needs = [each for each in found[name].requires or () if "extra ==" not in each]
        names += [re.split(r"[^\w.-]", each)[0] for each in needs]
    return found


def of_python() -> Iterator[Path]:
    """Give the files of this Python and of the distributions."""
    yield from (Path(sys.executable), Path(sys.prefix, "pyvenv.cfg"))
    for folder, _, names in os.walk(sysconfig.get_path("stdlib")):
        if not NOT_OF_PYTHON.search(folder):
            yield from (Path(folder, name) for name in names)
    for each in distributions(sys.argv[1:]).values():
        for file in each.files or ():
            yield normal(Path(str(each.locate_file(file))))


def of_repository() -> Iterator[Path]:
    """Give the files that git does not ignore, the core if built here, and compiled Python."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, text=True).split("\0")[:-1]:
        yield Path.cwd() / name
    for ignored in ("python/reattend/_core*.so", "python/**/*.pyc", "tests/**/*.pyc"):
        yield from Path.cwd().glob(ignored)


def libraries(files: list[Path]) -> Iterator[Path]:
    """Give what the loader finds for programs and shared objects."""
    for file in files:
        if ".so" in file.suffixes or file.samefile(sys.executable):
            told = subprocess.run(["ldd", file], capture_output=True, text=True, check=False)
            for library in re.findall(r"(?<!\S)/\S+(?= \(0x)", told.stdout):
                yield normal(Path(library))


def add(file: Path, found: dict[Path, None]) -> None:
    """Add a file after the folders above it, and what links on the way point to after them."""
    for part in [*reversed(file.parents), file]:
        if part not in found:
            found[part] = None
            if part.is_symlink():
                add(normal(part.parent / part.readlink()), found)


chosen = [
    file for file in of_python() if not NOT_NEEDED.search(str(file)) and not TWICE.search(str(file))
]
chosen = [file for file in [*chosen, *of_repository(), Path("/bin/busybox")] if file.exists()]
found: dict[Path, None] = {}
for each in [*chosen, *libraries(chosen)]:
    add(each, found)
sys.stdout.write("".join(f"{file}\0" for file in found))
