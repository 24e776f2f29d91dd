"""Tokens, chat prompts and streamed text, against transformers on the same files."""

import numpy as np
import pytest
import tiny_llama as tiny
import torch_smollm2
from reattend.models import ModelFile, ModelFileError, TextStream, Tokenizer

pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

TEXTS = (
    "",
    " ",
    "Hello world",
    "  two spaces,\ttab \n\n\nand lines\r\n ",
    "It's we're I'LL don't",
    "naïve café e\u0301 日本語 Ελληνικά עברית 🤖👩‍👩‍👧 \u00a0\u200b",
    "in 2024, 3.14159 and x1y2",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "def f(x):\n    return x**2 - 1  # why\n\n\nclass A:\n\tpass",
)
# Where blanks stand before a digit, what the file asks for ('smollm': each digit by itself, before
# anything else) and what transformers makes of any GGUF file (the words of GPT-2) are different.
BLANKS_BEFORE_DIGITS = ("List:\n\n1. one\n2. two", "  7 8", "a\n\n\n9", "٣٤ Ⅷ ½ x²")


@pytest.fixture(scope="module")
def smollm2():
    """Give our tokenizer and transformers'."""
    path = torch_smollm2.find()
    return Tokenizer(ModelFile(path)), torch_smollm2.from_file("AutoTokenizer", path)


@pytest.fixture
def file(rng, tmp_path):
    return ModelFile(tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng)))


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_tokens_equal_transformers(smollm2, text):
    ours, theirs = smollm2
    tokens = ours.encode(text)
    assert tokens == theirs(text)["input_ids"]
    assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("text", TEXTS + BLANKS_BEFORE_DIGITS)
def test_smollm2_digits_are_words_of_their_own(smollm2, text):
    ours, theirs = smollm2
    words = tokenizers.pre_tokenizers
    by_the_file = words.Sequence([words.Digits(True), words.ByteLevel(add_prefix_space=False)])
    backend = theirs.backend_tokenizer
    before, backend.pre_tokenizer = backend.pre_tokenizer, by_the_file
    try:
        assert ours.encode(text) == theirs(text)["input_ids"]
    finally:
        backend.pre_tokenizer = before


@pytest.mark.parametrize("system", [None, "Be brief.\n"])
def test_smollm2_chat_equals_transformers(smollm2, system):
    ours, theirs = smollm2
    messages = [{"role": "user", "content": " What's {{ 1 + 1 }}?\n"}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    want = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.chat(messages) == want
    tokens = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ours.encode(ours.chat(messages), prefix=False) == tokens
    assert ours.stop == {theirs.eos_token_id}


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_whole_text(smollm2, text):
    ours, _ = smollm2
    tokens, stream = ours.encode(text), TextStream(ours)
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) + stream.flush() == ours.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_cut_short_is_shown_at_the_end(file):
    tokenizer = Tokenizer(file)
    tokens = tokenizer.encode("aé日")
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in tokens] == ["a", "", "é", "", "", "日"]
    assert stream.push(tokens[3]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["the", " in", "\n", "\n", "12"]),
        ("smollm", ["the", " in", "\n\n", "1", "2"]),
        ("llama-bpe", ["the", " in", "\n\n", "12"]),
    ],
)
def test_text_is_cut_as_the_file_says(rng, tmp_path, pre, words):
    """All of these words, but ' in', are tokens: a cut inside one shows."""
    metadata = {"tokenizer.ggml.pre": pre}
    path = tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), metadata=metadata)
    tokenizer = Tokenizer(ModelFile(path))
    want = [token for word in words for token in tokenizer.encode(word)]
    assert tokenizer.encode("the in\n\n12") == want


def sentence_piece():
    """Give the metadata of a small SentencePiece tokenizer, which has scores instead of merges."""
    words = ["▁t", "he", "▁the", "in", "er", "▁a", "▁▁", "nd", "▁and", "th", "the"]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz.,!"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    scores = [0.0] * len(tokens)
    scores += [-float(rank) for rank in range(len(words))]
    scores += [-100.0 - rank for rank in range(len(letters))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": tokens + words + letters,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words + letters),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


@pytest.mark.parametrize(
    "text", ["the and  in", "Thé é 日 x", "  a the", "the</s>and", "a\nb", "</s> the"]
)
def test_sentence_piece_tokens_equal_transformers(rng, tmp_path, text):
    metadata = sentence_piece()
    named = tiny.weights(rng)
    count = len(metadata["tokenizer.ggml.tokens"])
    named["token_embd.weight"] = np.zeros((count, tiny.HIDDEN), dtype=np.float32)
    path = tiny.write(tmp_path / "tiny.gguf", named, metadata=metadata)
    theirs = torch_smollm2.from_file("AutoTokenizer", path)
    ours = Tokenizer(ModelFile(path))
    tokens = ours.encode(text)
    assert tokens == theirs(text)["input_ids"]
    assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)
    stream = TextStream(ours)
    assert "".join(map(stream.push, tokens)) + stream.flush() == ours.decode(tokens)


def test_a_stream_goes_on_behind_bytes_that_are_no_text(rng, tmp_path):
    """A model may write any bytes one by one; text that comes behind them is shown."""
    metadata = sentence_piece()
    named = tiny.weights(rng)
    count = len(metadata["tokenizer.ggml.tokens"])
    named["token_embd.weight"] = np.zeros((count, tiny.HIDDEN), dtype=np.float32)
    ours = Tokenizer(ModelFile(tiny.write(tmp_path / "t.gguf", named, metadata=metadata)))
    letter, byte = (metadata["tokenizer.ggml.tokens"].index(f"<0x{n}>") for n in ("41", "E9"))
    (the,) = ours.encode("the", prefix=False)
    stream = TextStream(ours)
    assert [stream.push(token) for token in (letter, byte)] == ["A", ""]
    assert stream.push(the).endswith("\ufffd the")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer.ggml.model": "t5"}, "kind 't5'"),
        ({"tokenizer.ggml.pre": "gpt-4o"}, "cuts text into words by 'gpt-4o'"),
        ({"tokenizer.ggml.tokens": None}, "no metadata 'tokenizer.ggml.tokens'"),
        ({"tokenizer.ggml.merges": None}, "no metadata 'tokenizer.ggml.merges'"),
        ({"tokenizer.ggml.eos_token_id": 9999}, "eos token 9999"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused(rng, tmp_path, change, says):
    path = tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), metadata=change)
    with pytest.raises(ModelFileError, match=says):
        Tokenizer(ModelFile(path))


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        (None, "no chat template"),
        ("{% for", "chat template fails"),
        ("{{ raise_exception('system first') }}", "system first"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
    ids=["none", "broken", "refuses", "breaks out"],
)
def test_chat_templates_that_fail_say_so(rng, tmp_path, chat, says):
    path = tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), chat=chat)
    with pytest.raises(ModelFileError, match=says):
        Tokenizer(ModelFile(path)).chat([{"role": "user", "content": "Hello"}])
