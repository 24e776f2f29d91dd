"""Settings at the logits in an evaluation: answers are those of two branches, read by hand."""

from contextlib import nullcontext

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("transformers")

import torch
from PIL import Image
from reattend import Session
from reattend.adaptors.transformers import attached
from reattend.adaptors.transformers.caches import cache_argument, cache_of
from reattend.decoding import DAMRO, ICD, M3ID, VCD, Guidance, diffusion_noise
from reattend.evaluation.datasets.dataset import Case
from reattend.evaluation.runner.answerers import TransformersAnswerer, VisionLanguageAnswerer
from reattend.evaluation.runner.second_branch import split
from reattend.methods import PAI
from reattend.models import IMAGE, LlamaBranch, read_vision_language
from reattend.testing.tiny_llava import tiny_llava

SETTINGS = [VCD(), ICD(alpha=2.0), M3ID(lamb=0.5), Guidance(gamma=1.5)]
CONFUSED = "You are a confused object detector."
SEED = [3904355907, 1908338681]  # of the cases' keys, by zlib.crc32: noise is the same in each run
STEPS = 6


def cases(size, yes_or_no=False):
    pixels = np.random.default_rng(3).integers(0, 256, (2, size, size, 3), np.uint8)
    return [
        Case("a", "Is there a cat in the image ?", pixels[0], "0", yes_or_no, STEPS),
        Case("b", "describe this image Please", pixels[1], "1", yes_or_no, STEPS),
    ]


def spoken(own, other, setting):
    """Go on greedily by the mixed logits that two functions of the tokens so far [B, n] give."""
    ids, mixed = np.zeros((2, 0), int), []
    for step in range(STEPS):
        mixed.append(setting(own(ids), other(ids), step=step))
        ids = np.concatenate([ids, mixed[-1].argmax(-1)[:, None]], axis=1)
    return ids, mixed[0]


def cut(tokens, stop):
    """Give an item's tokens before the first that ends it."""
    ends = np.flatnonzero(np.isin(tokens, list(stop)))
    return tokens[: ends[0]] if len(ends) else tokens


def held(answerer, asked, changes, ids, first, decode, stop):
    """Hold answers against the tokens and the first logits; gives the texts."""
    texts = [decode(cut(row, stop)) for row in ids]
    assert [answer.text for answer in answerer(asked(False), changes)] == texts
    margin = getattr(answerer, "margin", None) or answerer._margin
    margins = [answer.margin for answer in answerer(asked(True), changes)]
    assert margins == pytest.approx([margin(row) for row in first], abs=1e-4)
    return texts


@pytest.mark.filterwarnings("ignore:PAI will change nothing", "ignore:PAI changed no row")
@pytest.mark.parametrize("methods", [[], [PAI(alpha=1.0)]], ids=["alone", "beside PAI"])
@pytest.mark.parametrize("setting", SETTINGS, ids=repr)
def test_a_transformers_model(setting, methods):
    model, processor = tiny_llava()
    processor.tokenizer.padding_side = "left"
    both = cases(28)
    pictures = [Image.fromarray(case.image) for case in both]

    def read(before="", shown=True):
        image = "<image> " if shown else ""
        texts = [f"USER: {image}{before}{case.prompt} ASSISTANT:" for case in both]
        given = {"images": pictures} if shown else {}
        return processor(**given, text=texts, padding=True, return_tensors="pt")

    def branch(inputs):
        held = {}

        def logits(ids):  # with a cache: a random model also says <image>
            new = torch.from_numpy(ids)
            held["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1)
            given = {"input_ids": new[:, -1:]} if ids.size else inputs
            with torch.no_grad():
                out = model(**{**given, **held}, use_cache=True)
            held[cache_argument(model)] = cache_of(out)
            return out.logits[:, -1].numpy()

        return logits

    inputs = read()
    if type(setting) is VCD:
        pixels = inputs["pixel_values"].numpy()
        noised = diffusion_noise(pixels, step=500, rng=np.random.default_rng(SEED))
        other = {**inputs, "pixel_values": torch.from_numpy(noised)}
    else:
        other = read(f"{CONFUSED} ") if type(setting) is ICD else read(shown=False)
    with attached(model, *methods, processor=processor) if methods else nullcontext():
        ids, first = spoken(branch(inputs), branch(other), setting)

    def decode(tokens):
        return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    held(
        TransformersAnswerer(model, processor), lambda yes: cases(28, yes), [*methods, setting],
        ids, first, decode, {3},
    )  # fmt: skip


@pytest.mark.parametrize("methods", [[], [PAI(alpha=1.0)]], ids=["alone", "beside PAI"])
@pytest.mark.parametrize("setting", SETTINGS, ids=repr)
def test_the_packages_own_model(setting, methods, tiny_files):
    model = read_vision_language(*tiny_files)
    both = cases(120)
    pixels = np.stack([case.image for case in both])

    def logits(prompts, shown):
        if shown is not None:
            session = Session(methods, num_layers=model.llama.config.num_layers)
            return model.next_logits(session, prompts, shown)
        session = Session([], num_layers=model.llama.config.num_layers)
        rows = []
        for prompt in prompts:
            tokens = np.array([[token for token in prompt if token != IMAGE]])
            read = LlamaBranch(model.llama, session, tokens, max_new_tokens=1)
            rows.append(read.begin()[0])
            read.close()
        return np.stack(rows)

    def branch(shown, before=None):
        prompts = [model.prompt(case.prompt, before) for case in both]
        return lambda ids: logits(
            [p + row.tolist() for p, row in zip(prompts, ids, strict=True)], shown
        )

    if type(setting) is VCD:
        rng = np.random.default_rng(SEED)
        noised = 127.5 * diffusion_noise(pixels / 127.5 - 1, step=500, rng=rng) + 127.5
        other = branch(np.clip(np.rint(noised), 0, 255).astype(np.uint8))
    else:
        other = branch(pixels, CONFUSED) if type(setting) is ICD else branch(None)
    ids, first = spoken(branch(pixels), other, setting)
    held(
        VisionLanguageAnswerer(model), lambda yes: cases(120, yes), [*methods, setting], ids, first,
        lambda tokens: model.tokenizer.decode(tokens), model.tokenizer.stop,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([VCD(), M3ID()], "at most one setting may mix logits, got "),
        ([DAMRO()], r"must say what its other branch sees, .* got DAMRO\(alpha=2.0"),
        ([lambda logits, *others, step=0: logits], "must say what its other branch sees"),
    ],
)
def test_what_cannot_be_made_from_a_case_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        split(changes)


def test_a_template_without_the_image_token_is_refused():
    answerer = TransformersAnswerer(*tiny_llava(), template=lambda q: f"<image> {q}")
    assert answerer(cases(28)[:1], [M3ID()])[0].tokens
    hides = TransformersAnswerer(*tiny_llava(), template=lambda q: f"< image> {q}")
    with pytest.raises(ValueError, match="must write the processor's image_token, '<image>'"):
        hides._text_only("Is it ?")
