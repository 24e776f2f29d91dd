"""Model files that lie: each is refused with its name and the field, before memory is spent."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import tiny_llama as tiny
from changed_files import fuzz
from reattend.models import ModelFile, ModelFileError, Tokenizer, read_llama
from reattend.models.vision_weights import WeightsFile, planes

pytestmark = pytest.mark.skipif(not tiny.installed("gguf"), reason="needs the extra demo")


def text(content):
    content = content if isinstance(content, bytes) else content.encode()
    return struct.pack("<Q", len(content)) + content


def field(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def array(kind, count, content=b""):
    return struct.pack("<IQ", kind, count) + content


def tensor(name, shape, kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(*fields, tensors=(), data=b"", counts=None, version=3):
    counts = counts or (len(tensors), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*fields, *tensors])
    return head + b"\0" * (-len(head) % 32) + data


FOUR = np.ones(8, np.float32).tobytes()  # 32 bytes
FILES = {
    "array-of-10^9": (gguf(field("list", 9, array(0, 10**9))), "'list': claims 1000000000"),
    "array-of-2^64-1": (gguf(field("list", 9, array(10, 2**64 - 1))), "metadata 'list': claims"),
    "texts-of-10^9": (gguf(field("list", 9, array(8, 10**9))), "metadata 'list': claims"),
    "nested": (gguf(field("list", 9, array(9, 1, array(9, 1)))), "'list': is an array of arrays"),
    "unknown-element": (gguf(field("list", 9, array(77, 1))), "'list': has elements of an unknown"),
    "unknown-type": (gguf(field("one", 77, b"\0" * 8)), "metadata 'one': is of an unknown type 77"),
    "long-text": (gguf(field("one", 8, struct.pack("<Q", 2**63))), "metadata 'one': claims"),
    "bad-utf-8": (gguf(field("one", 8, text(b"\xff\xfe"))), "'one': holds text that is no UTF-8"),
    "bad-key": (gguf(field(b"\xff", 7, b"\0")), "metadata 0: holds text that is no UTF-8"),
    "key-twice": (gguf(*[field("one", 7, b"\0")] * 2), "metadata 'one': is there twice"),
    "counts-of-fields": (gguf(counts=(0, 2**62)), "metadata_kv_count: claims"),
    "counts-of-tensors": (gguf(counts=(2**62, 0)), "tensor_count: claims"),
    "big-endian": (gguf(version=3 << 24), "version: must be one of"),
    "alignment-0": (gguf(field("general.alignment", 4, b"\0" * 4)), "must be a power of two"),
    "alignment-text": (gguf(field("general.alignment", 8, text("32"))), "must be a uint32"),
    "no-axes": (gguf(tensors=[tensor("a", [])]), "tensor 'a': must have 1 to 4 axes, got 0"),
    "many-axes": (gguf(tensors=[tensor("a", [1] * 9)]), "tensor 'a': must have 1 to 4 axes, got 9"),
    "size-0": (gguf(tensors=[tensor("a", [0, 8])]), "tensor 'a': must have rows of whole blocks"),
    "wrapped-product": (gguf(tensors=[tensor("a", [2**32, 2**32])], data=FOUR), "'a': ends at"),
    "wrapped-offset": (
        gguf(tensors=[tensor("a", [8], offset=2**64 - 32)], data=FOUR), "'a': ends at byte"
    ),
    "misaligned": (gguf(tensors=[tensor("a", [4], offset=4)], data=FOUR), "'a': must begin at a"),
    "half-a-block": (gguf(tensors=[tensor("a", [8], kind=2)], data=FOUR), "whole blocks of 32"),
    "no-such-type": (gguf(tensors=[tensor("a", [8], kind=99)], data=FOUR), "'a': is of an unknown"),
    "overlap": (
        gguf(tensors=[tensor("a", [16]), tensor("b", [8], offset=32)], data=FOUR * 2),
        "tensor 'b': overlaps tensor 'a'",
    ),
    "tensor-twice": (gguf(tensors=[tensor("a", [8])] * 2, data=FOUR), "tensor 'a': is there twice"),
    "beyond-the-end": (gguf(tensors=[tensor("a", [9])], data=FOUR), "tensor 'a': ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_claims_is_held_against_its_size(tmp_path, name):
    content, says = FILES[name]
    path = tmp_path / "lies.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"lies\.gguf.*" + says.replace("^", r"\^")):
            ModelFile(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"llama.attention.head_count": 0}, "head_count must be at least 1, got 0"),
        ({"llama.attention.head_count": True}, "head_count must be one number"),
        ({"llama.attention.head_count_kv": 0}, "head_count_kv must be a divisor of 4, got 0"),
        ({"llama.attention.head_count_kv": 3}, "head_count_kv must be a divisor of 4, got 3"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon must be positive"),
        ({"llama.attention.layer_norm_rms_epsilon": "small"}, "epsilon must be positive"),
        ({"llama.rope.freq_base": 0.0}, "freq_base must be positive and finite, got 0.0"),
        ({"llama.rope.freq_base": float("inf")}, "freq_base must be positive and finite, got inf"),
        ({"llama.context_length": 0}, "context_length must be at least 1"),
        ({"llama.block_count": 0}, "block_count must be at least 1"),
        ({"tokenizer.ggml.tokens": "all"}, "tokens must be a list of texts"),
    ],
    ids=str,
)
def test_numbers_that_make_no_model_are_refused(rng, tmp_path, change, says):
    path = tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), metadata=change)
    with pytest.raises(ModelFileError, match=r"tiny\.gguf.*" + says):
        read_llama(ModelFile(path))


def test_weights_that_are_not_finite_are_refused(rng, tmp_path):
    weights = tiny.weights(rng)
    weights["blk.2.ffn_down.weight"][3, 5] = np.nan
    path = tiny.write(tmp_path / "tiny.gguf", weights)
    with pytest.raises(ModelFileError, match=r"tiny\.gguf: blk\.2\.ffn_down\.weight has numbers"):
        read_llama(ModelFile(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer.ggml.merges": ["t h", "nosuch"]}, r"merges\[1\] must be two tokens"),
        ({"tokenizer.ggml.merges": ["t h", "zz yy"]}, r"merges\[1\] must be two tokens"),
        ({"tokenizer.ggml.merges": 3}, "merges must be a list of texts"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "eos token 1000000 is not in the vocabulary"),
        ({"tokenizer.ggml.eos_token_id": "last"}, "eos token last is not in the vocabulary"),
        ({"tokenizer.ggml.token_type": 1}, "token_type must be a list"),
        ({"tokenizer.chat_template": 7}, "chat_template must be a text"),
    ],
    ids=str,
)
def test_broken_tokenizers_are_refused(rng, tmp_path, change, says):
    path = tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), metadata=change)
    with pytest.raises(ModelFileError, match=r"tiny\.gguf.*" + says):
        Tokenizer(ModelFile(path))


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ messages[7].x.y }}", "{% for", "{{ [].pop() }}", "{{ 'a'.nope() }}",
     "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"],
)  # fmt: skip
def test_broken_templates_are_refused(rng, tmp_path, template):
    path = tiny.write(
        tmp_path / "tiny.gguf", tiny.weights(rng), metadata={"tokenizer.chat_template": template}
    )
    with pytest.raises(ModelFileError, match=r"tiny\.gguf.*template fails"):
        Tokenizer(ModelFile(path)).chat([{"role": "user", "content": "x"}])


def read_gguf(path):
    file = ModelFile(path)
    read_llama(file)
    Tokenizer(file)


@pytest.mark.parametrize("times", [300, pytest.param(10_000, marks=[pytest.mark.nightly])])
def test_random_changes_of_a_gguf_file(rng, tmp_path, times):
    path = tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng))
    fuzz(path, read_gguf, ModelFileError, times)


def npz(path, **arrays):
    np.savez(path, metadata=np.array('{"format": 1}'), **arrays)
    return path


@pytest.mark.parametrize("times", [300, pytest.param(10_000, marks=[pytest.mark.nightly])])
def test_random_changes_of_an_npz_file(rng, tmp_path, times):
    path = npz(tmp_path / "weights.npz", scale=rng.standard_normal((9, 40)))
    fuzz(path, WeightsFile, ModelFileError, times)


def header(shape, descr="'<f4'", version=1):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text.encode("latin1")


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (header("(1000000000000,)"), "'scale' claims float32"),
        (header("(-4, -1)") + b"\0" * 16, "'scale' claims float32"),
        (header("(4, 4611686018427387904)"), "'scale' claims float32"),
        (header("(3,)") + b"\0" * 16, "'scale' claims float32"),
        (header("(" * 900), "cannot be read"),
        (header("(4,)", "'O'") + b"\0" * 32, "'scale' claims object"),
        (header("(4,)", version=9), "cannot be read"),
        (b"no array", "cannot be read"),
    ],
    ids=["huge", "negative", "wrapped", "short", "brackets", "objects", "version", "no array"],
)
def test_arrays_that_lie_are_refused(tmp_path, member, says):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("scale.npy", member)
    with pytest.raises(ModelFileError, match=r"weights\.npz.*" + says):
        WeightsFile(path)


def test_planes_of_bytes_are_the_numbers_they_were(rng, tmp_path):
    numbers = rng.standard_normal((3, 5)).astype(np.float16)
    path = npz(tmp_path / "weights.npz", **{"scale.planes": planes(numbers)})
    assert np.array_equal(WeightsFile(path).take("scale", 3, 5), numbers.astype(np.float32))
    for wrong in (np.ones(3, np.uint8), np.ones((2, 3), np.uint16), np.uint8(2)):
        with pytest.raises(ModelFileError, match=r"planes must be uint8 \[2, ...\]"):
            WeightsFile(npz(path, **{"scale.planes": wrong}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["scale.npy", "scale.planes.npy"])
def test_an_array_that_is_there_twice_is_refused(tmp_path, second):
    path = npz(tmp_path / "weights.npz", scale=np.ones(3, np.float16))
    again = io.BytesIO()
    np.save(again, planes(np.ones(3, np.float16)) if "planes" in second else np.zeros(3, "f4"))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(second, again.getvalue())
    with pytest.raises(ModelFileError, match=r"weights\.npz.*'scale' is there twice"):
        WeightsFile(path)


def test_odd_zip_files_are_refused(tmp_path):
    path = npz(tmp_path / "weights.npz", scale=np.ones(3, np.float32))
    content = path.read_bytes()
    central = content.index(b"PK\1\2")
    for offset, value in ((6, 99), (8, 1), (10, 97)):  # version needed, encrypted, method
        broken = bytearray(content)
        struct.pack_into("<H", broken, central + offset, value)
        path.write_bytes(bytes(broken))
        with pytest.raises(ModelFileError, match=r"weights\.npz"):
            WeightsFile(path)


def test_a_file_that_grows_a_thousandfold_is_refused(tmp_path):
    path, memory = tmp_path / "weights.npz", io.BytesIO()
    np.save(memory, np.zeros(40_000_000, np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("scale.npy", memory.getvalue())
    with pytest.raises(ModelFileError, match="claim 160000128 bytes"):
        WeightsFile(path)


def test_metadata_of_nested_brackets_is_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, metadata=np.array("[" * 100_000))
    with pytest.raises(ModelFileError, match=r"weights\.npz does not say what it is"):
        WeightsFile(path)
