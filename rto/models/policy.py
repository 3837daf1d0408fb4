"""A language model as a policy: response log-probs without the [B, T, V] logits.

What a family of models does differently is which hidden states predict the response; the rest is
here. ``rto.models.families`` builds the right one for a checkpoint.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from rto.errors import UserError
from rto.functional.logprobs import Head, chunked_logprobs
from rto.models.packing import unpack
from rto.models.sequence import Picked, SequenceRanks
from rto.types import PolicyOutput, TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel

MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
DIVISORS = ("logits_scaling",)
VALUE_WIDTH = 512


class States(NamedTuple):
    """Hidden states of a forward, or those of them that are on this rank.

    ``before`` [N, H] are what the head reads for the N response tokens, in the order of
    ``TokenBatch.response_mask``; ``prompt`` [B, H] is what a value head reads of each prompt.
    """

    before: Picked
    prompt: Picked


class Policy(nn.Module, ABC):
    """Wraps a model of transformers, or the same with peft adapters; ``value_head`` adds a scalar
    head on its hidden states, which no export holds.

    ``packs``: it reads rows without padding, and the prompt of neighbouring rows of a group once.
    """

    packs: bool = False

    def __init__(self, model: PreTrainedModel | PeftModel, *, value_head: bool = False) -> None:
        super().__init__()
        self.model = model
        self.config = unwrapped(model).config
        self._finish = logit_transform(self.config)
        self.value_head = _value_head(unwrapped(model)) if value_head else None

    @abstractmethod
    def states(self, tokens: TokenBatch) -> States:
        """Run the model up to its head."""

    def forward(
        self,
        tokens: TokenBatch,
        *,
        temperature: float = 1.0,
        with_entropy: bool = False,
        with_value: bool = False,
        reference: Policy | None = None,
        chunk_size: int | None = None,
        num_chunks: int | None = None,
    ) -> PolicyOutput:
        """Log-probs of the response tokens, fp32 [B, T], 0 where masked; entropy likewise.

        A frozen ``reference`` gives KL(reference || policy) likewise; the policy itself stands for
        its base without adapters. The value fp32 [B] is that of the prompt (see ``States``), and
        its gradient reaches the model. ``num_chunks`` calls of the head instead of one per
        ``chunk_size`` tokens (``head_chunk``, if not given).
        """
        states = self.states(tokens)
        before = states.before
        scores = chunked_logprobs(
            before.states,
            self._logits,
            before.mine(tokens.response_ids[tokens.response_mask]),
            temperature=temperature,
            chunk_size=chunk_size,
            num_chunks=num_chunks,
            with_entropy=with_entropy,
            reference=None if reference is None else self._reference(reference, tokens),
        )

        def unpacked(values: Tensor) -> Tensor:
            return unpack(before.whole(values), tokens)

        return PolicyOutput(
            logprobs=unpacked(scores.logprobs),
            entropy=None if scores.entropy is None else unpacked(scores.entropy),
            reference_kl=None if scores.reference_kl is None else unpacked(scores.reference_kl),
            value=self._value(states.prompt) if with_value else None,
        )

    @abstractmethod
    def share(self, ranks: SequenceRanks) -> None:
        """Read the same rows as these ranks from now on, and hold a part of their tokens.

        Raises:
            UserError: the model does not allow it.
        """

    def adapters_disabled(self) -> AbstractContextManager[None]:
        """The base model as it was before its adapters: the reference of a LoRA run."""
        if isinstance(self.model, PreTrainedModel):
            raise ValueError("adapters_disabled: this policy has no adapters")
        return self.model.disable_adapter()

    def _logits(self, hidden: Tensor) -> Tensor:
        """The head is called as a module: ZeRO-3 gathers its weight in the module's hooks."""
        return self._finish(self._head()(hidden))

    def _base_logits(self, hidden: Tensor) -> Tensor:
        """The same without an adapter that the head may have."""
        head = self._head()
        if not isinstance(self.model, PreTrainedModel):
            from rto.models.lora import without_adapter

            head = without_adapter(head)
        return self._finish(head(hidden))

    def _head(self) -> nn.Module:
        head = unwrapped(self.model).get_output_embeddings()
        assert head is not None
        return head

    def _reference(self, reference: Policy, tokens: TokenBatch) -> tuple[Tensor, Head]:
        """The reference's hidden states [N, H] before each response token, and its head."""
        base = self.adapters_disabled() if reference is self else contextlib.nullcontext()
        with torch.no_grad(), base:
            return reference.states(tokens).before.states, reference._base_logits

    def _value(self, prompt: Picked) -> Tensor:
        if self.value_head is None:
            raise ValueError("with_value: this policy was built without a value head")
        return prompt.whole(self.value_head(prompt.states).squeeze(-1).float())


def _value_head(model: PreTrainedModel) -> nn.Module:
    """The RPO authors' head (arXiv 2506.13702): two layers, 512 wide."""
    size = model.config.get_text_config().hidden_size
    head = nn.Sequential(nn.Linear(size, VALUE_WIDTH), nn.Tanh(), nn.Linear(VALUE_WIDTH, 1))
    return head.to(model.device, model.dtype)


def unwrapped(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model itself; adapter layers inside it stay active."""
    if isinstance(model, PreTrainedModel):
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
