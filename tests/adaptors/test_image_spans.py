"""Where pictures are: found by every convention, or asked for."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

import runs  # noqa: E402
from given import given  # noqa: E402
from models import MODELS  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.methods import ACT  # noqa: E402
from runs import KINDS, METHODS, tokens  # noqa: E402
from tiny import model_of  # noqa: E402

CASES = {case.name: case for case in MODELS}
LLAVA, QWEN = CASES["LLaVA-1.5"], CASES["Qwen2-VL"]


def method(name):
    return KINDS[name](**METHODS[name])


def test_parts_of_videos_are_parts_of_images():
    model, inputs = QWEN.load(), QWEN.inputs((0,))
    video = model.config.video_token_id
    expected = inputs["input_ids"] == model.config.image_token_id
    inputs["input_ids"] = torch.where(expected, video, inputs["input_ids"])
    how = {
        "input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"],
        "pixel_values_videos": inputs["pixel_values"], "video_grid_thw": inputs["image_grid_thw"],
        "mm_token_type_ids": inputs["mm_token_type_ids"] * 2,
    }  # fmt: skip
    with attached(model, method("VHR")) as session:
        tokens(model, how, 2)
    (spans,) = session.image_spans
    marked = [key for start, end in spans for key in range(start, end)]
    assert marked == torch.nonzero(expected[0])[:, 0].tolist()


@pytest.mark.parametrize("name", ["VAR", "VHR"])
def test_pictures_that_are_not_found_are_asked_for(name):
    """As Fuyu's and Kosmos-2's, whose configs do not name a token."""
    model, inputs = copy.deepcopy(LLAVA.load()), LLAVA.inputs()
    with attached(model, method(name)) as session:
        expected, spans = tokens(model, inputs, 3), session.image_spans
    image = inputs["input_ids"] == model.config.image_token_id
    block = attached(model, method(name))
    block.structure.__dict__["image_tokens"] = ()
    with block, pytest.raises(ValueError, match=r"was given pixel_values.*image=mask"):
        tokens(model, inputs, 3)
    with block, torch.no_grad(), pytest.raises(ValueError, match=rf"so {name} would do nothing"):
        model(**inputs)
    block = attached(model, method(name), image=image)
    block.structure.__dict__["image_tokens"] = ()
    with block as session:
        assert tokens(model, inputs, 3) == expected
        assert session.image_spans == spans
    block = attached(model, method("ACT"))
    block.structure.__dict__["image_tokens"] = ()
    with block:  # it needs no image
        tokens(model, inputs, 3)


def test_kosmos_2_says_where_its_pictures_are():
    text = {
        "vocab_size": 96, "embed_dim": 32, "layers": 5, "ffn_dim": 32, "attention_heads": 4,
        "max_position_embeddings": 64, "eos_token_id": None, "dropout": 0.0,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 7,
    }  # fmt: skip
    config = hf.Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=4)
    torch.manual_seed(0)
    model = hf.Kosmos2ForConditionalGeneration(config).eval()
    ids = torch.tensor([[0, 60, 61, 62, 63, 64, 65, 9, 11, 8]])
    where = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0, 0, 0]])
    how = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 28, 28), "image_embeds_position_mask": where,
    }  # fmt: skip
    with torch.no_grad():
        plain = model(**how).logits
        with attached(model):
            assert (model(**how).logits - plain).abs().max() < 1e-4
        with attached(model, method("VHR")) as session:
            assert (model(**how).logits - plain).abs().max() > 1e-4
            assert session.image_spans == [[(2, 6)]]
    with attached(model, method("VHR")) as session:
        model.generate(**how, max_new_tokens=3)
        assert session.image_spans == [[(2, 6)]]


def test_the_report_names_a_method_that_changed_no_row():
    model, inputs = CASES["Llama"].load(), CASES["Llama"].inputs()
    with attached(model, method("VAR"), method("ACT")) as session:  # a prompt without an image
        tokens(model, inputs, 3)
    assert session.report().idle == ("VAR",)
    assert "changed no row: VAR" in str(session.report())
    with attached(LLAVA.load(), method("VAR"), method("ACT")) as session:
        tokens(LLAVA.load(), LLAVA.inputs(), 3)
    assert session.report().idle == ()


def test_the_report_warns_once_of_a_method_that_changed_no_row():
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with attached(model, ACT(theta=0.999)):
            tokens(model, inputs, 3)
            tokens(model, inputs, 3)
    (warning,) = caught
    assert str(warning.message).startswith("ACT changed no row of a whole generation")
    assert warning.filename == runs.__file__  # where generate is called
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with attached(model, ACT(theta=0.999)), torch.no_grad():  # a loop of one's own
            model(**inputs)
    assert len(caught) == 1


def test_newlines_between_the_rows_of_a_picture_are_no_part_of_it():
    case = CASES["LLaVA-NeXT"]
    model, inputs = case.load(), case.inputs()
    with attached(model, method("VHR")) as session:
        tokens(model, inputs, 2)
        assert session.image_spans[0] == [(5, 29), (30, 38), (39, 47), (48, 56)]
        assert session.report().text_tokens == 18 + 13  # the text has none of them either
        with pytest.raises(NotImplementedError, match="separators between the rows of a picture"):
            tokens(model, inputs, 2, prefill_chunk_size=9)


def test_what_hunyuan_puts_around_a_picture_and_its_rows_is_no_part_of_it():
    """Its newlines are projected with the picture, and two rows of two tokens have two of them."""
    model = model_of("hunyuan_vl")
    what = given(model)
    assert what.holders[0].sum() == 8
    for dtype in (torch.float32, torch.bfloat16):
        inputs = {**what.inputs, "pixel_values": what.inputs["pixel_values"].to(dtype)}
        with attached(model.to(dtype), method("VHR")) as session:
            tokens(model, inputs, 2)
        start = what.holders[0].argmax()
        assert session.image_spans[0] == [(start + 1, start + 3), (start + 4, start + 6)]


@pytest.mark.parametrize(
    ("family", "names"),
    [("phi4_multimodal", ("image",)), ("fuyu", ("image",)), ("video_llava", ("image", "video")),
     ("emu3", ("image",)), ("qwen2_5_omni_thinker", ("image", "video"))],
)  # fmt: skip
def test_tokens_of_pictures_and_videos_are_known_and_those_of_sound_are_not(family, names):
    model = model_of(family)
    found = {"image": 90, "video": 93}
    assert attached(model).structure.image_tokens == tuple(found[name] for name in names)
    assert getattr(model.config, "audio_token_id", 89) == 89


@pytest.mark.parametrize("family", ["internvl", "llama4"])
def test_tiles_and_a_thumbnail_are_found(family):
    """Tokens between them, as Llama 4 has, are no part of the picture."""
    model = model_of(family)
    what = given(model)
    size, token = int(what.image[0].sum()), int(what.inputs["input_ids"][what.image][0])
    between = [7] if family == "llama4" else []
    tiles = [*([token] * size), *between] * 2 + [token] * size
    ids = torch.tensor([[1, 5, *tiles, 8, 3, 14]])
    pixels = what.inputs["pixel_values"]
    how = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.cat([pixels, pixels[:1]]),
    }  # fmt: skip
    with attached(model, method("VHR")) as session:
        tokens(model, how, 2)
        assert session.report().idle == ()
    step = size + len(between)
    expected = [(2 + step * at, 2 + step * at + size) for at in range(3)]
    assert session.image_spans == [expected if between else [(2, 2 + 3 * size)]]
