"""The ptx term: a language-model loss beside the policy loss of every optimizer step.

Ouyang et al. 2022, eq. 2: gamma * E_pretrain[log pi(x)] is added to the objective of PPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rto.batching.optimizer_steps import loss_norms, plan_update, rank_share
from rto.data.examples import Example, collate_groups
from rto.data.sampler import permutation
from rto.methods.sft import SFT
from rto.training.learner import Objective
from rto.types import TrainBatch


@dataclass(frozen=True)
class PretrainMix:
    """Rows of plain text and the weight of their loss. What an update reads depends on its index
    and the seed alone."""

    rows: Sequence[Sequence[Example]]
    coef: float
    pad_token_id: int
    seed: int

    def objectives(
        self,
        update: int,
        *,
        num_steps: int,
        batch_size: int,
        num_ranks: int,
        max_tokens: int,
        packs: bool = False,
    ) -> list[Objective]:
        """One objective per rank: ``num_steps`` optimizer steps of ``batch_size`` rows."""
        count = num_steps * batch_size
        start = update * count
        orders = {
            epoch: permutation(len(self.rows), seed=self.seed, epoch=epoch)
            for epoch in range(start // len(self.rows), (start + count) // len(self.rows) + 1)
        }
        places = [divmod(index, len(self.rows)) for index in range(start, start + count)]
        chosen = [self.rows[orders[epoch][place]] for epoch, place in places]
        tokens = collate_groups(chosen, pad_token_id=self.pad_token_id)
        steps = plan_update(
            tokens.lengths.tolist(),
            tokens.group.tolist(),
            num_ranks=num_ranks,
            batch_size=batch_size,
            max_tokens=max_tokens,
            max_sequences=None,
            seed=self.seed,
            epoch=update,
            packs=packs,
        )
        norms = loss_norms(tokens, steps)
        shares = [rank_share(steps, rank) for rank in range(num_ranks)]
        return [
            Objective(SFT(), TrainBatch(tokens.take(rows)), local, norms, coef=self.coef)
            for rows, local in shares
        ]
