"""A decoder-only language model as a policy: response log-probs without the [B, T, V] logits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from rto.errors import UserError
from rto.functional.logprobs import chunked_logprobs
from rto.models.packing import pack, unpack
from rto.types import PolicyOutput, TokenBatch

MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
DIVISORS = ("logits_scaling",)


class CausalPolicy(nn.Module):
    """Wraps a causal LM of transformers, or the same with peft adapters."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        self.config = unwrapped(model).config
        self._finish = logit_transform(self.config)

    def forward(
        self,
        tokens: TokenBatch,
        *,
        temperature: float = 1.0,
        with_entropy: bool = False,
        chunk_size: int = 1024,
        num_chunks: int | None = None,
    ) -> PolicyOutput:
        """Log-probs of the response tokens, fp32 [B, T], 0 where masked; entropy likewise.

        ``num_chunks`` calls of the head instead of one per ``chunk_size`` tokens.
        """
        packed = pack(tokens)
        base = unwrapped(self.model)
        hidden = base.base_model(input_ids=packed.ids, use_cache=False).last_hidden_state
        logprobs, entropy = chunked_logprobs(
            hidden[packed.rows, packed.before],
            self._logits,
            tokens.response_ids[tokens.response_mask],
            temperature=temperature,
            chunk_size=chunk_size,
            num_chunks=num_chunks,
            with_entropy=with_entropy,
        )
        return PolicyOutput(
            logprobs=unpack(logprobs, tokens),
            entropy=None if entropy is None else unpack(entropy, tokens),
        )

    def adapters_disabled(self) -> AbstractContextManager[None]:
        """The base model as it was before its adapters: the reference of a LoRA run."""
        if not isinstance(self.model, PeftModel):
            raise ValueError("adapters_disabled: this policy has no adapters")
        return self.model.disable_adapter()

    def _logits(self, hidden: Tensor) -> Tensor:
        """The head is called as a module: ZeRO-3 gathers its weight in the module's hooks."""
        head = unwrapped(self.model).get_output_embeddings()
        assert head is not None
        return self._finish(head(hidden))


def unwrapped(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model itself; adapter layers inside it stay active."""
    if not isinstance(model, PeftModel):
        return model
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    return base


def logit_transform(config: PreTrainedConfig) -> Callable[[Tensor], Tensor]:
    """What the architecture does to the head's output before the softmax.

    Gemma caps (cap * tanh(x / cap)), Granite divides, Cohere and Falcon-H1 multiply.
    """
    fields = config.get_text_config().to_dict()
    if config.model_type.startswith("hyperclovax"):
        raise UserError(
            f"model type {config.model_type} is not supported: its logits_scaling multiplies where "
            "every other family divides"
        )
    scale = 1.0
    for name in MULTIPLIERS:
        scale *= fields.get(name) or 1.0
    for name in DIVISORS:
        scale /= fields.get(name) or 1.0
    cap = fields.get("final_logit_softcapping")

    def finish(logits: Tensor) -> Tensor:
        if scale != 1.0:
            logits = logits * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return finish
