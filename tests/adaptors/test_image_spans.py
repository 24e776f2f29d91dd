"""Where pictures are: found by every convention, or asked for."""

import copy

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from models import MODELS  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from runs import KINDS, METHODS, tokens  # noqa: E402

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
