"""The manual: it builds without a warning, its examples run, its links lead somewhere."""

import contextlib
import doctest
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest import SkipTest
from urllib.parse import unquote

import numpy as np
import pytest
import reattend as ra
from patience import HANGS

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
BLOCK = re.compile(r"^```(pycon|python)\n(.+?)^```", re.MULTILINE | re.DOTALL)
WANTED = {  # what a reader who knows the papers looks for -> words on the page that says it
    "how VAR is computed": "A'_ij = p A_ij",
    "what VAR costs": "of a prefill of 640 tokens",
    "what it did to hallucination": "CHAIR_i -0.8 points",
    "how to run it on Qwen": "Qwen/Qwen2.5-VL",
    "how to write another": "@dataclass(frozen=True)",
}

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the source folder")


def blocks(path):
    return [(kind, text) for kind, text in BLOCK.findall(path.read_text("utf-8"))]


# The model that examples are run with has learnt nothing: it has no visual sinks.
@pytest.mark.filterwarnings("ignore:.* changed no row of a whole generation")
@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "ra": ra, "__name__": "manual"}
    if "model.generate" in path.read_text("utf-8"):
        pytest.importorskip("transformers")
        from reattend.testing.tiny_llava import tiny_llava

        model, processor = tiny_llava()
        picture = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        asked = {"text": "USER: <image> describe this image ASSISTANT:", "images": picture}
        inputs = processor(**asked, return_tensors="pt")
        names |= {"model": model, "processor": processor, "inputs": inputs}
    for number, (kind, text) in enumerate(blocks(path)):
        where = f"{path.name}, block {number}"
        if kind == "python":
            exec(compile(text, where, "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(text, names, where, str(path), 0)
        found = doctest.DocTestRunner().run(test, clear_globs=False)
        names.update(test.globs)
        assert found.failed == 0


def test_the_guide_to_methods_shows_one_that_keeps_the_laws(tmp_path, monkeypatch):
    template = DOCS / "guides" / "template"
    monkeypatch.syspath_prepend(template)
    import test_my_method as theirs
    from reattend.testing import checks

    for case in theirs.CASES:
        for check in checks():
            with contextlib.suppress(SkipTest):  # a law that does not apply
                check(case)


class Page(HTMLParser):
    """What a page links to, the places in it, and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places, self.words = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places.add(found.get("id"))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.links.append(found["src"])

    def handle_data(self, text):
        self.words.append(text)


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    out = tmp_path_factory.mktemp("manual")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", DOCS, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    return {path: Page(path.read_text("utf-8")) for path in out.rglob("*.html")}


def target(page, link):
    file, _, place = unquote(link).partition("#")
    return (page.parent / file).resolve() if file else page, place


def test_links_lead_somewhere(manual):
    for path, page in manual.items():
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            to, place = target(path, link)
            assert to.exists(), f"{path.name} links to {link}"
            if place and to in manual:
                assert place in manual[to].places, f"{path.name} links to {link}"


def test_what_readers_want_is_two_clicks_away(manual):
    start = next(path for path in manual if path.name == "index.html" and path.parent.name not in
                 ("api", "methods"))  # fmt: skip
    reached = {start}
    for _ in range(2):
        reached |= {target(path, link)[0] for path in reached for link in manual[path].links
                    if not re.match(r"\w+:", link) and target(path, link)[0] in manual}  # fmt: skip
    texts = ["".join(manual[path].words) for path in reached]
    for what, words in WANTED.items():
        assert any(words in text for text in texts), what


LAYER = """<ir_version: 9, opset_import: ["": 17]>
whole (float[1, N, 16] x, float[16, 16] wq, float[16, 16] wk, float[16, 16] wv, float[16, 16] wo)
=> (float[1, N, 16] y)
<int64[4] heads = {1, -1, 2, 8}, int64[3] joined = {1, -1, 16}, float[1] scale = {0.35355339}>
{
  q0 = MatMul(x, wq)  q1 = Reshape(q0, heads)  query = Transpose<perm = [0, 2, 1, 3]>(q1)
  k0 = MatMul(x, wk)  k1 = Reshape(k0, heads)  key = Transpose<perm = [0, 2, 1, 3]>(k1)
  v0 = MatMul(x, wv)  v1 = Reshape(v0, heads)  value = Transpose<perm = [0, 2, 1, 3]>(v1)
  turned = Transpose<perm = [0, 1, 3, 2]>(key)
  s0 = MatMul(query, turned)  s = Mul(s0, scale)  A = Softmax(s)
  out = MatMul(A, value)
  o0 = Transpose<perm = [0, 2, 1, 3]>(out)  o1 = Reshape(o0, joined)  o2 = MatMul(o1, wo)
  y = Add(x, o2)
}"""


def test_a_layer_cut_at_attention_gives_what_the_whole_graph_gives(rng, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    onnx.save(onnx.parser.parse_model(LAYER), tmp_path / "whole.onnx")
    matrices = ["wq", "wk", "wv"]
    for name, taken, given in (
        ("before", ["x", *matrices], ["query", "key", "value"]),
        ("after", ["x", "out", "wo"], ["y"]),
    ):
        onnx.utils.extract_model(tmp_path / "whole.onnx", tmp_path / f"{name}.onnx", taken, given)
    whole, before, after = (
        runtime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("whole", "before", "after")
    )
    weights = {n: rng.standard_normal((16, 16), dtype=np.float32) for n in (*matrices, "wo")}
    x = rng.standard_normal((1, 6, 16), dtype=np.float32)
    query, key, value = before.run(None, {"x": x, **{n: weights[n] for n in matrices}})
    session = ra.Session([], num_layers=1)
    with session.generation():
        out = session.attend(0, query, key, value, hidden_states=x, causal=False)
    (found,) = after.run(None, {"x": x, "out": out, "wo": weights["wo"]})
    (right,) = whole.run(None, {"x": x, **weights})
    assert np.abs(found - right).max() < 1e-4
