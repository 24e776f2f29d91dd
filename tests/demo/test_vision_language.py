"""The vision-language model against torch and transformers, and methods on full matrices."""

import sys
import tracemalloc

import numpy as np
import pytest
import tiny_llama as tiny
import tiny_vision
from captions import captions, compare_captions
from reattend import ACT, VAR, VHR, Session
from reattend.extras import MissingPackageError
from reattend.models import (
    IMAGE,
    ModelFileError,
    generate,
    read_vision_language,
    vision_language,
)
from reattend.models.vision_weights import WeightsFile, read_encoder, read_projector

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

FEATURES_TOLERANCE = 1e-4  # of values up to 6: float32 through six normalised convolutions
LOGITS_TOLERANCE = 1e-3  # of logits up to 5: peaked attention makes more of these; torch is as far
# from the same in float64 as this allows
SMOLLM2_TOLERANCE = 1e-3  # of logits up to 30, through thirty layers
REAL = {"channels": (32, 64, 128, 192, 192, 192), "inner": 512, "size": 576}
METHODS = (VAR(sink_dims=(7, 20), tau=0.25), VHR(), ACT(theta=0.02))
QUESTIONS = ("Describe the picture.", "Is there a cow?", "What?", "Say what you see, in detail.")


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """Give a language model's GGUF file, a weights file, and what both hold."""
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(3)
    language, learnt = tiny.weights(rng), tiny_vision.arrays(rng)
    gguf = tiny.write(folder / "tiny.gguf", language)
    return gguf, tiny_vision.write(folder / "tiny.npz", learnt), language, learnt


@pytest.fixture(scope="module")
def model(tiny_files):
    return read_vision_language(tiny_files[1], tiny_files[0])


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (4, 120, 120, 3), dtype=np.uint8)


def plain(model):
    return Session([], num_layers=model.llama.config.num_layers)


# Against torch and transformers.


def torch_embeddings(named, pixels):
    """Give torch's image tokens, with the features before the projector."""
    torch = pytest.importorskip("torch")
    nn = torch.nn.functional
    arrays = {name: torch.from_numpy(array.astype(np.float32)) for name, array in named.items()}
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    for index, pool in enumerate((2, 2, 1, 3, 1, 1)):
        weight, *rest = (
            arrays[f"encoder.{index}.{name}"]
            for name in ("weight", "bias", "norm_weight", "norm_bias")
        )
        x = nn.conv2d(x, weight, rest[0], padding=weight.shape[-1] // 2)
        x = nn.gelu(nn.group_norm(x, 8, *rest[1:], eps=1e-5), approximate="tanh")
        x = nn.avg_pool2d(x, pool)
    features = x.flatten(2).transpose(1, 2)
    x = nn.linear(features, arrays["projector.0.weight"], arrays["projector.0.bias"])
    x = nn.gelu(x, approximate="tanh")
    x = nn.linear(x, arrays["projector.1.weight"], arrays["projector.1.bias"])
    return x, features


@pytest.mark.parametrize("sizes", [{}, REAL], ids=["tiny", "real"])
def test_encoder_and_projector_equal_torch(rng, tmp_path, pixels, sizes):
    named = tiny_vision.arrays(rng, layers=0, **sizes)
    file = WeightsFile(tiny_vision.write(tmp_path / "weights.npz", named))
    encoder = read_encoder(file)
    features = encoder(pixels)
    embeddings = read_projector(file, features.shape[-1], sizes.get("size", tiny.HIDDEN))(features)
    file.end()
    want, want_features = torch_embeddings(named, pixels)
    np.testing.assert_allclose(features, want_features, atol=FEATURES_TOLERANCE, rtol=0)
    np.testing.assert_allclose(embeddings, want, atol=FEATURES_TOLERANCE, rtol=0)


def test_pictures_are_worked_through_a_few_at_a_time(rng, tmp_path):
    named = tiny_vision.arrays(rng, layers=0, **REAL)
    encoder = read_encoder(WeightsFile(tiny_vision.write(tmp_path / "weights.npz", named)))
    pixels = np.zeros((12, 120, 120, 3), dtype=np.uint8)
    tracemalloc.start()
    encoder(pixels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


def changed(language, learnt, prefix="blk"):
    """Give the language model's weights with what was learnt added, in the file's order."""
    names = {"query": "attn_q", "value": "attn_v", "output": "attn_output"}
    language = dict(language)
    for key in learnt:
        if key.endswith(".down"):
            _, layer, name, _ = key.split(".")
            up, down = (learnt[f"lora.{layer}.{name}.{part}"] for part in ("up", "down"))
            at = f"{prefix}.{layer}.{names[name]}.weight"
            language[at] = language[at] + up.astype(np.float32) @ down.astype(np.float32)
    return language


def transformers_logits(theirs, named, prompts, pixels, embedding):
    """Give transformers' logits after each prompt, read alone."""
    torch = pytest.importorskip("torch")
    logits = []
    with torch.no_grad():
        pictures = torch_embeddings(named, pixels)[0]
        for prompt, picture in zip(prompts, pictures, strict=True):
            ids = torch.tensor(prompt)
            embeds = embedding[ids.clamp(min=0)].clone()
            embeds[ids == IMAGE] = picture
            logits.append(theirs(inputs_embeds=embeds[None]).logits[0, -1].numpy())
    return np.stack(logits)


def test_logits_equal_transformers(model, tiny_files, pixels):
    pytest.importorskip("transformers")
    *_, language, learnt = tiny_files
    theirs = tiny.transformers_model(changed(language, learnt))
    prompts = [model.prompt(question) for question in QUESTIONS]
    embedding = theirs.get_input_embeddings().weight
    want = transformers_logits(theirs, learnt, prompts, pixels, embedding)
    got = model.next_logits(plain(model), prompts, pixels)
    np.testing.assert_allclose(got, want, atol=LOGITS_TOLERANCE, rtol=0)
    unchanged = tiny.transformers_model(language)
    other = transformers_logits(unchanged, learnt, prompts, pixels, embedding)
    assert np.abs(got - other).max() > 100 * LOGITS_TOLERANCE  # what was learnt matters


# Batches.


def test_a_padded_batch_gives_what_each_item_gives(model, pixels):
    prompts = [model.prompt(question) for question in QUESTIONS]
    for methods in ([], *METHODS):
        session = Session(methods, num_layers=tiny.LAYERS)
        how = {"max_new_tokens": 8, "stop": ()}
        together = captions(model, session, prompts, pixels, **how)
        alone = [
            captions(model, session, prompts[b : b + 1], pixels[b : b + 1], **how)[0]
            for b in range(4)
        ]
        assert together == alone


def test_generation_takes_embeddings_and_leaves_them_alone(model, rng):
    tokens = rng.integers(0, 250, (2, 9))
    embeddings = model.llama.embed(tokens)
    before = embeddings.copy()
    ours, want = (
        list(generate(model.llama, plain(model), prompt, max_new_tokens=6))
        for prompt in (embeddings, tokens)
    )
    np.testing.assert_array_equal(ours, want)
    np.testing.assert_array_equal(embeddings, before)


def test_next_logits_are_those_of_the_first_step(model, pixels):
    prompts = [model.prompt(question) for question in QUESTIONS]
    for methods in ([], [VHR(alpha=1.5)]):
        session = Session(methods, num_layers=tiny.LAYERS)
        logits = model.next_logits(session, prompts, pixels)
        first = next(model.generate(session, prompts, pixels, max_new_tokens=1))
        np.testing.assert_array_equal(logits.argmax(-1), first)


# Methods.


class Watched(Session):
    """Notes how many tokens each run of the prompt had."""

    lengths = ()

    def attend(self, layer, query, key, value, **how):
        if layer == 0:
            self.lengths = (*self.lengths, key.shape[2])
        return super().attend(layer, query, key, value, **how)


@pytest.mark.parametrize(("methods", "runs"), [([], 1), ([ACT()], 1), ([ACT(), VHR()], 2)])
def test_prompts_are_read_without_pictures_if_a_method_asks(model, pixels, methods, runs):
    prompts = [model.prompt("What?"), model.prompt("What is it?")]
    session = Watched(methods, num_layers=tiny.LAYERS)
    model.next_logits(session, prompts, pixels[:2])
    length = len(prompts[1])
    assert session.lengths == (length - 100, length)[2 - runs :]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_captions_are_those_of_the_full_matrix(model, rng, method):
    """captions.py compares more, with real weights."""
    pixels = rng.integers(0, 256, (12, 120, 120, 3), dtype=np.uint8)
    prompts = [model.prompt(QUESTIONS[item % len(QUESTIONS)]) for item in range(12)]
    how = {"max_new_tokens": 12, "stop": ()}
    different, changed = compare_captions(model, method, prompts, pixels, batch=8, **how)
    assert not different
    assert changed > 20
    session = Session(method, num_layers=tiny.LAYERS)
    ours, before = (captions(model, s, prompts, pixels, **how) for s in (session, plain(model)))
    assert ours != before


# What is refused.


def test_other_pixels_are_refused(model, pixels):
    for wrong, error in (
        (pixels / 255, TypeError),
        (pixels.astype(np.float32), TypeError),
        (pixels[0], ValueError),
        (pixels[:, :100], ValueError),
        (pixels.transpose(0, 3, 1, 2), ValueError),
    ):
        with pytest.raises(error, match="pixels must be"):
            model.encode(wrong)


def test_other_prompts_are_refused(model, pixels):
    prompt = model.prompt("What?")
    for prompts, says in (
        ([prompt], "prompts must be one for each of pixels, 4, got 1"),
        ([], "prompts must be one"),
        ([[t for t in prompt if t != IMAGE]] * 4, "IMAGE, -1, 100 times .* got one with 0"),
        ([[*prompt, IMAGE]] * 4, "got one with 101"),
    ):
        with pytest.raises(ValueError, match=says):
            model.next_logits(plain(model), prompts, pixels)
        with pytest.raises(ValueError, match=says):
            next(model.generate(plain(model), prompts, pixels, max_new_tokens=1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder.2.bias": None}, "has no array 'encoder.2.bias'"),
        ({"encoder.6.bias": np.ones(3, "f2")}, "arrays that this model has not, .*encoder.6.bias"),
        ({"encoder.0.weight": np.ones((8, 4, 5, 5), "f2")}, r"shape \(any, 3, any, any\), got \(8"),
        ({"encoder.0.weight": np.ones((9, 3, 5, 5), "f2")}, "out a multiple of 8"),
        ({"encoder.0.weight": np.ones((8, 3, 4, 4), "f2")}, "k odd"),
        ({"projector.1.weight": np.ones((63, 24), "f2")}, r"must have the shape \(64, 24\)"),
        ({"lora.3.value.up": np.ones((8, 32), "f2")}, r"must have the shape \(32, 8\)"),
        ({"lora.3.value.up": np.full((32, 8), np.nan, "f2")}, "must hold finite floats"),
        ({"lora.3.value.up": np.ones((32, 8), int)}, "must hold finite floats, got int64"),
        ({"lora.4.value.up": np.ones((32, 8), "f2")}, "arrays that this model has not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_weights_are_refused(tiny_files, tmp_path, change, says):
    gguf, _, _, learnt = tiny_files
    learnt = {name: a for name, a in (learnt | change).items() if a is not None}
    with pytest.raises(ModelFileError, match=says):
        read_vision_language(tiny_vision.write(tmp_path / "w.npz", learnt), gguf)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"\x93NUMPY broken", b"text"])
def test_what_is_no_weights_file_is_refused(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.npz cannot be read as \.npz"):
        WeightsFile(path)


def test_a_cut_weights_file_is_refused(tiny_files, tmp_path):
    path = tmp_path / "cut.npz"
    path.write_bytes(tiny_files[1].read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match=r"cut\.npz cannot be read"):
        WeightsFile(path)


def test_a_damaged_weights_file_is_refused(tiny_files, tmp_path):
    path, content = tmp_path / "damaged.npz", bytearray(tiny_files[1].read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"damaged\.npz cannot be read"):
        WeightsFile(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "does not say what it is"),
        ("{", "does not say what it is"),
        ("[1]", "does not say what it is"),
        ('{"format": 2}', "is of format 2; only 1 is supported"),
    ],
)
def test_weights_of_another_format_are_refused(tmp_path, metadata, says):
    named = {} if metadata is None else {"metadata": np.array(metadata)}
    np.savez(tmp_path / "other.npz", scale=np.ones(3), **named)
    with pytest.raises(ModelFileError, match=says):
        WeightsFile(tmp_path / "other.npz")


def test_weights_of_another_language_model_are_refused(tiny_files, tmp_path):
    gguf, _, _, learnt = tiny_files
    facts = {"language": "other.gguf", "language_sha256": "0" * 64}
    path = tiny_vision.write(tmp_path / "w.npz", learnt, **facts)
    with pytest.raises(ModelFileError, match=r"learnt for other\.gguf .* got .*tiny\.gguf"):
        read_vision_language(path, gguf)


def test_missing_files_and_packages_are_named(tiny_files, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no\.npz is not a file"):
        read_vision_language(tmp_path / "no.npz", tiny_files[0])
    with pytest.raises(FileNotFoundError, match=r"no\.gguf is not a file"):
        read_vision_language(tiny_files[1], tmp_path / "no.gguf")
    monkeypatch.setattr(vision_language.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.py --seed 0"):
        read_vision_language(None, tiny_files[0])
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPackageError, match=r'pip install "reattend\[demo\]"'):
        read_vision_language(tiny_files[1], tiny_files[0])
