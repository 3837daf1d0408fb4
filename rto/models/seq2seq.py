"""An encoder-decoder language model (T5, BART, ...) as a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rto.errors import UserError
from rto.models.packing import distinct_prompts, pack_prompts
from rto.models.policy import Policy, States, unwrapped
from rto.models.sequence import Picked, SequenceRanks, whole_rows
from rto.types import TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel


class Seq2SeqPolicy(Policy):
    """The encoder reads each prompt once; the decoder its start token and the response so far.

    A prompt's value is read from the mean of the encoder's states over the prompt's tokens.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, *, value_head: bool = False) -> None:
        super().__init__(model, value_head=value_head)
        self._start = decoder_start(unwrapped(model))
        self._scale = self._proven_scale()

    def share(self, ranks: SequenceRanks) -> None:
        raise whole_rows(str(unwrapped(self.model).name_or_path), ranks.size)

    def states(self, tokens: TokenBatch) -> States:
        ids, mask = pack_prompts(tokens)
        first, owner = distinct_prompts(tokens)
        decoder_ids = decoder_inputs(tokens, start=self._start)
        encoded, hidden = self._run(ids[first], mask[first], decoder_ids, owner)
        return States(
            before=Picked(hidden[tokens.response_mask] * self._scale),
            prompt=Picked(masked_rows_mean(encoded, mask[first])[owner]),
        )

    def _run(
        self, ids: Tensor, mask: Tensor, decoder_ids: Tensor, owner: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states of the encoder [G, P, H] and of the decoder [B, T, H], whose row b
        reads the prompt ``owner[b]``."""
        model = unwrapped(self.model)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        decoded = model.get_decoder()(
            input_ids=decoder_ids,
            encoder_hidden_states=encoded[owner],
            encoder_attention_mask=mask[owner],
            use_cache=False,
        )
        return encoded, decoded.last_hidden_state

    @torch.no_grad()
    def _proven_scale(self) -> float:
        """What the architecture multiplies the decoder's states with before its head.

        T5 scales by d_model^-0.5, its version 1.1 (Flan-T5) does not; others may do what this
        class does not know. The model's own forward of one token decides.
        """
        model = unwrapped(self.model)
        training = model.training
        model.eval()
        one = torch.ones(1, 1, dtype=torch.long, device=model.device)
        mask = one.bool()
        own = model(input_ids=one, attention_mask=mask, decoder_input_ids=one, use_cache=False)
        _, hidden = self._run(one, mask, one, torch.zeros_like(one[0]))
        model.train(training)
        tolerance = 1e-4 if own.logits.dtype == torch.float32 else 0.05
        for scale in (1.0, hidden.shape[-1] ** -0.5):
            ours = self._logits(hidden * scale)
            if (ours - own.logits).abs().max() <= tolerance * own.logits.abs().max():
                return scale
        raise UserError(
            f"model type {self.config.model_type} is not supported: its logits are not its output "
            "embedding of the decoder's last state, scaled by 1 or d_model^-0.5"
        )


def decoder_start(model: PreTrainedModel) -> int:
    """The token that the decoder reads before the first response token."""
    configs = [model.config, model.generation_config]
    for config in configs:
        start = None if config is None else config.to_dict().get("decoder_start_token_id")
        if start is not None:
            return start
    raise UserError(
        f"model type {model.config.model_type}: config.json has no decoder_start_token_id; set it "
        "(T5: its pad_token_id)"
    )


def decoder_inputs(tokens: TokenBatch, *, start: int) -> Tensor:
    """The response shifted right by ``start`` [B, T]. Padding, which no response token sees, is
    ``start`` too: the pad id is embedded only where the decoder starts with it."""
    ids = tokens.response_ids.masked_fill(~tokens.response_mask, start)
    return torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)


def masked_rows_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True positions of each row: [B, P, H] -> [B, H]."""
    total = states.masked_fill(~mask[..., None], 0).sum(1)
    return total / mask.sum(-1, keepdim=True).to(states.dtype)
