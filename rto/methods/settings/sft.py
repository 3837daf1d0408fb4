"""Supervised fine-tuning has nothing to set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rto.card import Card
from rto.sections.methods import MethodSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import PolicyMethod
    from rto.sections.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class SFTSettings(MethodSettings):
    """Supervised fine-tuning: nothing to set."""

    card: Card = Card(
        "sft", "Supervised fine-tuning", "maximum likelihood", "demonstrations", ("offline",)
    )
    uses: ClassVar[frozenset[str]] = frozenset()

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rto.methods.sft import SFT

        return self.into(SFT)
