"""Faults put into the kernels, all in one build: the suite must notice each.

`PYTHONPATH=tests:tests/fuzz python tests/mutation/kernel_mutants.py` builds in build/mutants, runs
the kernels' tests with one fault at a time, and prints how many were noticed and which were not.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"
CHOSEN = "REATTEND_MUTANT"  # the variable that says which
SECONDS = 300  # a fault that takes longer is noticed, as one that hangs
# The quick ones first.
TESTS = ("policy", "attention", "golden", "transform", "nonfinite", "open_road", "second_pass",
         "same_bytes", "guard_pages", "threads", "accuracy")  # fmt: skip
MORE = ("tests/border/test_quantized.py", "tests/border/test_half_precision.py")


def mutants():
    """Give (file, what stands there, with the fault to choose from) of each line of the list."""
    lines = Path(__file__).with_name("kernel_mutants.txt").read_text("utf-8").splitlines()
    for line in lines:
        if line.strip() and not line.startswith("#"):
            file, text = line.split(None, 1)
            yield file, re.fullmatch(r"(.*)«(.*)\|(.*?)»(.*)", text.strip()).groups()


def changed_sources():
    """Write the sources with all faults in them."""
    shutil.rmtree(BUILD / "source", ignore_errors=True)
    shutil.copytree(ROOT / "cpp", BUILD / "source" / "cpp")
    for name in ("CMakeLists.txt", "sbom.cdx.json.in"):
        shutil.copy(ROOT / name, BUILD / "source")
    for number, (file, (before, old, new, after)) in enumerate(mutants(), 1):
        path = BUILD / "source" / "cpp" / file
        text = path.read_text("utf-8")
        whole = before + old + after
        if text.count(whole) != 1:
            sys.exit(f"{file} has {text.count(whole)} of: {whole}")
        choice = f"(::reattend_mutant == {number} ? ({new}) : ({old}))"
        path.write_text(text.replace(whole, before + choice + after), "utf-8")
    machine = BUILD / "source" / "cpp" / "machine.cpp"
    machine.write_text(
        machine.read_text("utf-8")
        + f"\n#include <cstdlib>\nint reattend_mutant = std::getenv(\"{CHOSEN}\") ? "
        f"std::atoi(std::getenv(\"{CHOSEN}\")) : 0;\n"
    )  # fmt: skip
    (BUILD / "source" / "mutant.h").write_text("extern int reattend_mutant;\n")


def build():
    """Compile them, and lay a package beside that has this core."""
    changed_sources()
    cmake = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(
        ["cmake", "-S", BUILD / "source", "-B", BUILD / "made", "-DCMAKE_BUILD_TYPE=Debug",
         "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -DNDEBUG", f"-Dpybind11_DIR={cmake}",
         f"-DCMAKE_CXX_FLAGS=-include {BUILD / 'source' / 'mutant.h'}",
         "-DSKBUILD_PROJECT_VERSION=0.1.0", f"-DPython_EXECUTABLE={sys.executable}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run(
        ["cmake", "--build", BUILD / "made", "--parallel"], check=True, stdout=subprocess.DEVNULL
    )
    package = BUILD / "package"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        ROOT / "python", package, ignore=shutil.ignore_patterns("_core*.so", "training")
    )
    for core in (BUILD / "made").glob("_core*.so"):
        shutil.copy(core, package / "reattend")


def noticed(number):
    """Run the tests with a fault; give whether they fail."""
    tests = [*(f"tests/test_{name}.py" for name in TESTS), *MORE]
    environment = {
        **os.environ, CHOSEN: str(number), "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": f"{BUILD / 'package'}:{ROOT / 'tests'}",
    }  # fmt: skip
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True
    return run.returncode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, help="of lines of the list; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--built", action="store_true", help="what is in build/mutants is up to date"
    )
    options = parser.parse_args()
    if not options.built:
        build()
    listed = [*mutants()]
    numbers = options.numbers or range(1, len(listed) + 1)
    if noticed(0):
        sys.exit("the tests fail without a fault")
    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip(numbers, pool.map(noticed, numbers), strict=True))
    print(f"{sum(found.values())} of {len(found)} noticed")
    for number, was in found.items():
        if not was:
            file, (before, old, new, after) = listed[number - 1]
            print(f"{number}: {file}: {before}{old}{after}  ->  {new}")


if __name__ == "__main__":
    main()
