"""Choose the module for a checkpoint by its family: decoder-only or encoder-decoder."""

from __future__ import annotations

from typing import Unpack

from rto.models.causal import CausalPolicy
from rto.models.heads import PromptValue, TokenValue
from rto.models.load import (
    Loading,
    is_encoder_decoder,
    load_language_model,
    load_scalar_model,
    load_value_model,
)
from rto.models.policy import Policy
from rto.models.seq2seq import Seq2SeqPolicy


def load_policy(path: str, *, value_head: bool = False, **options: Unpack[Loading]) -> Policy:
    """A language model as a policy; ``options`` are those of ``load_language_model``."""
    model = load_language_model(path, **options)
    family = Seq2SeqPolicy if is_encoder_decoder(path) else CausalPolicy
    return family(model, value_head=value_head)


def load_critic(
    path: str, *, constants: tuple[float, float] = (0.0, 1.0), **options: Unpack[Loading]
) -> TokenValue | PromptValue:
    """A value network that starts from a language or reward model, with a new head if need be."""
    if is_encoder_decoder(path):
        return PromptValue(load_value_model(path, **options))
    return TokenValue(load_scalar_model(path, new_head=True, **options), constants=constants)
