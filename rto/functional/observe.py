"""What is worth knowing of any rollout, whatever method trains on it."""

from __future__ import annotations

from rto.functional.kl import kl_penalty
from rto.functional.losses import sampler_mismatch
from rto.functional.masked import masked_mean, masked_sum
from rto.types import Role, ScoredBatch

OBSERVED = frozenset({Role.POLICY, Role.REFERENCE, Role.REWARD})
"""The scores that ``observe`` reads."""


def observe(batch: ScoredBatch) -> dict[str, float]:
    """Rewards, the k1 estimate of KL(policy || reference), lengths, and the gap between the
    sampler's log-probs and the trainer's."""
    tokens, reward = batch.tokens, batch[Role.REWARD].float()
    mask, lengths = tokens.response_mask, tokens.response_mask.sum(-1).float()
    kl = kl_penalty(
        logprobs=batch[Role.POLICY],
        ref_logprobs=batch[Role.REFERENCE],
        mask=mask,
        estimator="k1",
    )
    observed = {
        "reward/mean": reward.mean(),
        "reward/std": reward.std(correction=0),
        "kl/mean": masked_mean(kl, mask),
        "kl/sequence": masked_sum(kl, mask, dim=-1).mean(),
        "response/length": lengths.mean(),
        "response/truncated_share": (~tokens.finished).float().mean(),
        **sampler_mismatch(
            logprobs=batch[Role.POLICY], sampler_logprobs=tokens.sampler_logprobs, mask=mask
        ),
    }
    return {"response/num": len(tokens), **{name: float(x) for name, x in observed.items()}}
