"""Profiles: written whole, read in later versions, for one model only."""

import json
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import search_model
from reattend import ACT, PASTA, VAR, VHR, HeadMask, Session
from reattend.evaluation.calibration import (
    Profile,
    ProfileError,
    find_sink_dims,
    fingerprint,
)
from reattend.sinks import PUBLISHED_SINK_DIMS

RELEASED = sorted((Path(__file__).parent / "profiles").glob("*.json"))
MODEL = {"architecture": "Llama", "num_layers": 8, "num_heads": 4, "hidden_size": 32,
         "weights": "ab" * 32}  # fmt: skip


def profile(**changes):
    methods = {
        "ACT": {"heads": {3: (0, 2), 4: (1,)}, "beta": 0.3},
        "VAR": {"p": 0.3},
        "VHR": {"alpha": 1.1},
        "PASTA": {"heads": {2: (1,)}, "alpha": 0.1},
        "HeadMask": {"heads": {5: (3,)}},
    }
    values = {
        "sink_dims": (7, 21), "data": {"name": "pope"}, "created": "2026-01-02T03:04:05+00:00",
        "scores": {"ACT": {"held_out": {"gain": [0.1, 0.05, 0.2], "verdict": "confirmed"}}},
        "arrays": {"ACT.gains": np.linspace(-1, 1, 12)}, **changes,
    }  # fmt: skip
    return Profile(MODEL, methods, **values)


def test_what_is_written_is_read(tmp_path):
    path = profile().save(tmp_path / "llama.json")
    found = Profile.load(path)
    for name in ("model", "methods", "sink_dims", "data", "scores", "created", "version"):
        assert getattr(found, name) == getattr(profile(), name), name
    np.testing.assert_array_equal(found.arrays["ACT.gains"], profile().arrays["ACT.gains"])
    assert json.loads(path.read_text())["profile"] == 1
    # Other arrays come in the place of those before, whose file goes.
    profile(arrays={"ACT.gains": np.ones(3)}).save(path)
    assert len([*tmp_path.glob("*.npz")]) == 1
    assert Profile.load(path).arrays["ACT.gains"].tolist() == [1, 1, 1]
    profile(arrays={}).save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["llama.json"]
    with pytest.raises(ValueError, match=r"path must end in \.json"):
        profile().save(tmp_path / "llama.npz")


def test_methods_are_built_from_it(tmp_path):
    path = profile().save(tmp_path / "llama.json")
    assert ACT.from_profile(path) == ACT(heads={3: (0, 2), 4: (1,)}, beta=0.3)
    assert ACT.from_profile(path, MODEL, theta=0.1).theta == 0.1
    assert VAR.from_profile(path) == VAR(sink_dims=(7, 21), p=0.3)
    assert VHR.from_profile(path) == VHR(alpha=1.1)
    assert PASTA.from_profile(path, spans=((1, 2),)).heads == ((2, (1,)),)
    assert HeadMask.from_profile(str(path)) == HeadMask(heads={5: (3,)})
    assert pickle.loads(pickle.dumps(ACT.from_profile(path))) == ACT.from_profile(path)
    assert VAR.from_profile(Profile(MODEL, {}, sink_dims=(7,))).sink_dims == (7,)
    with pytest.raises(ProfileError, match="holds nothing for VAR, only for ACT"):
        VAR.from_profile(Profile(MODEL, {"ACT": {"beta": 0.1}}))


def test_another_model_is_refused_with_the_reason(tmp_path):
    path = profile().save(tmp_path / "llama.json")
    with pytest.raises(ProfileError, match=r"llama\.json is of another model: num_layers 8, not 9"):
        ACT.from_profile(path, {**MODEL, "num_layers": 9})
    with pytest.raises(ProfileError, match=r"weights abababababab\.\.\., not cdcd"):
        ACT.from_profile(path, {**MODEL, "weights": "cd" * 32})
    act = ACT.from_profile(path)
    Session(act, num_layers=8, num_heads=4)
    with pytest.raises(ProfileError, match="is of another model: num_heads 4, not 2"):
        Session(act, num_layers=8, num_heads=2)
    with pytest.raises(ProfileError, match="is of another model"):
        profile().joined(Profile({**MODEL, "weights": "0"}, {}))


def test_attaching_compares_the_weights(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from reattend.adaptors.transformers import attached
    from reattend.testing.tiny_llava import tiny_llava

    model, _ = tiny_llava()
    own = fingerprint(model)
    assert (own["architecture"], own["num_layers"], own["num_heads"], own["hidden_size"]) == (
        "LlavaForConditionalGeneration", 5, 4, 64,
    )  # fmt: skip
    act = ACT.from_profile(Profile(own, {"ACT": {"heads": {2: (0,)}}}))
    attached(model, act)
    with attached(model, act):  # what is attached is the same model
        assert fingerprint(model) == own
    assert fingerprint(model.bfloat16()) == own
    next(model.parameters()).data += 1
    with pytest.raises(ProfileError, match="is of another model: weights"):
        attached(model, act)


def test_fingerprints_of_numpy_models():
    one, other = search_model.model(), search_model.model(seed=1)
    assert fingerprint(one) == fingerprint(search_model.model()) != fingerprint(other)
    one.layers[3].down[:] += 1
    assert fingerprint(one) != fingerprint(search_model.model())
    with pytest.raises(TypeError, match=r"model must be a torch module .* got list"):
        fingerprint([1, 2])


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_files_of_released_versions_are_read(path):
    found = Profile.load(path)
    act = ACT.from_profile(found)
    assert act == ACT(heads={3: (0, 2), 4: (1,)}, beta=0.3)
    assert found.version == path.stem
    assert found.created == "2026-01-02T03:04:05+00:00"
    assert VAR.from_profile(path).sink_dims == (7, 21)
    assert found.scores["ACT"]["held_out"]["gain"] == [0.1, 0.05, 0.2]
    np.testing.assert_array_equal(found.arrays["ACT.gains"], np.linspace(-1, 1, 12))
    with pytest.raises(ProfileError, match="of another model"):
        found.check({**MODEL, "hidden_size": 64})


def test_there_is_a_file_of_this_version_at_least():
    assert RELEASED


def test_what_is_broken_is_named(tmp_path):
    path = profile().save(tmp_path / "llama.json")
    whole = path.read_text()
    (arrays,) = tmp_path.glob("*.npz")
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-1])
    with pytest.raises(ProfileError, match=r"npz holds other arrays than those of llama\.json"):
        Profile.load(path)
    arrays.unlink()
    with pytest.raises(ProfileError, match="needs its arrays beside it"):
        Profile.load(path)
    path.write_text(whole.replace('"profile": 1', '"profile": 2'))
    with pytest.raises(ProfileError, match="of format 2, and this reattend reads 1"):
        Profile.load(path)
    for text in ("", "[]", "{}", '{"profile": 1}', '{"profile": 1, "model": 3}', "[" * 100000):
        path.write_text(text)
        with pytest.raises(ProfileError, match="is no profile of a model"):
            Profile.load(path)
    with pytest.raises(FileNotFoundError):
        Profile.load(tmp_path / "no.json")


WRITER = """
import sys, itertools
import numpy as np
from reattend.evaluation.calibration import Profile
print("writes", flush=True)
for number in itertools.count():
    arrays = {"numbers": np.full(20000, number)}
    Profile({"number": number}, {}, arrays=arrays).save(sys.argv[1])
"""


def test_a_killed_writer_leaves_a_whole_profile(tmp_path, rng):
    path = tmp_path / "found.json"
    Profile({"number": -1}, {}, arrays={"numbers": np.full(20000, -1)}).save(path)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as one:
            one.stdout.readline()
            time.sleep(float(rng.random() * 0.1))
            one.send_signal(signal.SIGKILL)
        found = Profile.load(path)
        assert (found.arrays["numbers"] == found.model["number"]).all()


def test_sink_dims_of_models_by_their_states(rng):
    states = 0.1 * rng.standard_normal((4, 2, 6, 16))
    states[2:, :, 0, 5] = 2000.0
    states[3, :, 0, 9] = -2000.0
    assert find_sink_dims(states) == (5, 9)
    assert find_sink_dims(states[:2]) == ()
    assert PUBLISHED_SINK_DIMS["llava-1.5-7b"] == (1415, 2533)
    assert PUBLISHED_SINK_DIMS["llava-1.5-13b"] == (2100, 4743)


def test_answerers_give_the_states_that_enter_each_layer(tiny_model):
    pytest.importorskip("transformers")
    import torch
    from reattend.evaluation.datasets import Case
    from reattend.evaluation.runner.answerers import TransformersAnswerer, VisionLanguageAnswerer
    from reattend.testing.tiny_llava import tiny_llava

    pixels = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    case = Case("1", "Is there a cat in the image ?", pixels, "a")
    model, processor = tiny_llava()
    with torch.no_grad():  # the embedding of the first token is as massive as it may be
        model.get_input_embeddings().weight[:, 11] = 3000.0
    states = [*TransformersAnswerer(model, processor).hidden_states(case)]
    assert len(states) == 5
    assert states[0].shape[2] == 64
    assert find_sink_dims(states)[0] == 11
    ours = VisionLanguageAnswerer(tiny_model)
    states = [*ours.hidden_states(case)]
    assert len(states) == tiny_model.llama.config.num_layers
    inputs, _, image = ours.embed([case])
    np.testing.assert_array_equal(states[0], inputs)
    from reattend import KVCache

    session = Session([], num_layers=len(states))
    with session.generation(image):
        tiny_model.llama(inputs, KVCache(len(states)), seen := _Seen(session))
    for ours_, theirs in zip(states, seen.states, strict=True):
        np.testing.assert_allclose(ours_, theirs, atol=1e-5)


class _Seen:
    """A session that keeps the states that enter each layer."""

    def __init__(self, session):
        self.session, self.states = session, []

    def attend(self, layer, *tensors, **options):
        self.states.append(options["hidden_states"].copy())
        return self.session.attend(layer, *tensors, **options)
