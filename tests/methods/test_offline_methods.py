from __future__ import annotations

import math

import pytest
import torch

from rto.methods.preference import DPO, PreferenceBatch
from rto.methods.reward_model import RewardModel
from rto.methods.sft import SFT
from rto.protocols import PolicyMethod, ScoreMethod
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch, TrainBatch

NORM = LossNorm(tokens=25, sequences=6, groups=3)


def test_protocols_and_roles():
    language: list[PolicyMethod] = [SFT(), DPO()]
    score: ScoreMethod = RewardModel()
    assert [(m.card.name, m.roles, m.whole_groups) for m in language] == [
        ("sft", frozenset(), False),
        ("dpo", frozenset({Role.REFERENCE}), True),
    ]
    assert (score.card.name, score.roles) == ("reward", frozenset())
    assert SFT().adapt({}) == SFT()
    assert DPO(beta=0.3).adapt({}) == DPO(beta=0.3)


def test_sft_loss_is_the_step_mean_over_response_tokens(scored):
    batch = scored(fill=math.nan)
    targets, _ = SFT().targets(ScoredBatch(batch.tokens, {}))
    logprobs = batch[Role.POLICY]
    loss = SFT().loss(PolicyOutput(logprobs), targets, NORM).loss
    torch.testing.assert_close(loss, -logprobs[batch.tokens.response_mask].mean())


def test_reward_model_pairs_rows_2i_and_2i_plus_1(scored):
    targets, _ = RewardModel().targets(ScoredBatch(scored().tokens, {}))
    scores = torch.tensor([2.0, 1.0, 0.0, 3.0, 5.0, 5.5])
    output = RewardModel().score_loss(scores, targets, NORM)
    expected = sum(math.log1p(math.exp(-margin)) for margin in (1, -3, -0.5)) / 3
    assert float(output.loss) == pytest.approx(expected)
    got = {name: float(value) for name, value in output.metrics.items()}
    assert got == pytest.approx(
        {
            "reward_model/loss": expected,
            "reward_model/accuracy": 1 / 3,
            "reward_model/margin": -2.5 / 3,
            "reward_model/chosen": 7 / 3,
            "reward_model/rejected": 9.5 / 3,
        }
    )


def test_dpo_starts_at_log_2_and_prefers_the_chosen_row(scored):
    batch = scored(fill=math.nan)
    targets, _ = DPO().targets(batch)
    logprobs = batch[Role.REFERENCE].clone().requires_grad_()
    output = DPO(beta=0.2).loss(PolicyOutput(logprobs), targets, NORM)
    assert output.loss.item() == pytest.approx(math.log(2))
    output.loss.backward()
    mask = batch.tokens.response_mask
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad[0::2], -0.1 / 3 * mask[0::2].float())
    torch.testing.assert_close(logprobs.grad[1::2], 0.1 / 3 * mask[1::2].float())


def test_dpo_options_reach_the_loss(scored):
    batch = scored()
    targets, _ = DPO().targets(batch)
    output = PolicyOutput(batch[Role.POLICY])
    losses = {
        float(method.loss(output, targets, NORM).loss)
        for method in (DPO(), DPO(beta=0.5), DPO(label_smoothing=0.2), DPO(nll_coef=1.0))
    }
    assert len(losses) == 4


@pytest.mark.parametrize("method", [DPO(), RewardModel()])
def test_rows_that_are_not_pairs_are_refused(scored, method):
    with pytest.raises(ValueError, match="rows 0 and 1 of the pairs answer two prompts"):
        method.targets(scored().take([0, 2, 1, 3]))


def test_a_shard_that_splits_a_pair_is_refused(scored):
    batch = scored()
    targets, _ = DPO().targets(batch)
    with pytest.raises(ValueError, match="answer two prompts"):
        DPO().loss(PolicyOutput(batch[Role.POLICY][1:5]), targets.take([1, 2, 3, 4]), NORM)


def test_dpo_refuses_a_batch_without_its_reference(scored):
    batch = scored()
    with pytest.raises(ValueError, match="no scores of role 'reference'"):
        DPO().targets(ScoredBatch(batch.tokens, {}))
    with pytest.raises(TypeError, match="reads a PreferenceBatch"):
        DPO().loss(PolicyOutput(batch[Role.POLICY]), TrainBatch(batch.tokens), NORM)
    assert isinstance(DPO().targets(batch)[0], PreferenceBatch)
