"""Small faults put into a module, one at a time: its tests must notice each.

`PYTHONPATH=python:tests:tests/fuzz python tests/mutation/python_mutants.py policy` prints how many
were noticed and, as `file:line: change`, those that were not. A mutant runs in a fork that has the
heavy packages already.
"""

import argparse
import ast
import copy
import os
import random
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy  # noqa: F401
import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "reattend"
SECONDS = 60  # of a CPU; a mutant that takes longer is noticed, as one that hangs
LAWS = [
    "tests/test_methods.py", "tests/methods/test_formulas.py", "tests/test_session.py",
    "tests/test_following.py", "tests/test_cross_attention.py", "tests/test_golden.py",
]  # fmt: skip
# Every test of these files counts, and what holds the errors of all methods.
ALL = "test_session or test_cross or test_following or test_errors_name_the_parameter"
# Module -> its tests, the quick ones first.
MODULES = {
    "policy": ["tests/test_policy.py", "tests/test_plan.py"],
    "methods/var": ["tests/test_hostile_values.py", "-k", f"VAR or var or {ALL}", *LAWS],
    "methods/vhr": ["tests/test_hostile_values.py", "-k", f"VHR or vhr or {ALL}", *LAWS],
    "methods/act": ["tests/test_hostile_values.py", "-k", f"ACT or act or {ALL}", *LAWS],
    "reference": ["tests/test_reference.py"],
}
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def _changes(node):
    """Give each small fault of one node, as a function that puts it in."""
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            if swap := SWAPS.get(type(operator)):
                yield lambda n, at=at, swap=swap: n.ops.__setitem__(at, swap())
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        if swap := SWAPS.get(type(node.op)):
            yield lambda n: setattr(n, "op", swap())
    elif isinstance(node, ast.UnaryOp):
        yield lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else ast.USub())
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield lambda n: setattr(n, "value", not n.value)
        elif isinstance(node.value, int | float):
            yield lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield lambda n: setattr(n, "value", ast.Constant(None))
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))


def _walk(node):
    """Give the nodes that run: no messages, annotations, decorators or default texts."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def mutants(source):
    """Give (line, change, source) of each mutant."""
    tree = ast.parse(source)
    places = [*_walk(tree)]
    for index, node in enumerate(places):
        for number, _ in enumerate(_changes(node)):
            changed = copy.deepcopy(tree)
            target = [*_walk(changed)][index]
            before = ast.unparse(target).splitlines()[0]
            [*_changes(target)][number](target)
            ast.fix_missing_locations(changed)
            after = ast.unparse(target).splitlines()[0]
            yield node.lineno, f"{before}  ->  {after}", ast.unparse(changed)


def _noticed(path, source, tests):
    """Run the tests on a changed module in a fork; give whether they fail."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(20 * SECONDS)
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        plain = SourceFileLoader.get_code

        def get_code(self, name):
            if Path(self.path) == path:
                return compile(source, str(path), "exec")
            return plain(self, name)

        SourceFileLoader.get_code = get_code
        # Where reattend is installed pytest would load it itself, to rewrite what it asserts.
        quietly = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
        code = pytest.main([*quietly, *tests])
        os._exit(int(code))
    except BaseException:
        os._exit(99)


def try_module(module, most, jobs):
    """Try the mutants of a module and print what was noticed."""
    path, tests = PACKAGE / f"{module}.py", MODULES[module]
    found = [*mutants(path.read_text())]
    if most and len(found) > most:
        found = sorted(random.Random(0).sample(found, most))
    assert not _noticed(path, path.read_text(), tests), f"{module}: its tests fail as it is"
    assert _noticed(path, "raise SystemError", tests), f"{module}: its tests do not read it"
    with ThreadPoolExecutor(jobs) as pool:
        noticed = [*pool.map(lambda mutant: _noticed(path, mutant[2], tests), found)]
    print(f"{module}: {sum(noticed)} of {len(found)} noticed")
    for (line, change, _), was in zip(found, noticed, strict=True):
        if not was:
            print(f"{module}.py:{line}: {change}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=[*MODULES])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--most", type=int, help="as many mutants of a module, drawn at random")
    options = parser.parse_args()
    os.chdir(Path(__file__).parents[2])
    for module in options.modules:
        try_module(module, options.most, options.jobs)


if __name__ == "__main__":
    main()
