"""KTO against its definition, and against the loss of the installed trl (matched: 1.16.0)."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rpo_ext.functional.kahneman_tversky import above_prompt_mean, kto_loss
from rpo_ext.methods.kto import KTO, KTOBatch
from rto.types import LossNorm, PolicyOutput, Role

NORM = LossNorm(tokens=23, sequences=7, groups=3)


def test_loss_by_hand() -> None:
    """beta = 1/2, z0 = 1. Desirable, rho 3: 2 (1 - sigmoid(1)). Undesirable, rho -1:
    3 (1 - sigmoid(-(1/2) (-1 - 1))) = 3 (1 - sigmoid(1)). Mean: 5/2 * 1 / (1 + e)."""
    got = kto_loss(
        log_ratio=torch.tensor([3.0, -1.0]),
        reference_point=torch.tensor([1.0, 1.0]),
        desirable=torch.tensor([True, False]),
        norm=LossNorm(2, 2, 1),
        beta=0.5,
        desirable_weight=2.0,
        undesirable_weight=3.0,
    )
    assert float(got.loss) == pytest.approx(2.5 / (1 + math.e))
    assert float(got.metrics["kto/accuracy"]) == 1.0
    assert float(got.metrics["kto/margin"]) == pytest.approx(1.0)


def test_gradcheck_and_saturation() -> None:
    desirable = torch.tensor([True, False, True])

    def loss(log_ratio: Tensor, saturation: float | None = None) -> Tensor:
        return kto_loss(
            log_ratio=log_ratio,
            reference_point=torch.full_like(log_ratio, 0.2),
            desirable=desirable,
            norm=LossNorm(3, 3, 1),
            beta=0.7,
            saturation=saturation,
        ).loss

    near = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (near,))
    far = torch.tensor([-60.0, 60.0, -60.0], requires_grad=True)
    bounded = loss(far, 20.0)
    assert torch.equal(torch.autograd.grad(bounded, far)[0], torch.zeros(3))
    assert float(bounded.detach()) == pytest.approx(1.0)


def test_reference_point_of_the_default(rated) -> None:
    """Mean of the fixture's unrelated log-ratios: (1 - 0.5 + 0.25 + 2 + 0 - 1 + 0.5) / 7."""
    targets, metrics = KTO().targets(rated())
    assert targets.reference_point.tolist() == pytest.approx([2.25 / 7] * 7)
    assert metrics["kto/reference_point"] == pytest.approx(2.25 / 7)
    below, _ = KTO().targets(rated(unrelated=torch.full((7,), -3.0)))
    assert below.reference_point.tolist() == [0.0] * 7


def test_matched_variant_is_that_of_the_authors_of_rpo(rated) -> None:
    batch = rated()
    method = KTO(variant="matched_mean", beta=1.0)
    targets, _ = method.targets(batch)
    mask = batch.tokens.response_mask
    lengths = mask.sum(-1)
    output = PolicyOutput(batch[Role.POLICY] - 0.5)
    policy, start, ref = (
        x.masked_fill(~mask, 0).sum(-1) / lengths
        for x in (output.logprobs, batch[Role.POLICY], batch[Role.REFERENCE])
    )
    z = (start - ref).mean()
    assert targets.reference_point.tolist() == pytest.approx([float(z)] * 7)
    margin = (policy - ref - z).clamp(-20, 20)
    signed = torch.where(batch[Role.REWARD] >= 0, margin, -margin)
    expected = (1 - signed.sigmoid()).mean()
    torch.testing.assert_close(method.loss(output, targets, NORM).loss, expected)


@pytest.mark.parametrize(
    ("threshold", "rewards", "desirable"),
    [
        ("global_mean", [1, -1, 0, 2, -0.25, 0.75, -1.5], [1, 0, 1, 1, 0, 1, 0]),
        ("batch_mean", [7, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]),
        ("prompt_mean", [9, 8, 4, -5, -4, 0.1, 0.1], [1, 1, 0, 0, 1, 1, 1]),
        ("label", [1, 0, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 0, 1]),
    ],
)
def test_thresholds(rated, threshold, rewards, desirable) -> None:
    method = KTO(threshold=threshold)
    batch = rated(reward=torch.tensor(rewards, dtype=torch.float32))
    targets, metrics = method.targets(batch)
    assert isinstance(targets, KTOBatch)
    assert targets.desirable.tolist() == [bool(d) for d in desirable]
    assert metrics["kto/desirable_share"] == pytest.approx(sum(desirable) / 7)
    assert method.reward_scaling == ("none" if threshold == "label" else "zscore")
    assert method.min_responses == (2 if threshold == "prompt_mean" else 1)


def test_equal_rewards_reach_the_mean_of_their_batch(rated) -> None:
    """In fp32 the mean of seven times 0.9 is above 0.9: none would be desirable."""
    rewards = torch.full((7,), 0.9)
    assert not bool((rewards >= rewards.mean()).any())
    targets, _ = KTO(threshold="batch_mean").targets(rated(reward=rewards))
    assert isinstance(targets, KTOBatch)
    assert bool(targets.desirable.all())


def test_a_label_is_1_or_0(rated) -> None:
    with pytest.raises(ValueError, match="rewards must be 1 or 0"):
        KTO(threshold="label").targets(rated())


def test_equal_rewards_reach_their_mean() -> None:
    """In fp32 the mean of ten times 0.1 is above 0.1."""
    rewards, group = torch.full((10,), 0.1), torch.zeros(10, dtype=torch.long)
    assert bool(above_prompt_mean(rewards, group).all())


def trl_loss() -> Any:
    """``KTOTrainer._compute_loss``, compiled from its source: importing trl loads far more."""
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    source = (Path(spec.origin).parent / "trainer" / "kto_trainer.py").read_text()
    wanted: list[ast.stmt] = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "_compute_loss"
    ]
    scope: dict[str, Any] = {"torch": torch, "F": functional}
    exec(compile(ast.Module(wanted, type_ignores=[]), "kto_trainer.py", "exec"), scope)
    return scope["_compute_loss"]


class TRLTrainer:
    """What ``_compute_loss`` reads of its trainer, with reference log-probs precomputed."""

    calculate_KL = precompute_ref_logps = True
    aux_loss_enabled = False
    loss_type = "kto"
    _tp_size, _total_train_tokens = 1, 0

    def __init__(self, method: KTO, unrelated: Tensor) -> None:
        self.beta = method.beta
        self.desirable_weight = method.desirable_weight
        self.undesirable_weight = method.undesirable_weight
        self.model = SimpleNamespace(training=True)
        self.accelerator = SimpleNamespace(
            device=torch.device("cpu"), gather_for_metrics=lambda value: value
        )
        self._metrics: dict[str, Any] = {"train": defaultdict(list)}
        self._unrelated = unrelated

    def _compute_kl_logps(self, model: Any, batch: Any) -> Tensor:
        return self._unrelated


@pytest.mark.parametrize("z0_sign", [1.0, -1.0])
def test_trl(rated, z0_sign: float) -> None:
    batch = rated(unrelated=z0_sign * torch.tensor([1.0, 0.5, 0.25, 2.0, 0.0, -1.0, 0.5]))
    method = KTO(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)
    mask = batch.tokens.response_mask
    logprobs = (batch[Role.POLICY] * 1.3).requires_grad_()

    def model(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(
            log_probs=logprobs.masked_fill(~mask, 0),
            entropy=torch.zeros(mask.shape),
            mean_logits=torch.zeros(mask.shape),
        )

    completion_mask = torch.cat([torch.zeros(7, 1), mask], dim=1)
    inputs = {
        "input_ids": torch.zeros(7, 6, dtype=torch.long),
        "attention_mask": torch.ones(7, 6, dtype=torch.long),
        "completion_mask": completion_mask,
        "label": batch[Role.REWARD] >= 0,
        "ref_logps": batch[Role.REFERENCE].masked_fill(~mask, 0).sum(-1),
        "ref_KL_logps": torch.zeros(7),
    }
    trainer = TRLTrainer(method, batch[Role.UNRELATED])
    theirs = trl_loss()(trainer, model, inputs, False)
    targets, _ = method.targets(batch)
    ours = method.loss(PolicyOutput(logprobs), targets, NORM).loss
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, logprobs), torch.autograd.grad(theirs, logprobs)
    )
    assert float(targets.reference_point[0]) == pytest.approx(trainer._metrics["train"]["kl"][0])
