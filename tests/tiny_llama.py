"""Tiny random Llama-type models: as GGUF files, and as transformers builds them."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

LAYERS, HEADS, KV_HEADS, DIM, HIDDEN, MLP = 4, 4, 2, 16, 64, 96
WORDS = ["th", "the", " t", " the", "in", "er", "\n\n", "12"]
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>"]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def installed(module):
    """Say whether a module of the extra demo is there."""
    return find_spec(module) is not None


def byte_letters():
    """Give the letter that byte-level tokenizers write for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {b: chr(256 + i) for i, b in enumerate(others)}


def vocabulary():
    """Give tokens, their types and merges of a byte-level tokenizer with a few words."""
    letters = byte_letters()
    tokens, merges = list(letters.values()), []
    for word in WORDS:
        spelled = "".join(letters[byte] for byte in word.encode())
        cut = next(
            c for c in range(len(spelled) - 1, 0, -1) if {spelled[:c], spelled[c:]} <= {*tokens}
        )
        merges.append(f"{spelled[:cut]} {spelled[cut:]}")
        tokens.append(spelled)
    return [*tokens, *SPECIAL], [1] * len(tokens) + [3] * len(SPECIAL), merges


def weights(rng, *, tied=True):
    """Give random weights under llama.cpp's names, as [out, in]; rotary pairs D / 2 apart."""

    def matrix(out, width):
        return rng.standard_normal((out, width), dtype=np.float32) / np.float32(width**0.5)

    def norm():
        return 1 + rng.standard_normal(HIDDEN, dtype=np.float32) / 4

    named = {
        "token_embd.weight": matrix(len(vocabulary()[0]), HIDDEN),
        "output_norm.weight": norm(),
    }
    if not tied:
        named["output.weight"] = matrix(len(vocabulary()[0]), HIDDEN)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        named |= {
            f"{at}attn_norm.weight": norm(),
            f"{at}attn_q.weight": matrix(HEADS * DIM, HIDDEN) * 3,  # peaked enough to matter
            f"{at}attn_k.weight": matrix(KV_HEADS * DIM, HIDDEN) * 3,
            f"{at}attn_v.weight": matrix(KV_HEADS * DIM, HIDDEN),
            f"{at}attn_output.weight": matrix(HIDDEN, HEADS * DIM),
            f"{at}ffn_norm.weight": norm(),
            f"{at}ffn_gate.weight": matrix(MLP, HIDDEN) * 2,
            f"{at}ffn_up.weight": matrix(MLP, HIDDEN),
            f"{at}ffn_down.weight": matrix(HIDDEN, MLP),
        }
    return named


def write(path, named, *, metadata=None, kind=None, chat=CHAT):
    """Write weights as a GGUF file; ``metadata`` overrides the usual, and None leaves a key out."""
    import gguf

    tokens, types, merges = vocabulary()
    facts = {
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": MLP,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 5000.0,
        "llama.rope.dimension_count": DIM,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": len(tokens) - len(SPECIAL),
        "tokenizer.chat_template": chat,
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, facts.pop("general.architecture", "llama"))
    for key, value in facts.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, value in named.items():
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
        if (
            heads and value.ndim == 2
        ):  # llama.cpp's order: the two numbers of a rotary pair side by side
            value = value.reshape(heads, 2, DIM // 2, HIDDEN).swapaxes(1, 2).reshape(value.shape)
        if kind is not None and value.ndim == 2:
            kind_of = gguf.GGMLQuantizationType[kind]
            value = gguf.quants.quantize(np.ascontiguousarray(value), kind_of)
            writer.add_tensor(name, value, raw_dtype=kind_of)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def transformers_model(named, **settings):
    """Build transformers' model from the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = settings.pop("rope", {"rope_type": "default"})
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary()[0]),
            hidden_size=HIDDEN,
            intermediate_size=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=DIM,
            rms_norm_eps=1e-5,
            max_position_embeddings=128,
            tie_word_embeddings="output.weight" not in named,
            rope_parameters={"rope_theta": 5000.0, **rope},
        )
    ).eval()
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    }
    state = {}
    for name, value in named.items():
        *block, part, _ = name.split(".")
        prefix = f"model.layers.{block[1]}." if block else ""
        state[f"{prefix}{names[part]}.weight"] = torch.from_numpy(value)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    return model
