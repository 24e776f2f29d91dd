"""The vision-language model in torch and transformers, from the same weights as ours."""

import numpy as np
import torch
from reattend.models import IMAGE
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM


def torch_embeddings(named, pixels):
    """Give torch's image tokens, with the features before the projector."""
    arrays = {name: torch.from_numpy(array.astype(np.float32)) for name, array in named.items()}
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    for index, pool in enumerate((2, 2, 1, 3, 1, 1)):
        weight, *rest = (
            arrays[f"encoder.{index}.{name}"]
            for name in ("weight", "bias", "norm_weight", "norm_bias")
        )
        x = functional.conv2d(x, weight, rest[0], padding=weight.shape[-1] // 2)
        x = functional.gelu(functional.group_norm(x, 8, *rest[1:], eps=1e-5), approximate="tanh")
        x = functional.avg_pool2d(x, pool)
    features = x.flatten(2).transpose(1, 2)
    x = functional.linear(features, arrays["projector.0.weight"], arrays["projector.0.bias"])
    x = functional.gelu(x, approximate="tanh")
    x = functional.linear(x, arrays["projector.1.weight"], arrays["projector.1.bias"])
    return x, features


def patches_of(picture):
    """Give the 100 patches of a picture, row by row."""
    starts = range(0, 120, 12)
    return [picture[y : y + 12, x : x + 12] for y in starts for x in starts]


def add_changes(theirs, learnt):
    """Add what the language model learnt to its matrices."""
    with torch.no_grad():
        for index, layer in enumerate(theirs.model.layers):
            for name, at in {"query": "q_proj", "value": "v_proj", "output": "o_proj"}.items():
                up, down = (
                    torch.from_numpy(learnt[f"lora.{index}.{name}.{part}"]).float()
                    for part in ("up", "down")
                )
                getattr(layer.self_attn, at).weight += up @ down


def transformers_logits(theirs, named, prompts, pixels, rows=-1):
    """Give transformers' logits of a prompt's last row, or of others; each prompt is read alone."""
    embedding, logits = theirs.get_input_embeddings().weight, []
    with torch.no_grad():
        pictures = torch_embeddings(named, pixels)[0]
        for picture, seen in zip(pictures, pixels, strict=True):
            registers = torch.from_numpy(
                named.get("registers", np.empty((0, 1))).astype(np.float32)
            )
            spread = [p.astype(float).var((0, 1)).sum() for p in patches_of(seen)]
            picture[np.argsort(spread, kind="stable")[: len(registers)]] = registers
        for prompt, picture in zip(prompts, pictures, strict=True):
            ids = torch.tensor(prompt)
            embeds = embedding[ids.clamp(min=0)].clone()
            embeds[ids == IMAGE] = picture
            states = theirs.model(inputs_embeds=embeds[None]).last_hidden_state[0, rows]
            logits.append(theirs.lm_head(states).numpy())
    return np.stack(logits)


def as_transformers(llama):
    """Build transformers' model of a Llama, the numbers of a rotary pair half a head apart."""
    sizes, first = llama.config, llama.layers[0]
    heads, kv_heads, dim = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim

    def halves(columns, count):
        columns = columns.reshape(-1, count, dim // 2, 2).swapaxes(2, 3)
        return columns.reshape(len(columns), -1)

    state = {"model.embed_tokens": llama.embedding, "model.norm": llama.final_norm}
    for index, layer in enumerate(llama.layers):
        query, key, value = np.split(
            layer.query_key_value, [heads * dim, (heads + kv_heads) * dim], axis=1
        )
        gate, up = np.split(layer.gate_up, 2, axis=1)
        parts = {
            "input_layernorm": layer.attention_norm,
            "self_attn.q_proj": halves(query, heads),
            "self_attn.k_proj": halves(key, kv_heads),
            "self_attn.v_proj": value,
            "self_attn.o_proj": layer.attention_output,
            "post_attention_layernorm": layer.mlp_norm,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.down,
        }
        state |= {f"model.layers.{index}.{name}": part for name, part in parts.items()}
    config = LlamaConfig(
        vocab_size=llama.embedding.shape[1],
        hidden_size=sizes.hidden_size,
        intermediate_size=first.down.shape[0],
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=sizes.norm_eps,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_base},
    )
    with torch.device("meta"):  # nothing is drawn only to be overwritten
        model = LlamaForCausalLM(config).eval()
    tensors = {
        f"{name}.weight": torch.from_numpy(np.ascontiguousarray(array.T))
        for name, array in state.items()
    }
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # it is in no state
    return model
