"""Faults put into the kernels, all in one build: the suite must notice each.

`PYTHONPATH=tests:tests/fuzz python tests/mutation/kernel_mutants.py` builds in build/mutants, finds
out which test comes to which place, and runs those tests with one fault at a time in a fork, the
quick ones first. Verdicts are written down as they come: `--built` goes on where it stopped, and
what is named by its number is tried again.
"""

import argparse
import itertools
import json
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"
JOURNAL, PLACES, REACHED = BUILD / "verdicts", BUILD / "places.json", BUILD / "reached"
ROOM = 4096  # bytes of REACHED: the largest number of a fault
CHOSEN = "REATTEND_MUTANT"  # the variable that says which
TESTS = ("policy", "attention", "golden", "transform", "nonfinite", "open_road", "second_pass",
         "same_bytes", "guard_pages", "threads", "accuracy", "statistics", "following", "sinks",
         "properties", "stored_types")  # fmt: skip
MORE = [f"tests/border/test_{name}.py" for name in ("arguments", "quantized", "half_precision")]

# Which fault, and where it is seen that a place was come to: in a file that child processes share.
HEADER = """
#pragma once
extern int reattend_chosen;
extern volatile char* reattend_reached;
static inline bool reattend_mutant(int number) {
    reattend_reached[number] = 1;
    return number == reattend_chosen;
}
"""
MEMORY = """
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <cstdlib>
static char reattend_nowhere[ROOM];
volatile char* reattend_reached = reattend_nowhere;
int reattend_chosen = 0;
static void reattend_choose() {
    const char* number = std::getenv("CHOSEN");
    reattend_chosen = number ? std::atoi(number) : 0;
}
static const bool reattend_ready = [] {
    reattend_choose();
    pthread_atfork(nullptr, nullptr, reattend_choose);
    const int file = open("REACHED", O_RDWR);
    void* memory = mmap(nullptr, ROOM, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) reattend_reached = static_cast<char*>(memory);
    return true;
}();
"""


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
        choice = f"(::reattend_mutant({number}) ? ({new}) : ({old}))"
        path.write_text(text.replace(whole, before + choice + after), "utf-8")
    machine = BUILD / "source" / "cpp" / "machine.cpp"
    memory = MEMORY.replace("ROOM", str(ROOM)).replace("CHOSEN", CHOSEN)
    machine.write_text(machine.read_text("utf-8") + memory.replace("REACHED", str(REACHED)))
    (BUILD / "source" / "mutant.h").write_text(HEADER)


def build():
    """Compile them, and lay a package beside that has this core."""
    changed_sources()
    cmake = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    subprocess.run(
        ["cmake", "-S", BUILD / "source", "-B", BUILD / "made", "-DCMAKE_BUILD_TYPE=Debug",
         "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -DNDEBUG", f"-Dpybind11_DIR={cmake}", *launcher,
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


def _seconds():
    own, children = (resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _quietly(function):
    """Call a function in a fork whose output nobody sees; give how it ends."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os._exit(function())
    except BaseException:
        os._exit(99)


class Judge:
    """A plugin of pytest that collects once, and runs what comes to a fault's place in a fork."""

    def __init__(self, numbers, cases):
        self.numbers, self.cases, self.failed = numbers, cases, []

    @pytest.hookimpl(trylast=True)  # behind conftest.py
    def pytest_configure(self):
        """Nobody reads how a test fails: its example is not made smaller."""
        from hypothesis import Phase, settings  # pytest's to import first

        settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate))
        settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtestloop(self, session):
        if not PLACES.exists() and _quietly(lambda: self.find_places(session.items)):
            sys.exit("the tests fail without a fault, or end")
        places = json.loads(PLACES.read_text())
        for number in self.numbers:
            self.judge(number, session.items, places)
        return True

    def run(self, items):
        """Run tests until one fails; give whether one did."""
        for number, item in enumerate(items, 1):
            following = items[number] if number < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1
        return 0

    def find_places(self, items):
        """Write down the places that each test comes to, and the CPU time that it takes."""
        found = {}
        with REACHED.open("r+b") as file, mmap.mmap(file.fileno(), ROOM) as reached:
            for item in items:
                reached[:] = bytes(ROOM)
                begin = _seconds()
                if self.run([item]):
                    return 1
                places = [number for number, byte in enumerate(reached[:]) if byte]
                found[item.nodeid] = _seconds() - begin, places
        PLACES.write_text(json.dumps(found))
        return 0

    def some(self, items):
        """Leave so many cases of each test function as were asked for."""
        for _, group in itertools.groupby(items, lambda item: item.nodeid.partition("[")[0]):
            cases = [*group]
            yield from cases[:: -(-len(cases) // self.cases)] if self.cases else cases

    def judge(self, number, items, places):
        """Run what comes to a fault's place, and what is new; write down whether one fails."""
        took = {name: each for name, (each, reached) in places.items() if number in reached}
        chosen = [item for item in items if item.nodeid in took or item.nodeid not in places]
        chosen = sorted(self.some(chosen), key=lambda item: took.get(item.nodeid, 0))
        seconds = int(60 + 5 * sum(took.values()))
        by = BUILD / "failed"
        by.write_text("")

        def tried():
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # one that hangs is noticed
            signal.alarm(20 * seconds)
            found = self.run(chosen)
            by.write_text("".join(self.failed[:1]))
            return found

        os.environ[CHOSEN] = str(number)  # read in the fork
        code = _quietly(tried)
        del os.environ[CHOSEN]
        with JOURNAL.open("a") as journal:
            journal.write(json.dumps([number, code, by.read_text()]) + "\n")


def verdicts():
    """Give how the tests ended, by a line's number."""
    if not JOURNAL.exists():
        return {}
    return {each[0]: each[1] for each in map(json.loads, JOURNAL.read_text().splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, help="of lines of the list; all by default")
    parser.add_argument("--cases", type=int, help="of each test function at most; all by default")
    parser.add_argument(
        "--built", action="store_true", help="what is in build/mutants is up to date"
    )
    options = parser.parse_args()
    if not options.built:
        for old in (JOURNAL, PLACES):
            old.unlink(missing_ok=True)
        build()
        REACHED.write_bytes(bytes(ROOM))
    listed, known = [*mutants()], verdicts()
    numbers = options.numbers or [n for n in range(1, len(listed) + 1) if n not in known]
    os.chdir(ROOT)
    package = str(BUILD / "package")
    sys.path.insert(0, package)
    os.environ["PYTHONPATH"] = os.pathsep.join((package, os.environ.get("PYTHONPATH", "")))
    os.environ["OMP_WAIT_POLICY"] = "passive"
    tests = [*(f"tests/test_{name}.py" for name in TESTS), *MORE]
    pytest.main(
        ["-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        [Judge(numbers, options.cases)],
    )
    found = verdicts()
    print(f"{sum(map(bool, found.values()))} of {len(found)} noticed")
    for number, code in sorted(found.items()):
        if not code:
            file, (before, old, new, after) = listed[number - 1]
            print(f"{number}: {file}: {before}{old}{after}  ->  {new}")


if __name__ == "__main__":
    main()
