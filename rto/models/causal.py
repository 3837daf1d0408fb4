"""A decoder-only language model as a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from rto.models.decoder import Decoder
from rto.models.policy import Policy, States
from rto.models.sequence import SequenceRanks
from rto.types import TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel


class CausalPolicy(Policy):
    """Prompt and response are one sequence; a prompt's value is read at its last token, the state
    before the first response token."""

    def __init__(self, model: PreTrainedModel | PeftModel, *, value_head: bool = False) -> None:
        super().__init__(model, value_head=value_head)
        self._decoder = Decoder(model)
        self.packs = self._decoder.packs

    def share(self, ranks: SequenceRanks) -> None:
        self._decoder.share(ranks)

    def states(self, tokens: TokenBatch) -> States:
        read = self._decoder(tokens)
        return States(before=read.before, prompt=read.prompt)
