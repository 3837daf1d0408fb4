from __future__ import annotations

from pathlib import Path

import pytest
import torch
from token_rows import token_batch
from transformers import AutoModelForCausalLM

from rto.errors import RewardProtocolError, UserError
from rto.models.causal import CausalPolicy
from rto.models.heads import SequenceReward
from rto.models.load import load_scalar_model
from rto.scoring.frozen import FrozenOptions, FrozenScorer
from rto.types import Role, TokenBatch

LENGTHS = [3, 9, 1, 5, 2, 7]


def batch() -> TokenBatch:
    gen = torch.Generator().manual_seed(0)
    rows = [torch.randint(6, 64, (n,), generator=gen).tolist() for n in LENGTHS]
    return token_batch([[1, *row] for row in rows[::-1]], rows)


def options(**extra) -> FrozenOptions:
    return FrozenOptions(dtype=torch.float32, device=torch.device("cpu"), **extra)


@pytest.mark.parametrize("max_tokens", [1, 24, 10_000])
@pytest.mark.parametrize("offload", [False, True])
def test_micro_batches_come_back_in_order(
    tiny_model_dir: Path, tiny_reward_dir: Path, max_tokens: int, offload: bool
) -> None:
    path, tokens = str(tiny_model_dir), batch()
    scorer = FrozenScorer(
        {Role.REFERENCE: path},
        [str(tiny_reward_dir)],
        options(max_tokens=max_tokens, offload=offload),
    )
    got = scorer.score(tokens, frozenset({Role.REFERENCE}))[Role.REFERENCE]
    policy = CausalPolicy(AutoModelForCausalLM.from_pretrained(path))
    torch.testing.assert_close(got, policy(tokens).logprobs.detach(), atol=2e-5, rtol=1e-4)
    model = load_scalar_model(
        str(tiny_reward_dir), dtype=torch.float32, attn_implementation="sdpa", new_head=False
    )
    expected = SequenceReward(model)(tokens).detach()[None]
    torch.testing.assert_close(scorer.rewards(tokens), expected, atol=2e-5, rtol=1e-4)
    assert not got.is_inference()


def test_roles_of_one_path_share_a_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    path = str(tiny_model_dir)
    scorer = FrozenScorer(
        {Role.REFERENCE: path, Role.DPO: str(tmp_path), Role.DPO_REFERENCE: path}, [], options()
    )
    assert scorer.num_models == 2
    roles = frozenset({Role.REFERENCE, Role.DPO, Role.DPO_REFERENCE})
    scores = scorer.score(batch(), roles)
    assert scores.keys() == roles
    assert torch.equal(scores[Role.REFERENCE], scores[Role.DPO_REFERENCE])
    assert not torch.allclose(scores[Role.REFERENCE], scores[Role.DPO])


def test_temperature(tiny_model_dir: Path) -> None:
    path, tokens = str(tiny_model_dir), batch()
    scorer = FrozenScorer({Role.REFERENCE: path}, [], options(temperature=0.5))
    got = scorer.score(tokens, frozenset({Role.REFERENCE}))[Role.REFERENCE]
    policy = CausalPolicy(AutoModelForCausalLM.from_pretrained(path))
    expected = policy(tokens, temperature=0.5).logprobs.detach()
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_constants_and_several_reward_models(tiny_model_dir: Path, tiny_reward_dir: Path) -> None:
    path = str(tiny_reward_dir)
    scorer = FrozenScorer({}, [path, path], options())
    rewards = scorer.rewards(batch())
    assert rewards.shape == (2, 6)
    assert torch.equal(rewards[0], rewards[1])
    assert scorer.reward_constants() == [(0.5, 2.0), (0.5, 2.0)]


def test_what_is_missing_or_not_finite(
    tiny_model_dir: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    path = str(tiny_model_dir)
    scorer = FrozenScorer({Role.REFERENCE: path}, [], options())
    with pytest.raises(ValueError, match="no frozen model for role dpo"):
        scorer.score(batch(), frozenset({Role.DPO}))
    broken = AutoModelForCausalLM.from_pretrained(path)
    broken.lm_head.weight.data[20] = torch.nan
    broken.save_pretrained(tmp_path / "lm")
    with pytest.raises(UserError, match="lm: lm_head.weight has values that are NaN or infinite"):
        FrozenScorer({Role.DPO: str(tmp_path / "lm")}, [], options())
    broken = AutoModelForCausalLM.from_pretrained(path)
    broken.lm_head.weight.data[20] = 3e38
    broken.save_pretrained(tmp_path / "large")
    with pytest.raises(UserError, match="large: log-probs are not finite"):
        FrozenScorer({Role.DPO: str(tmp_path / "large")}, [], options()).score(
            batch(), frozenset({Role.DPO})
        )
    reward = load_scalar_model(
        str(tiny_reward_dir), dtype=torch.float32, attn_implementation="sdpa", new_head=False
    )
    dict(reward.named_parameters())["score.weight"].data[0] = 3e38
    reward.save_pretrained(str(tmp_path / "rm"))
    with pytest.raises(RewardProtocolError, match="rm: the score of row 0 is nan"):
        FrozenScorer({}, [str(tmp_path / "rm")], options()).rewards(batch())
