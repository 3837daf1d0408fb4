"""Our functions against the code of the installed openrlhf.

``openrlhf.models`` imports flash_attn at module level, so the definitions are compiled from its
source files one by one instead of being imported.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import typing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from critic_free_methods import METHODS
from token_rows import token_batch
from torch import Tensor, nn

from rto.functional import losses
from rto.functional.advantages import gae
from rto.functional.kl import adaptive_kl_coef, kl_penalty
from rto.functional.masked import whiten
from rto.functional.preference import dpo_loss, ipo_loss
from rto.functional.rewards import regularized_rewards, sentence_reward
from rto.methods.critic_free import CriticFree
from rto.methods.ppo import PPO
from rto.types import LossNorm, Role, ScoredBatch

spec = importlib.util.find_spec("openrlhf")
if spec is None or spec.origin is None:
    pytest.skip("openrlhf is not installed", allow_module_level=True)
ROOT = Path(spec.origin).parent

T, B = 6, 4
MASK = torch.arange(T) < torch.tensor([[6], [2], [4], [1]])
NORM = LossNorm(tokens=13, sequences=4, groups=2)


def definitions(file: str, *names: str) -> dict[str, Any]:
    """The named functions and classes of one openrlhf source file, methods too."""
    tree = ast.parse((ROOT / file).read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    wanted: list[ast.stmt] = [
        node for node in ast.walk(tree) if isinstance(node, kinds) and node.name in names
    ]
    scope: dict[str, Any] = {
        **vars(typing),
        "torch": torch,
        "nn": nn,
        "F": nn.functional,
        "KL_IS_WEIGHT_CLIP": 10.0,
        "itertools": itertools,
        "Experience": Any,
    }
    exec(compile(ast.Module(wanted, type_ignores=[]), file, "exec"), scope)
    return scope


def losses_of_openrlhf() -> dict[str, Any]:
    scope = definitions(
        "models/loss.py", "aggregate_loss", "PolicyLoss", "ValueLoss", "PairWiseLoss", "DPOLoss"
    )
    scope.update(masked_mean=definitions("models/utils.py", "masked_mean")["masked_mean"])
    return scope


ORACLE = losses_of_openrlhf()


def rows(count: int) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(B, T) for _ in range(count)]


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize(
    ("kind", "level", "mode"),
    [
        (None, "off", "mask"),
        ("tis", "token", "clip"),
        ("icepop", "token", "mask"),
        ("seq-mask-tis", "seq", "mask"),
    ],
)
def test_policy_loss(reduction, dual_clip, kind, level, mode):
    logprobs, old, advantages, sampler = rows(4)
    theirs, clip_share, approx_kl, *_ = ORACLE["PolicyLoss"](
        0.2,
        0.3,
        dual_clip,
        reduction == "token",
        is_correction_level=level,
        is_correction_mode=mode,
    )(logprobs, old, advantages, MASK, sampler)
    weights = kind and losses.sampler_weights(
        old_logprobs=old, sampler_logprobs=sampler, mask=MASK, kind=kind, threshold=(0.5, 5.0)
    )
    ours = losses.policy_loss(
        logprobs=logprobs,
        old_logprobs=old,
        advantages=advantages,
        mask=MASK,
        norm=NORM,
        clip_low_high=(0.2, 0.3),
        dual_clip=dual_clip,
        weights=weights,
        reduction=reduction,
    )
    torch.testing.assert_close(ours.loss, theirs)
    torch.testing.assert_close(ours.metrics["policy/clip_share"], clip_share)
    torch.testing.assert_close(ours.metrics["policy/approx_kl"], approx_kl)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_value_loss(reduction, clip):
    values, old, returns = rows(3)
    ours = losses.value_loss(
        values=values,
        old_values=old,
        returns=returns,
        mask=MASK,
        norm=NORM,
        clip=clip,
        reduction=reduction,
    )
    theirs = ORACLE["ValueLoss"](clip, reduction == "token")(values, old, returns, MASK)
    torch.testing.assert_close(ours.loss, theirs)


def test_pairwise_loss():
    chosen, rejected = rows(2)
    ours = losses.pairwise_loss(chosen=chosen[:, 0], rejected=rejected[:, 0], num_pairs=B)
    torch.testing.assert_close(ours.loss, ORACLE["PairWiseLoss"]()(chosen[:, 0], rejected[:, 0]))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_loss(smoothing: float):
    logprobs, reference = rows(2)
    ours = dpo_loss(
        logprobs=logprobs,
        ref_logprobs=reference,
        mask=MASK,
        norm=NORM,
        beta=0.3,
        label_smoothing=smoothing,
    )
    policy, ref = (x.masked_fill(~MASK, 0).sum(-1) for x in (logprobs, reference))
    theirs, chosen, rejected = ORACLE["DPOLoss"](0.3, smoothing)(
        policy[0::2], policy[1::2], ref[0::2], ref[1::2]
    )
    torch.testing.assert_close(ours.loss, theirs)
    torch.testing.assert_close(ours.metrics["preference/chosen"], chosen.mean())
    torch.testing.assert_close(ours.metrics["preference/rejected"], rejected.mean())


def test_ipo_loss_of_summed_log_ratios():
    logprobs, reference = rows(2)
    ours = ipo_loss(
        logprobs=logprobs,
        ref_logprobs=reference,
        mask=MASK,
        norm=NORM,
        beta=0.3,
        reduction="sum",
    )
    policy, ref = (x.masked_fill(~MASK, 0).sum(-1) for x in (logprobs, reference))
    theirs, chosen, rejected = ORACLE["DPOLoss"](0.3, ipo=True)(
        policy[0::2], policy[1::2], ref[0::2], ref[1::2]
    )
    torch.testing.assert_close(ours.loss, theirs)
    torch.testing.assert_close(ours.metrics["preference/chosen"], chosen.mean())
    torch.testing.assert_close(ours.metrics["preference/rejected"], rejected.mean())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_and_ppo_reward(estimator):
    utils = definitions("models/utils.py", "compute_approx_kl", "compute_reward")
    logprobs, reference = (20 * x.masked_fill(~MASK, 0) for x in rows(2))
    theirs = utils["compute_approx_kl"](logprobs, reference, kl_estimator=estimator)
    ours = kl_penalty(logprobs=logprobs, ref_logprobs=reference, mask=MASK, estimator=estimator)
    torch.testing.assert_close(ours, theirs)
    reward = torch.tensor([12.0, -0.5, -30.0, 2.0])
    torch.testing.assert_close(
        regularized_rewards(
            sentence=sentence_reward(reward, clip_range=(-10.0, 10.0), coef=1.0),
            kl=ours,
            kl_coef=0.02,
            mask=MASK,
        ),
        utils["compute_reward"](reward, 0.02, theirs, MASK, (-10.0, 10.0)),
    )


@pytest.mark.parametrize(("gamma", "lambd"), [(1.0, 0.95), (0.9, 0.7)])
def test_gae(gamma: float, lambd: float):
    values, rewards = rows(2)
    maker = definitions("trainer/ppo_utils/experience_maker.py", "get_advantages_and_returns")
    theirs = maker["get_advantages_and_returns"](None, values, rewards, MASK, gamma, lambd)
    ours = gae(values=values, rewards=rewards, mask=MASK, gamma=gamma, lambd=lambd)
    torch.testing.assert_close(ours, theirs)


def _paid(name: str) -> CriticFree:
    """The method with the KL in the reward."""
    return replace(METHODS[name], kl_coef=0.1, kl_use_loss=False, kl_estimator="k1")


ESTIMATORS = {
    "gae": PPO(kl_coef=0.1, lambd=0.9),
    "reinforce": _paid("reinforce_pp"),
    "reinforce_baseline": _paid("reinforce_baseline"),
    "rloo": _paid("rloo"),
    "dr_grpo": _paid("dr_grpo"),
}


@pytest.mark.parametrize("no_std_norm", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantages_are_whitened_over_all_micro_batches(estimator: str, no_std_norm: bool):
    """Theirs come as experiences of two rows each, the second one shorter by its padding. Ours are
    made of the whole rollout before it is divided among micro-batches and ranks."""
    logprobs, reference, values = rows(3)
    reward = torch.tensor([1.0, -0.5, 3.0, 2.0])
    scores = {
        Role.POLICY: logprobs,
        Role.REFERENCE: reference,
        Role.CRITIC: values,
        Role.REWARD: reward,
    }
    tokens = token_batch([[1]] * B, [[3] * int(n) for n in MASK.sum(-1)], groups=[0, 0, 1, 1])
    method = replace(ESTIMATORS[estimator], no_std_norm=no_std_norm)
    ours, _ = method.targets(ScoredBatch(tokens, scores))
    experiences = [
        SimpleNamespace(
            index=list(part),
            rewards=reward[part],
            action_mask=MASK[part, :width],
            kl=(logprobs - reference)[part, :width].masked_fill(~MASK[part, :width], 0),
            values=values[part, :width].masked_fill(~MASK[part, :width], 0),
            info={},
        )
        for part, width in ((range(2), 6), (range(2, 4), 4))
    ]
    theirs = _advantages_of_openrlhf(experiences, estimator, no_std_norm=no_std_norm, lambd=0.9)
    for part, found in zip((range(2), range(2, 4)), theirs, strict=True):
        mask = found.action_mask
        got = ours.advantages[part, : mask.shape[1]]
        torch.testing.assert_close(got[mask], found.advantages[mask])


def _advantages_of_openrlhf(
    experiences: list[SimpleNamespace], estimator: str, *, no_std_norm: bool, lambd: float
) -> list[SimpleNamespace]:
    makers = ("get_advantages_and_returns", "get_cumulative_returns")
    scope = definitions(
        "trainer/ppo_utils/experience_maker.py", "compute_advantages_and_returns", *makers
    )
    scope.update(definitions("models/utils.py", "compute_reward"))
    scope["apply_length_penalties"] = lambda experiences, args: None
    advantage = SimpleNamespace(
        estimator=estimator, gamma=1.0, lambd=lambd, no_std_norm=no_std_norm
    )
    args = SimpleNamespace(
        rollout=SimpleNamespace(n_samples_per_prompt=2),
        algo=SimpleNamespace(advantage=advantage),
        reward=SimpleNamespace(clip_range=(-10.0, 10.0)),
    )
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(args=args),
        kl_ctl=SimpleNamespace(value=0.1),
        advantage_estimator=estimator,
        **{name: functools.partial(scope[name], None) for name in makers},
    )
    return scope["compute_advantages_and_returns"](trainer, experiences)


def test_whitening_of_one_row():
    (x,) = rows(1)
    normalize = definitions("models/utils.py", "masked_normalize")["masked_normalize"]
    torch.testing.assert_close(whiten(x[:1], MASK[:1]), normalize(x[:1], MASK[:1]))


@pytest.mark.parametrize("observed", [0.0, 5.5, 6.5, 20.0])
def test_adaptive_kl_controller(observed: float):
    from openrlhf.trainer.ppo_utils.kl_controller import AdaptiveKLController

    controller = AdaptiveKLController(0.1, target=6.0, horizon=1000)
    controller.update(observed, 64)
    coef = adaptive_kl_coef(0.1, observed=observed, target=6.0, horizon=1000, num_samples=64)
    assert coef == pytest.approx(controller.value, rel=1e-12)
