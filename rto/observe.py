"""What is worth knowing of any rollout, whatever method trains on it."""

from __future__ import annotations

from rto.functional.kl import kl_penalty
from rto.functional.losses import sampler_mismatch
from rto.functional.masked import masked_mean, masked_sum
from rto.functional.segments import within_group_correlation
from rto.types import Role, ScoredBatch, TokenBatch

OBSERVED = frozenset({Role.POLICY, Role.REFERENCE, Role.REWARD})
"""The scores that ``observe`` reads."""


def observe(batch: ScoredBatch) -> dict[str, float]:
    """Rewards, the k1 estimate of KL(policy || reference), lengths, the mean surprisal -log pi of a
    sampled token (at temperature 1 and top_p 1 an estimate of the entropy), and the gap between
    the sampler's log-probs and the trainer's."""
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
        "response/surprisal": -masked_mean(batch[Role.POLICY], mask),
        "response/truncated_share": (~tokens.finished).float().mean(),
        **sampler_mismatch(
            logprobs=batch[Role.POLICY], sampler_logprobs=tokens.sampler_logprobs, mask=mask
        ),
    }
    return {"response/num": len(tokens), **{name: float(x) for name, x in observed.items()}}


def dropped(drawn: TokenBatch, left: ScoredBatch) -> dict[str, float]:
    """How many prompts of a draw have no reward and are not trained on; nothing if all have one."""
    missing = len(drawn.group.unique()) - len(left.tokens.group.unique())
    return {"reward/dropped_groups": missing} if missing else {}


def observe_stored(batch: ScoredBatch) -> dict[str, float]:
    """How far the policy has moved on stored responses, and whether it follows their rewards.

    ``policy/log_ratio`` is the mean log pi/pi_ref of a response in nats, ``reward/correlation``
    Pearson's of it and the reward within prompts. Nothing where one of the scores is missing.
    """
    if not batch.scores.keys() >= OBSERVED:
        return {}
    log_ratio = batch[Role.POLICY] - batch[Role.REFERENCE]
    summed = masked_sum(log_ratio, batch.tokens.response_mask, dim=-1)
    return {
        "policy/log_ratio": float(summed.mean()),
        "reward/correlation": within_group_correlation(
            summed, batch[Role.REWARD], batch.tokens.group
        ),
    }
