"""Journals, profiles, recordings and model folders whose bytes somebody has changed."""

import numpy as np
import pytest
from changed_files import changed_text, fuzz
from reattend.evaluation.runner.journal import Journal, JournalError
from reattend.head_vectors import HeadVectors
from reattend.profile import Profile, ProfileError
from reattend.recording import Recording

NIGHTLY = pytest.param(10_000, marks=[pytest.mark.nightly])
TIMES = pytest.mark.parametrize("times", [200, NIGHTLY])


@TIMES
def test_journals(tmp_path, times):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, {"scenes": 3})
    for number in range(20):
        journal.add(["plain", number], {"said": ["a", number], "margin": number / 7})
    del journal
    fuzz(path, Journal, JournalError, times, changed_text)


@TIMES
def test_profiles(tmp_path, times):
    path = tmp_path / "model.json"
    model = {"architecture": "Llama", "num_layers": 8, "num_heads": 4, "weights": "1f"}
    methods = {"ACT": {"heads": {3: (0, 2)}, "beta": 0.4}}
    arrays = {"gain": np.linspace(0, 1, 32)}
    Profile(model, methods, (7,), scores={"ACT": {"f1": [0.5, 0.4, 0.6]}}, arrays=arrays).save(path)
    fuzz(path, Profile.load, ProfileError, times, changed_text)
    (beside,) = tmp_path.glob("*.npz")
    fuzz(beside, lambda _: Profile.load(path), ProfileError, times)


@TIMES
def test_recordings(tmp_path, times):
    path = tmp_path / "run.npz"
    weights = np.random.default_rng(0).dirichlet(np.ones(9), (3, 2, 4))
    Recording(
        weights, np.ones((3, 2, 4)), np.zeros((2, 12), bool), np.arange(12) < 9,
        words=("a", "cat", "."), grid=(3, 3), settings={"model": "tiny"},
    ).save(path)  # fmt: skip
    fuzz(path, Recording.load, ValueError, times)


@TIMES
def test_vectors_of_heads(tmp_path, times):
    path = tmp_path / "task.npz"
    vectors = {layer: np.arange(12.0).reshape(3, 4) for layer in (1, 4)}
    HeadVectors(vectors, model={"num_layers": 5}).save(path)
    fuzz(path, HeadVectors.load, ValueError, times)


@pytest.mark.parametrize("times", [30, NIGHTLY])
def test_folders_of_models(tmp_path, times):
    from reattend.models import ModelFileError, read

    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = hf.Qwen3Config(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    hf.Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    fuzz(tmp_path / "config.json", lambda _: read(tmp_path), ModelFileError, times, changed_text)
    weights = tmp_path / "model.safetensors"
    fuzz(weights, lambda _: read(tmp_path), ModelFileError, times)
