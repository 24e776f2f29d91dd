"""A tiny LLaVA with random weights, and a processor whose tokens are words."""

from __future__ import annotations

from typing import Any

from reattend.optional import demand

_TEXT = (
    "<pad> <unk> <s> </s> <image> USER: ASSISTANT: Yes No yes no Is there a an in the image ? "
    "person car cat dog stop sign bottle wine glass chair dining table hot describe this Please "
    "detail . and giraffe zebra bus"
)
WORDS = _TEXT.split()
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)


def tiny_llava() -> tuple[Any, Any]:
    """Give a model and its processor, which any test can hold; answers are words of `WORDS`.

    Raises
    ------
    MissingPackageError
        If torch, transformers or tokenizers is not installed.
    """
    torch, hf, tokenizers = demand("torch"), demand("transformers"), demand("tokenizers")
    models, pre_tokenizers = tokenizers.models, tokenizers.pre_tokenizers
    torch.manual_seed(0)
    vision = hf.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=7,
    )  # fmt: skip
    text = hf.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=48, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.25, pad_token_id=0,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_id=4)
    model = hf.LlavaForConditionalGeneration(config).eval()
    words = tokenizers.Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("?", "isolated")]
    )
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    size = {"height": 28, "width": 28}
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    processor = hf.LlavaProcessor(
        pictures, tokenizer, patch_size=7, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return model, processor
