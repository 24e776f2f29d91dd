"""Programs that see what Python cannot: the kernels' exp number by number, oneDNN's buffers."""

import importlib.metadata
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from reattend import _core

HERE = Path(__file__).parent
CPP = HERE.parents[1] / "cpp"
LEVELS = [level for level in (2, 3, 4) if level <= int(re.sub(r".*v(\d).*", r"\1", _core.isa()))]

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86-64"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiles"),
]


def folders():
    """Give where the headers and the library of oneDNN's wheels lie."""
    try:
        return [
            next(
                each.locate().resolve().parent
                for each in importlib.metadata.files(f"onednn-{kind}cpu-gomp")
                if each.name == file
            )
            for kind, file in (("devel-", "dnnl.hpp"), ("", "libdnnl.so.3"))
        ]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs onednn-devel-cpu-gomp")


def compiled(path, level, *more):
    program = path / f"program{level}"
    # As CMakeLists.txt has it.
    flags = [
        "-std=gnu++20", "-O3", f"-march=x86-64-v{level}", "-fno-math-errno", "-fno-trapping-math",
        "-fno-signed-zeros", "-ffp-contract=fast", f"-I{CPP}",
    ]  # fmt: skip
    subprocess.run(["g++", *flags, *map(str, more), "-o", program], check=True)
    return program


@pytest.mark.parametrize("level", LEVELS)
def test_errors_of_exp_and_tanh(tmp_path, level):
    program = compiled(tmp_path, level, f"-DREATTEND_ISA=v{level}", HERE / "function_errors.cpp")
    run = subprocess.run([program], capture_output=True, text=True, check=True)
    print(run.stdout)
    found = re.findall(r"(\w+) ([\d.]+) ulp at \S+, (\d+) numbers, (\d+) wrong", run.stdout)
    assert [name for name, *_ in found] == ["exp", "tanh"]
    for (_, ulp, tried, wrong), most in zip(found, (1.03, 1.4), strict=True):
        assert float(ulp) <= most
        assert int(tried) > 2_000_000_000
        assert wrong == "0"


@pytest.mark.parametrize("level", LEVELS)
def test_products_beside_pages_that_nobody_may_touch(tmp_path, level):
    headers, library = folders()
    program = compiled(
        tmp_path, 2, "-fopenmp", f"-I{headers}", HERE / "guarded_products.cpp", CPP / "onednn.cpp",
        library / "libdnnl.so.3", f"-Wl,-rpath,{library}",
    )  # fmt: skip
    run = subprocess.run([program, str(level)], capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout or f"ended by signal {-run.returncode}"
