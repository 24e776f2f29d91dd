"""What stands around generate: pipelines, adapters, quantised weights, threads, kept caches."""

import copy
import threading

import numpy as np
import pytest
from patience import HANGS

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from models import IMAGE, MODELS  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from runs import KINDS, METHODS, held, tokens  # noqa: E402

CASES = {case.name: case for case in MODELS}
LLAMA, LLAVA = CASES["Llama"], CASES["LLaVA-1.5"]


def method(name):
    return KINDS[name](**METHODS[name])


def processor():
    """A processor of words, for LLaVA's tiny model."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(96)} | {"<image>": IMAGE}
    words = {word: i for word, i in words.items() if word == "<image>" or i != IMAGE}
    made = Tokenizer(models.WordLevel(words, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="w0", unk_token="w2")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return hf.LlavaProcessor(
        image, tokenizer, patch_size=7, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of transformers' own, about its pipelines
def test_a_pipeline_of_pictures_and_text():
    from PIL import Image

    pipe = hf.pipeline("image-text-to-text", model=LLAVA.load(), processor=processor())
    picture = Image.fromarray(np.arange(28 * 28 * 3, dtype=np.uint8).reshape(28, 28, 3))
    how = {"images": picture, "text": "w1 w5 <image> w8 w3 w14", "max_new_tokens": 5}
    plain = pipe(**how)
    with attached(pipe) as session:
        assert pipe(**how) == plain
    with attached(pipe, method("VHR")) as session:
        pipe(**how)
        assert session.image_spans == [[(2, 18)]]
        assert session.report().idle == ()


def test_inference_mode():
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with attached(model, method("ACT")):
        expected = tokens(model, inputs, 4)
        with torch.inference_mode():
            assert tokens(model, inputs, 4) == expected


def test_a_streamer_in_a_thread():
    model, inputs, tokenizer = LLAVA.load(), LLAVA.inputs((0,)), processor().tokenizer
    streamer = hf.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=HANGS)
    with attached(model, method("VHR"), method("ACT")) as session:
        (expected,) = tokens(model, inputs, 5)
        how = {**inputs, "max_new_tokens": 5, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=how)
        thread.start()
        said = list(streamer)
        thread.join()
        assert session.report().idle == ()
    assert len(said) > 1
    assert "".join(said) == tokenizer.decode(expected)


@pytest.mark.parametrize("name", [None, *METHODS])
def test_threads_of_one_model(name):
    """Each is in a forward of its own, and a report is of the generation that ended last."""
    model = LLAVA.load()
    each = [LLAVA.inputs((item,)) for item in (0, 1)]
    with attached(model, *([] if name is None else [method(name)])) as session:
        expected = [tokens(model, inputs, 8) for inputs in each]
        found, start = [[], []], threading.Barrier(2)

        def run(item):
            start.wait(HANGS)
            for _ in range(3):
                found[item].append(tokens(model, each[item], 8))

        threads = [threading.Thread(target=run, args=(item,)) for item in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[item] * 3 for item in expected]
        tokens(model, each[1], 2)
        assert session.image_spans == ([] if name is None else [[(3, 19)]])


def test_a_copied_cache_is_reordered_by_itself():
    """Prompts are kept so: the copy's beams must not move the items of the first."""
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    with torch.no_grad(), attached(model, method("ACT")):
        (cache,) = held(model, model(**inputs)).values()
        for made in (copy.deepcopy(cache), copy.deepcopy(copy.deepcopy(cache))):
            made.batch_repeat_interleave(2)
            assert [len(each.layers[0].keys) for each in (cache, made)] == [1, 2]
        outside = copy.deepcopy(cache)
    outside.reorder_cache(torch.tensor([0, 0]))
    assert [len(each.layers[0].keys) for each in (cache, outside)] == [1, 2]


@pytest.mark.parametrize("name", [None, *METHODS])
def test_arguments_that_come_by_place(name):
    model, inputs = LLAVA.load(), LLAVA.inputs((0,))
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    methods = () if name is None else (method(name),)
    with torch.no_grad(), attached(model, *methods, verify=False) as session:
        logits = []
        for given in ((ids, pixels), (ids,)):
            how = {"pixel_values": pixels} if len(given) == 1 else {}
            out = model(*given, **how)
            assert session.image_spans == ([[(5, 21)]] if methods else [])
            named = held(model, out)
            step = torch.tensor([[3]])
            how = named if len(given) == 1 else {}
            place = () if len(given) == 1 else (None, None, None, *named.values())
            logits.append(model(step, *place, **how).logits)
        assert torch.equal(*logits)
    text = LLAMA.load()
    ids = LLAMA.inputs((0,))["input_ids"]
    with torch.no_grad():
        expected = text.model(ids).last_hidden_state[:, -1]
        with attached(text, *((method("ACT"),) if name == "ACT" else ()), verify=False):
            expected = text.model(ids).last_hidden_state[:, -1] if not name else expected
            (cache,) = held(text, text.model(ids[:, :-1], use_cache=True)).values()
            found = text.model(ids[:, -1:], None, None, cache).last_hidden_state[:, -1]
    if name != "ACT":
        assert (found - expected).abs().max() < 1e-4


def test_what_a_forward_that_raised_leaves_is_not_the_next_ones():
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with torch.no_grad(), attached(model, method("VAR")):
        with pytest.raises(ValueError, match="match"):
            model(**{**inputs, "pixel_values": inputs["pixel_values"][:, :, :5]})
        model(input_ids=torch.tensor([[1, 5, 9, 7]]))  # it has no pictures


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_an_image_mask_is_of_each_prompt_or_of_all(rows):
    """Beams repeat prompts; two of four prompts are no prompts of which each stands for two."""
    model, inputs = LLAMA.load(), LLAMA.inputs((0, 0, 1, 1))
    image = np.zeros((rows, inputs["input_ids"].shape[1]), bool)
    image[:, -9:-2] = True
    with attached(model, method("VAR"), image=image) as session, torch.no_grad():
        if rows == 2:
            with pytest.raises(ValueError, match=r"image must be bool \[B, P\] = \(4, 16\)"):
                model(**inputs)
            with pytest.raises(ValueError, match=r"image must be bool \[B, P\] = \(4, 16\)"):
                tokens(model, inputs, 2, num_beams=2)
            pairs = {name: each[1:3] for name, each in inputs.items()}
            tokens(model, pairs, 2, num_beams=2)
        else:
            model(**inputs)
            tokens(model, inputs, 2, num_beams=2)
        assert len(session.image_spans) == (4 if rows == 2 else 8)


def test_paged_attention_is_refused():
    """Continuous batching holds keys in pages, of several prompts in one row."""
    model = copy.deepcopy(LLAMA.load())
    with attached(model), pytest.raises(NotImplementedError, match="continuous batching"):
        model.generate_batch([[1, 5, 9]], hf.GenerationConfig(max_new_tokens=2))
    with attached(model), pytest.raises(NotImplementedError, match="continuous batching"):
        model.init_continuous_batching()
    assert "generate_batch" not in vars(model)


@pytest.mark.filterwarnings("ignore")  # torch moves it to another package
def test_weights_of_8_bits():
    model = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(LLAMA.load()), {torch.nn.Linear}, dtype=torch.qint8
    )
    inputs = LLAMA.inputs()
    plain = tokens(model, inputs, 6)
    with attached(model):
        assert tokens(model, inputs, 6) == plain
    with attached(model, method("ACT")) as session:
        tokens(model, inputs, 6)
        assert session.report().readings


class Int8Linear(torch.nn.Module):
    """A linear layer as bitsandbytes has them: its weight is no float before it is used."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("quantized", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x @ (self.quantized * self.scale).T


def test_linear_layers_of_another_kind():
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    for path, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            above, _, name = path.rpartition(".")
            setattr(model.model.get_submodule(above), name, Int8Linear(module))
    plain = tokens(model, inputs, 6)
    with attached(model):
        assert tokens(model, inputs, 6) == plain
    with attached(model, method("ACT")) as session:
        tokens(model, inputs, 6)
        assert session.report().readings


@pytest.mark.filterwarnings("ignore")  # of its casts
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_bitsandbytes(bits):
    modules = pytest.importorskip("bitsandbytes").nn
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    for path, linear in list(model.model.named_modules()):
        if isinstance(linear, torch.nn.Linear):
            above, _, name = path.rpartition(".")
            sizes = linear.in_features, linear.out_features
            made = (
                modules.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
                if bits == 8
                else modules.Linear4bit(*sizes, bias=False)
            )
            made.load_state_dict(linear.state_dict())
            setattr(model.model.get_submodule(above), name, made.to("cpu"))
    plain = tokens(model, inputs, 6)
    assert any(each.dtype in (torch.int8, torch.uint8) for each in model.parameters())
    with attached(model):
        assert tokens(model, inputs, 6) == plain
    with attached(model, method("ACT")) as session:
        tokens(model, inputs, 6)
        assert session.report().readings


@pytest.mark.filterwarnings("ignore")  # of its extensions for other machines
def test_weights_of_torchao():
    quantization = pytest.importorskip("torchao.quantization")
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    plain = tokens(model, inputs, 6)
    with attached(model):
        assert tokens(model, inputs, 6) == plain
    with attached(model, method("ACT")) as session:
        tokens(model, inputs, 6)
        assert session.report().readings


@pytest.mark.filterwarnings("ignore")  # of what peft asks transformers
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_adapters_of_peft(before):
    peft = pytest.importorskip("peft")
    model, inputs = copy.deepcopy(LLAVA.load()), LLAVA.inputs()
    plain = tokens(model, inputs, 6)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )

    def adapted():
        torch.manual_seed(0)
        return peft.get_peft_model(model, config).eval()

    if before:
        model = adapted()
        expected = tokens(model, inputs, 6)
        assert expected != plain
        with attached(model) as session:
            assert tokens(model, inputs, 6) == expected
    else:
        with attached(model) as session:
            model = adapted()
            found = tokens(model, inputs, 6)
        assert tokens(model, inputs, 6) == found != plain
    with attached(model, method("VHR")) as session:
        tokens(model, inputs, 6)
        assert session.image_spans[0]
        assert session.report().idle == ()


def test_parts_placed_on_the_cpu():
    accelerate = pytest.importorskip("accelerate")
    model, inputs = copy.deepcopy(LLAVA.load()), LLAVA.inputs()
    expected = tokens(model, inputs, 4)
    placed = accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    with attached(placed):
        assert tokens(placed, inputs, 4) == expected
    with attached(placed, method("VAR")) as session:
        tokens(placed, inputs, 4)
        assert session.report().idle == ()


@pytest.mark.parametrize("name", METHODS)
def test_a_second_turn_on_a_kept_cache(name):
    """Rows of a later turn come after the prompt, as one read by one."""
    model, inputs = LLAVA.load(), LLAVA.inputs((0,))
    more = torch.tensor([[4, 9, 2]])
    with attached(model, method(name)), torch.no_grad():
        first = model(**inputs)
        together = model(input_ids=more, **held(model, first)).logits[:, -1]
        out = model(**inputs)
        for token in more[0]:
            out = model(input_ids=token[None, None], **held(model, out))
    tolerance = 5e-5 if name != "ACT" else 0.2  # whose means go on within a turn
    assert (together - out.logits[:, -1]).abs().max() < tolerance * together.abs().max()


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # of what the compiler stops at
def test_a_model_that_is_compiled_in_the_block():
    """A compiler leaves attention and what a session does alone, and compiles the rest."""
    model, inputs = copy.deepcopy(LLAMA.load()), LLAMA.inputs()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        plain = compiled(**inputs).logits  # what is compiled without hooks is not used with them
        for each in ((method("ACT"),), (KINDS["ACT"](theta=0.03, beta=0.9),), ()):
            with attached(model, *each):
                expected = model(**inputs).logits
                assert torch.equal(compiled(**inputs).logits, expected)
                assert ((expected - plain).abs().max() > 1e-3) == bool(each)
        assert torch.equal(compiled(**inputs).logits, plain)
        torch.compiler.reset()
        with attached(model), pytest.raises(RuntimeError, match=r"torch\.compiler\.disable"):
            torch.compile(model, backend="eager", fullgraph=True)(**inputs)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_attention_alone_as_an_operator_compiles_through():
    """What an attached model asks is no function of its tensors alone; plain attention is one."""
    from reattend import attention

    @torch.library.custom_op("reattend_test::attention", mutates_args=())
    def operator(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        arrays = (x.numpy() for x in (query, key, value))
        return torch.from_numpy(attention(*arrays, causal=True, scale=scale))

    operator.register_fake(lambda query, key, value, scale: torch.empty(query.shape))
    hf.AttentionInterface.register(
        "reattend_test",
        lambda module, query, key, value, mask, scaling=None, **options: (
            operator(query, key, value, scaling).transpose(1, 2).contiguous(), None
        ),
    )  # fmt: skip
    model, ids = copy.deepcopy(LLAMA.load()), torch.tensor([[1, 5, 9, 7, 11, 3, 8, 20]])
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        model.set_attn_implementation("reattend_test")
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(ids, use_cache=False)
    assert (found.logits - expected).abs().max() < 5e-5 * expected.abs().max()
