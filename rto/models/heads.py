"""A scalar head on a language model: the reward of a sequence, the values of states.

Those over a decoder wrap what ``AutoModelForSequenceClassification`` loads, head ``score``, so a
checkpoint of either is a standard one. transformers' own forward of it scores the last token that
is not ``pad_token_id``; it equals ``SequenceReward`` wherever padding and EoS are different tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from rto.models.decoder import Decoder
from rto.models.packing import pack_prompts, unpack
from rto.models.policy import unwrapped
from rto.models.seq2seq import masked_rows_mean
from rto.models.sequence import SequenceRanks, whole_rows
from rto.types import TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel


class SequenceReward(nn.Module):
    """The score of a response."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        self._decoder = Decoder(model)
        self.packs = self._decoder.packs

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Scores at the last real token, fp32 [B]."""
        last = self._decoder(tokens).last
        scores = unwrapped(self.model).get_submodule("score")(last.states).squeeze(-1)
        return last.whole(scores.float())

    def share(self, ranks: SequenceRanks) -> None:
        """See ``Decoder.share``."""
        self._decoder.share(ranks)


class TokenValue(nn.Module):
    """The critic. ``constants`` (mean, std) put a critic that starts from a reward model on the
    scale of that model's normalised rewards."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        *,
        constants: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = constants
        self._decoder = Decoder(model)
        self.packs = self._decoder.packs

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Values fp32 [B, T]: entry t belongs to the state before response token t."""
        before = self._decoder(tokens).before
        scores = unwrapped(self.model).get_submodule("score")(before.states).squeeze(-1).float()
        return unpack(before.whole((scores - self.mean) / self.std), tokens)

    def share(self, ranks: SequenceRanks) -> None:
        """See ``Decoder.share``."""
        self._decoder.share(ranks)


class PromptValue(nn.Module):
    """The critic of an encoder-decoder policy: the encoder alone, one value per prompt.

    It is V(x) of DRO. Where a method asks for the value of each state (GAE), all states of a
    response have their prompt's. Wraps what ``AutoModelForTokenClassification`` loads with one
    label (T5, mT5, UMT5), head ``classifier``.
    """

    packs = False

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model

    def share(self, ranks: SequenceRanks) -> None:
        raise whole_rows(str(unwrapped(self.model).name_or_path), ranks.size)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Values fp32 [B, T], the same in each column of a response."""
        ids, mask = pack_prompts(tokens)
        base = unwrapped(self.model)
        hidden = base.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        value = base.get_submodule("classifier")(masked_rows_mean(hidden, mask)).float()
        return value.expand(tokens.response_mask.shape).masked_fill(~tokens.response_mask, 0.0)
