"""Attaching and letting go: what is restored, what is refused, and in which words."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from models import MODELS, TEXT  # noqa: E402
from reattend.adaptors.transformers import attached, protocols  # noqa: E402
from reattend.adaptors.transformers.introspection import examined  # noqa: E402
from reattend.method import Method  # noqa: E402
from reattend.methods import ACT, PAI, VAR, VHR, HeadMask  # noqa: E402
from runs import METHODS, generate, held, tokens  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

CASES = {case.name: case for case in MODELS}
LLAMA, LLAVA = CASES["Llama"], CASES["LLaVA-1.5"]
EACH_ACT = ACT(**METHODS["ACT"])


def traces(model):
    """Everything about a model that attaching may touch."""
    implementations = [
        (name, module.config._attn_implementation)
        for name, module in model.named_modules()
        if hasattr(module, "config")
    ]
    hooks = [
        (name, len(module._forward_pre_hooks), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]
    return implementations, hooks, sorted(vars(model))


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_all_is_restored(case):
    model = case.load()
    before = traces(model)
    with attached(model, EACH_ACT):
        assert traces(model) != before
    assert traces(model) == before
    with pytest.raises(KeyError, match="stop"), attached(model):
        raise KeyError("stop")
    assert traces(model) == before


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_models_have_what_the_types_say(case):
    model = case.load()
    structure = examined(model)
    assert isinstance(model, protocols.Model)
    assert isinstance(structure.decoder, protocols.Decoder)
    assert isinstance(structure.config, protocols.Config)
    for module in structure.attention.values():
        assert isinstance(module, protocols.AttentionModule)
    assert isinstance(next(model.parameters()), protocols.Tensor)
    assert isinstance(hf.DynamicCache(), protocols.Cache)
    assert not isinstance(np.zeros(3), protocols.Tensor)


def test_the_vision_tower_stays_as_it_was():
    model = LLAVA.load()
    with attached(model):
        assert model.config.vision_config._attn_implementation == "sdpa"
        assert model.config._attn_implementation == "sdpa"
        assert model.config.text_config._attn_implementation == "reattend"
        assert model.config.to_dict().get("attn_implementation") is None


class Fails(Method):
    """A method that raises in its first layer."""

    def plan(self, call, state):
        raise ValueError("this method fails")


def test_an_exception_inside_a_forward():
    model, inputs = LLAVA.load(), LLAVA.inputs()
    expected = generate(model, inputs, 4)
    with attached(model, Fails()) as session:
        with pytest.raises(ValueError, match="this method fails"):
            tokens(model, inputs, 2)
        assert session is not None
    after = generate(model, inputs, 4)
    assert all(torch.equal(*pair) for pair in zip(expected.logits, after.logits, strict=True))


def test_blocks_nest():
    model, inputs = LLAMA.load(), LLAMA.inputs()
    before = traces(model)
    plain = tokens(model, inputs, 8)
    with attached(model, EACH_ACT) as outer:
        act = tokens(model, inputs, 8)
        with attached(model) as inner:
            assert tokens(model, inputs, 8) == plain
            assert not inner.report().methods.readings
        assert tokens(model, inputs, 8) == act
    assert act != plain
    assert outer.report().methods.readings
    assert traces(model) == before


def test_a_block_can_be_entered_twice():
    model, inputs = LLAMA.load(), LLAMA.inputs()
    before, block = traces(model), attached(model, EACH_ACT)
    with block:
        first = tokens(model, inputs, 8)
    assert traces(model) == before
    with block, block:
        assert tokens(model, inputs, 8) == first
    assert traces(model) == before


def test_blocks_may_end_in_any_order():
    """As fixtures' and ExitStacks of one's own may: the model is let go by the last one."""
    model, inputs = LLAMA.load(), LLAMA.inputs()
    before, plain = traces(model), tokens(model, inputs, 8)
    second = ACT(theta=0.03, beta=0.9)
    with attached(model, second):
        expected = tokens(model, inputs, 8)
    blocks = attached(model, EACH_ACT), attached(model, second)
    for block in blocks:
        block.__enter__()
    blocks[0].__exit__(None, None, None)
    assert tokens(model, inputs, 8) == expected != plain
    with pytest.raises(NotImplementedError, match="prompt_lookup_num_tokens"):
        tokens(model, inputs, 8, prompt_lookup_num_tokens=2)
    blocks[1].__exit__(None, None, None)
    assert traces(model) == before
    assert tokens(model, inputs, 8) == plain


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps], ids=["copy", "pickle"])
@pytest.mark.parametrize("part", ["", "model", "model.layers.0"])
def test_an_attached_model_is_not_copied(copied, part):
    """A copy's generate() was the first model's, and its own sinks and softcaps were lost."""
    model = copy.deepcopy(LLAMA.load())
    with (
        attached(model, EACH_ACT),
        pytest.raises(RuntimeError, match="must not be copied or pickled while reattend is"),
    ):
        copied(model.get_submodule(part))
    assert len(copied(model) if copied is pickle.dumps else list(copied(model).parameters())) > 9


def test_a_config_that_was_copied_inside_a_block():
    """Nobody is attached to a model that is built from it, and its own attention is not known."""
    with attached(LLAMA.load()):
        config = copy.deepcopy(LLAMA.load().config)
    model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        with pytest.raises(RuntimeError, match=r"or call set_attn_implementation\(\)"):
            model(**LLAMA.inputs())
        model.set_attn_implementation("sdpa")
        model(**LLAMA.inputs())


def test_another_attention_is_not_taken_for_the_models_own():
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def doubled(module, query, key, value, mask, **options):
        return sdpa(module, query, key, 2 * value, mask, **options)

    hf.AttentionInterface.register("doubled", doubled)
    try:
        model.set_attn_implementation("doubled")
        before = traces(model)
        with pytest.raises(NotImplementedError, match="implementation 'doubled', and what that"):
            attached(model).__enter__()
        assert traces(model) == before
    finally:
        del hf.AttentionInterface._global_mapping["doubled"]
    model.set_attn_implementation("sdpa")
    try:
        hf.AttentionInterface.register("sdpa", doubled)
        with (
            attached(model),
            torch.no_grad(),
            pytest.raises(RuntimeError, match="differs from the model's own"),
        ):
            model(**inputs)
    finally:
        hf.AttentionInterface.register("sdpa", sdpa)


def test_an_implementation_that_is_changed_inside_the_block():
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    with attached(model, EACH_ACT), torch.no_grad():
        model.set_attn_implementation("sdpa")
        with pytest.raises(RuntimeError, match="was changed to sdpa inside the block"):
            model(**inputs)


def test_two_models_do_not_mix():
    models = [copy.deepcopy(LLAMA.load()), copy.deepcopy(LLAMA.load())]
    inputs = LLAMA.inputs()
    plain = tokens(models[0], inputs, 8)
    with attached(models[0], EACH_ACT) as first:
        act = tokens(models[0], inputs, 8)
        with attached(models[1]) as second:
            assert tokens(models[1], inputs, 8) == plain
            assert tokens(models[0], inputs, 8) == act
        assert tokens(models[1], inputs, 8) == plain
    assert first.report().methods.readings
    assert not second.report().methods.readings


def test_models_that_share_a_config():
    config = hf.LlamaConfig(**TEXT)
    models = [hf.LlamaForCausalLM(config).eval() for _ in range(2)]
    inputs = LLAMA.inputs()
    with torch.no_grad():
        plain = [model(**inputs).logits for model in models]
        with attached(models[0], EACH_ACT):
            assert not torch.equal(models[0](**inputs).logits, plain[0])
            assert torch.equal(models[1](**inputs).logits, plain[1])
        models[0].set_attn_implementation("eager")
        eager = models[1](**inputs).logits
        with attached(models[0], EACH_ACT):
            assert torch.equal(models[1](**inputs).logits, eager)


def test_a_model_loaded_with_eager():
    config = hf.LlamaConfig(**TEXT, attn_implementation="eager")
    model, inputs = hf.LlamaForCausalLM(config).eval(), LLAMA.inputs()
    plain = tokens(model, inputs, 8)
    with attached(model):
        assert tokens(model, inputs, 8) == plain
    assert model.config._attn_implementation == "eager"


def test_a_cache_that_began_elsewhere():
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    with torch.no_grad():
        step = {"input_ids": torch.tensor([[3]]), **held(model, model(**inputs))}
        with attached(model, EACH_ACT), pytest.raises(RuntimeError, match="without these methods"):
            model(**step)
        with attached(model):  # nothing to remember: nothing to refuse
            model(**step)


@pytest.mark.parametrize("method", [EACH_ACT, PAI(), HeadMask({3: (0,)})], ids=repr)
def test_measuring_changes_no_answer(method):
    model, inputs = LLAVA.load(), LLAVA.inputs((0, 1))
    logits = []
    for measures in ((), ("entropy", "image_mass", "head_outputs")):
        with attached(model, method, measures=measures), torch.no_grad():
            logits.append(torch.stack(generate(model, inputs, 6).logits))
    torch.testing.assert_close(*logits)


def test_a_conversation_goes_on():
    """A second turn on the same cache: its rows are no prompt, and later steps follow."""
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    more = torch.tensor([[4, 9, 2]])
    with attached(model, EACH_ACT), torch.no_grad():
        out = model(**inputs)
        out = model(input_ids=more, **held(model, out))
        assert out.logits.shape[1] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_lookup_num_tokens": 2}, "assisted generation reads guessed tokens"),
        ({"assistant_early_exit": 2}, "leave out assistant_early_exit"),
        ({"use_mtp": True}, "leave out use_mtp"),
        (
            {"generation_config": hf.GenerationConfig(prompt_lookup_num_tokens=2)},
            "leave out prompt_lookup_num_tokens",
        ),
        ({"use_cache": False}, "use a cache"),
        ({"output_attentions": True}, "output_attentions needs the attention matrix"),
    ],
)
def test_options_that_cannot_be_honoured(options, message):
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    with attached(model, EACH_ACT), pytest.raises(NotImplementedError, match=message):
        model.generate(**inputs, max_new_tokens=4, **options)


def test_assisted_generation():
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    expected = tokens(model, inputs, 8)
    with attached(model):  # without a method it may go back
        assert tokens(model, inputs, 8, prompt_lookup_num_tokens=2) == expected
    helper = copy.deepcopy(model)
    with attached(model, EACH_ACT), pytest.raises(NotImplementedError, match="assistant_model"):
        tokens(model, inputs, 8, assistant_model=helper)


def test_training_and_gradients():
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    with attached(model):
        with pytest.raises(RuntimeError, match=r"run the model under torch\.no_grad"):
            model(**inputs)
        model.train()
        with pytest.raises(RuntimeError, match=r"call model\.eval\(\)"), torch.no_grad():
            model(**inputs)


@pytest.mark.parametrize("learned", ["v_proj.weight", "sinks"])
def test_gradients_of_one_part_only(learned):
    """Not the query's: values, or a sink that no input has made."""
    case = CASES["gpt-oss"]
    model, inputs = copy.deepcopy(case.load()), case.inputs()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith((f"0.self_attn.{learned}", "lm_head.weight")):
            parameter.requires_grad_(True)
    with attached(model):
        with pytest.raises(RuntimeError, match=r"run the model under torch\.no_grad"):
            model(**inputs)
        with torch.no_grad():
            model(**inputs)


@pytest.mark.parametrize("verify", [True, False])
def test_a_model_of_64_bits(verify):
    model = copy.deepcopy(LLAMA.load()).double()
    with (
        attached(model, verify=verify),
        torch.no_grad(),
        pytest.raises(NotImplementedError, match=r"in 32 bits at most: use model\.float\(\)"),
    ):
        model(**LLAMA.inputs())


def test_autocast():
    """Attention is not rounded to 16 bits, as all around it is."""
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    valid = inputs["attention_mask"].bool()
    with torch.no_grad():
        exact = model(**inputs).logits[valid]
        with torch.autocast("cpu", torch.bfloat16):
            theirs = model(**inputs).logits
            with attached(model):
                ours = model(**inputs).logits
    assert ours.dtype == theirs.dtype
    assert (ours[valid] - exact).abs().max() <= 2 * (theirs[valid] - exact).abs().max()


def test_compiled_models():
    model = copy.deepcopy(LLAMA.load())
    with pytest.raises(NotImplementedError, match=r"compiled by torch\.compile"):
        attached(torch.compile(model, backend="eager"))
    model.compile(backend="eager")
    with pytest.raises(NotImplementedError, match=r"compiled by torch\.compile"):
        attached(model)


def test_another_device():
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).eval()
    with pytest.raises(NotImplementedError, match="LlamaForCausalLM is on meta; reattend computes"):
        attached(model)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="PreTrainedModel, got Linear"):
        attached(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="methods must be Method instances"):
        attached(LLAMA.load(), ["VAR"])


SMALL = {"vocab_size": 32, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Falcon", SMALL),
        ("Bloom", {"vocab_size": 32, "n_layer": 2, "hidden_size": 16, "n_head": 2}),
        ("Mpt", {"vocab_size": 32, "n_layers": 2, "d_model": 16, "n_heads": 2}),
    ],
)
def test_models_that_do_not_route(kind, sizes):
    model = getattr(hf, f"{kind}ForCausalLM")(getattr(hf, f"{kind}Config")(**sizes)).eval()
    before = traces(model)
    with pytest.raises(NotImplementedError, match=f"{kind}ForCausalLM"):
        attached(model).__enter__()
    assert traces(model) == before


def test_encoder_decoder_models():
    """Its own cross-attention and its encoder stay as they were."""
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 32}
    for config in (hf.BartConfig(**sizes), hf.T5Config(vocab_size=32, d_model=16, num_layers=2)):
        torch.manual_seed(0)
        model = hf.AutoModelForSeq2SeqLM.from_config(config).eval()
        ids = torch.tensor([[5, 9, 7, 11, 2], [0, 0, 6, 4, 2]])
        how = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        options = {"min_new_tokens": 6, "decoder_start_token_id": 2}
        ways = ({"num_beams": 2}, {"cache_implementation": "static"})
        plain = [generate(model, how, 6, **options, **way) for way in ways]
        before = traces(model)  # with what transformers keeps of a static cache
        with attached(model) as session:
            ours = [generate(model, how, 6, **options, **way) for way in ways]
            assert len(session.structure.attention) == 2
        for expected, found in zip(plain, ours, strict=True):
            for a, b in zip(expected.logits, found.logits, strict=True):
                assert (a - b).abs().max() < 1e-5
        with pytest.raises(NotImplementedError, match="an encoder with a decoder"):
            attached(model, EACH_ACT)
        assert traces(model) == before


def test_models_that_see_images_through_cross_attention():
    text = {
        "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 16, "cross_attention_layers": [1],
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
    }  # fmt: skip
    model = hf.MllamaForCausalLM(hf.models.mllama.configuration_mllama.MllamaTextConfig(**text))
    model = model.eval()
    image, ids = torch.randn(1, 4, 16), torch.tensor([[1, 5, 9, 7]])
    how = {"input_ids": ids, "cross_attention_states": image}
    with torch.no_grad():
        expected = model(**how).logits
        with attached(model) as session:
            assert sorted(session.structure.attention) == [0, 2]
            assert (model(**how).logits - expected).abs().max() < 1e-5
    with pytest.raises(ValueError, match="sink_dims must be given for MllamaForCausalLM"):
        attached(model, VAR(tau=0.3))
    with pytest.raises(ValueError, match="PAI does not say what it does in cross-attention"):
        attached(model, PAI())


def test_cross_attention_to_a_text_stays_the_models_own():
    config = hf.BartConfig(
        d_model=16, decoder_layers=4, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=32,
        is_decoder=True, is_encoder_decoder=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.BartForCausalLM(config).eval()
    ids, text = torch.tensor([[5, 9, 7, 11, 2, 3, 4, 8]]), torch.randn(1, 5, 16)
    how = {"input_ids": ids, "encoder_hidden_states": text}
    with torch.no_grad():
        expected = model(**how).logits
        with attached(model, ACT(theta=1)) as session:
            assert (model(**how).logits - expected).abs().max() < 1e-5
            assert session.structure.cross == {}
        with attached(model, ACT(theta=0.05)) as session:
            acted = model(**how).logits
            assert (acted - expected).abs().max() > 1e-5
            assert {r.layer for r in session.report().readings} == {2}
        how["encoder_hidden_states"] = torch.cat([text, torch.randn(1, 3, 16)], 1)
        how["encoder_attention_mask"] = torch.tensor([[1] * 5 + [0] * 3])
        for methods, found in ((), expected), ((ACT(theta=0.05),), acted):
            with attached(model, *methods):  # the padding of the text is none of the rows' past
                assert (model(**how).logits - found).abs().max() < 1e-5


def test_a_cache_that_grew_without_the_methods():
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    with attached(model, EACH_ACT), torch.no_grad():
        cache = held(model, model(**inputs))
        with attached(model):
            model(input_ids=torch.tensor([[3]]), **cache)
        with pytest.raises(
            RuntimeError, match="holds 17 keys, of which these methods have seen 16"
        ):
            model(input_ids=torch.tensor([[3]]), **cache)


@pytest.mark.parametrize("given", ["no mask", "a mask of rows and keys"])
def test_several_prompts_in_one_row(given):
    """Methods would take them for one prompt; without methods they are what they are alone."""
    model, text = LLAMA.load(), torch.tensor([[1, 5, 9, 7, 11, 3, 8, 20, 1, 6, 4, 17, 22, 2, 19]])
    places = torch.tensor([[*range(8), *range(7)]])
    how = {"input_ids": text, "position_ids": places, "use_cache": False}
    if given != "no mask":
        item = torch.arange(15) >= 8
        seen = torch.ones(15, 15).tril().bool() & (item[:, None] == item)
        how["attention_mask"] = seen[None, None]
    with torch.no_grad():
        alone = [model(input_ids=part).logits for part in (text[:, :8], text[:, 8:])]
        with attached(model):
            found = model(**how).logits
        assert (found - torch.cat(alone, 1)).abs().max() < 1e-4
        with (
            attached(model, EACH_ACT),
            pytest.raises(NotImplementedError, match="give each a row of its own"),
        ):
            model(**how)


def test_image_tokens_in_a_later_turn():
    model, inputs = LLAVA.load(), LLAVA.inputs((0,))
    with attached(model, VAR(**METHODS["VAR"])), torch.no_grad():
        cache = held(model, model(**inputs))
        with pytest.raises(NotImplementedError, match="image tokens came after the prompt"):
            model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], **cache)


def test_a_second_picture_in_a_conversation():
    """A kept cache refuses it by name; the whole conversation as one prompt is read anew."""
    model, inputs = LLAVA.load(), LLAVA.inputs((0,))
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    both = {
        "input_ids": torch.cat([ids, ids], dim=1), "pixel_values": torch.cat([pixels, pixels]),
    }  # fmt: skip
    both["attention_mask"] = torch.ones_like(both["input_ids"])
    with attached(model, VAR(**METHODS["VAR"])) as session, torch.no_grad():
        kept = held(model, model(**inputs))
        with pytest.raises(NotImplementedError, match="let one prompt hold all images"):
            model.generate(**{**both, "pixel_values": pixels}, **kept, max_new_tokens=2)
        tokens(model, both, 2)
        assert len(session.image_spans[0]) == 2


def test_a_prompt_that_is_all_image():
    model = LLAMA.load()
    ids = torch.tensor([[5, 6, 7]])
    with (
        attached(model, VHR(), image=np.ones((1, 3), bool)),
        torch.no_grad(),
        pytest.raises(ValueError, match="must have text beside its image"),
    ):
        model(input_ids=ids)


def test_absent_packages_are_named():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import reattend.adaptors\n"
        "try: reattend.adaptors.transformers.attached(None)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 'pip install "reattend[transformers]"' in done.stdout


def test_importing_the_adaptors_imports_no_framework():
    code = (
        "import sys, reattend.adaptors; "
        "assert not {'torch', 'transformers'} & set(sys.modules), 'a framework came along'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_methods_that_do_not_fit_the_model_are_refused_at_once():
    model = LLAVA.load()
    with pytest.raises(
        TypeError, match=r"methods must be Method instances, got <class .*; write VHR\(\)"
    ):
        attached(model, VHR)
    with pytest.raises(TypeError, match="methods must be Method instances, got 'vhr'"):
        attached(model, "vhr")
    with pytest.raises(ValueError, match="tau"):
        attached(model, VAR(sink_dims=(1,)))  # 20 is beyond the square root of 64
    with pytest.raises(ValueError, match="heads"):
        attached(model, ACT(heads={99: (0,)}))


def test_a_pipeline_is_taken_for_its_model():
    model = LLAMA.load()
    pipe = hf.TextGenerationPipeline(model=model, tokenizer=_Tokens())
    inputs = LLAMA.inputs()
    with attached(pipe, EACH_ACT) as session:
        generate(model, inputs, 2)
    assert session.model is model
    assert session.report().readings
    assert repr(session) == f"ModelSession({type(model).__name__}, [{EACH_ACT!r}])"
    assert session._repr_html_().startswith("<table>")


class _Tokens(hf.PreTrainedTokenizerBase):
    """What a pipeline asks of a tokenizer when it is made."""
