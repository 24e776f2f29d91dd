"""The vision-language model against torch and transformers, and methods on full matrices."""

import sys
import tracemalloc

import numpy as np
import pytest
import tiny_llama as tiny
import tiny_vision
from captions import captions, compare_captions
from reattend import ACT, VAR, VHR, Session
from reattend.models import (
    IMAGE,
    ModelFile,
    ModelFileError,
    Tokenizer,
    VisionLanguage,
    find_smollm2,
    generate,
    read_llama,
    read_vision_language,
    vision_language,
)
from reattend.models.vision_weights import (
    WeightsFile,
    merge_changes,
    read_arrays,
    read_encoder,
    read_projector,
    read_registers,
)
from reattend.optional import MissingPackageError

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


@pytest.fixture(scope="module")
def twins():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import twins

    return twins


@pytest.mark.parametrize("sizes", [{}, REAL], ids=["tiny", "real"])
def test_encoder_and_projector_equal_torch(twins, rng, tmp_path, pixels, sizes):
    named = tiny_vision.arrays(rng, layers=0, **sizes)
    file = WeightsFile(tiny_vision.write(tmp_path / "weights.npz", named))
    encoder = read_encoder(file)
    features = encoder(pixels)
    embeddings = read_projector(file, features.shape[-1], sizes.get("size", tiny.HIDDEN))(features)
    file.end()
    want, want_features = twins.torch_embeddings(named, pixels)
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


def test_logits_equal_transformers(twins, model, tiny_files, pixels):
    *_, language, learnt = tiny_files
    theirs = tiny.transformers_model(language)
    prompts = [model.prompt(question) for question in QUESTIONS]
    before = twins.transformers_logits(theirs, learnt, prompts, pixels)
    twins.add_changes(theirs, learnt)
    want = twins.transformers_logits(theirs, learnt, prompts, pixels)
    got = model.next_logits(plain(model), prompts, pixels)
    np.testing.assert_allclose(got, want, atol=LOGITS_TOLERANCE, rtol=0)
    assert np.abs(got - before).max() > 100 * LOGITS_TOLERANCE  # what was learnt matters


def test_registers_stand_at_the_blankest_patches(twins, model, tiny_files, tmp_path, pixels, rng):
    gguf, _, language, learnt = tiny_files
    registers = rng.standard_normal((3, tiny.HIDDEN)).astype(np.float16)
    named = {**learnt, "registers": registers}
    ours = read_vision_language(tiny_vision.write(tmp_path / "weights.npz", named), gguf)
    changed = np.any(ours.encode(pixels) != model.encode(pixels), axis=-1)
    np.testing.assert_array_equal(changed.sum(-1), [3] * len(pixels))
    theirs = tiny.transformers_model(language)
    twins.add_changes(theirs, learnt)
    prompts = [model.prompt(question) for question in QUESTIONS]
    want = twins.transformers_logits(theirs, named, prompts, pixels)
    got = ours.next_logits(plain(ours), prompts, pixels)
    np.testing.assert_allclose(got, want, atol=LOGITS_TOLERANCE, rtol=0)


def test_smollm2_takes_the_same_steps_as_transformers(twins, rng, tmp_path, pixels):
    """With the weights that are shipped, or random ones where there are none."""
    try:
        language = ModelFile(find_smollm2())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    path = vision_language.SHIPPED_WEIGHTS
    if not path.is_file():
        real = {"layers": 30, "heads": 9, "kv_heads": 3, "dim": 64, "change": 0.02, **REAL}
        path = tiny_vision.write(tmp_path / "random.npz", tiny_vision.arrays(rng, **real))
    learnt = {name: array for name, array in read_arrays(path).items() if name != "metadata"}
    llama, weights = read_llama(language), WeightsFile(path)
    theirs = twins.as_transformers(llama)
    twins.add_changes(theirs, learnt)
    merge_changes(weights, llama)
    encoder = read_encoder(weights)
    projector = read_projector(weights, 192, 576)
    registers = read_registers(weights, 576)
    model = VisionLanguage(encoder, projector, llama, Tokenizer(language), registers)

    prompts = [model.prompt("Describe the picture."), model.prompt("Is there a cow?", "It rains.")]
    answers = captions(model, plain(model), prompts, pixels[:2], max_new_tokens=6)
    logits = model.next_logits(plain(model), prompts, pixels[:2])
    for prompt, picture, answer, ours in zip(prompts, pixels[:2], answers, logits, strict=True):
        read, rows = [*prompt, *answer[:-1]], slice(len(prompt) - 1, None)
        want = twins.transformers_logits(theirs, learnt, [read], picture[None], rows)[0]
        np.testing.assert_array_equal(answer, want.argmax(-1))
        np.testing.assert_allclose(ours, want[0], atol=SMOLLM2_TOLERANCE, rtol=0)


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
        again = model.next_logits(session, prompts, model.encode(pixels))
        np.testing.assert_array_equal(again, logits)


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
    monkeypatch.setattr(vision_language, "SHIPPED_WEIGHTS", tmp_path / "seed0.npz")
    with pytest.raises(FileNotFoundError, match=r"python/training/README\.md"):
        read_vision_language(None, tiny_files[0])
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPackageError, match=r'pip install "reattend\[demo\]"'):
        read_vision_language(tiny_files[1], tiny_files[0])
