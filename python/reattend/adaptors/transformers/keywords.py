"""What a model passes to its attention by keyword: honoured, of no meaning there, or refused."""

from __future__ import annotations

from types import ModuleType

from reattend.adaptors.transformers.protocols import AttentionOptions, Module, Tensor
from reattend.optional import demand

HONOURED = {
    "scaling", "softcap", "s_aux", "sinks", "sliding_window", "is_causal", "indices",
    "position_bias",
}  # fmt: skip
# These go past every attention on their way through a model, and change it in none.
_PASSING = {
    "cu_seq_lens_k", "cu_seq_lens_q", "labels", "logits_to_keep", "max_length_k", "max_length_q",
    "mm_token_type_ids", "num_items_in_batch", "output_hidden_states", "output_router_logits",
    "image_sizes", "position_ids", "return_dict", "seq_idx", "token_type_ids", "use_cache",
}  # fmt: skip
_KNOWN = HONOURED | _PASSING | {"dropout", "output_attentions"}  # these are 0, as is checked


def refuse_unknown(
    module: Module, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
) -> None:
    """Refuse what reattend cannot honour, by name.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    query, key, value : torch.Tensor
        [B, H, N, D], [B, H_kv, M, D], [B, H_kv, M, Dv].
    options : dict
        What the model passes to its attention by keyword.

    Raises
    ------
    NotImplementedError, RuntimeError
        Naming the module and the keyword.
    """
    torch = demand("torch")
    if query.requires_grad or key.requires_grad or value.requires_grad or _learns(torch, options):
        raise RuntimeError("reattend computes no gradients: run the model under torch.no_grad()")
    if query.dtype == torch.float64:
        raise NotImplementedError(
            f"{type(module).__name__} computes in float64, and reattend in 32 bits at most: use "
            "model.float()"
        )
    if options.get("dropout"):
        raise NotImplementedError(
            f"dropout must be 0, got {options['dropout']}: reattend is for inference"
        )
    if not query.is_cpu:
        raise NotImplementedError(f"reattend computes on the CPU, got a query on {query.device}")
    if options.get("output_attentions"):
        raise NotImplementedError(
            "output_attentions needs the attention matrix, which reattend never makes: use eager "
            "attention for it"
        )
    if options.keys() <= _KNOWN:
        return
    for name, given in options.items():
        if name in _KNOWN or given is None or given is False:
            continue
        raise NotImplementedError(
            f"{type(module).__name__} passes {name} to its attention, which reattend does not "
            "support"
        )


def _learns(torch: ModuleType, options: AttentionOptions) -> bool:
    if not torch.is_grad_enabled():
        return False
    given = (options.get("s_aux"), options.get("sinks"), options.get("position_bias"))
    return any(tensor is not None and tensor.requires_grad for tensor in given)
