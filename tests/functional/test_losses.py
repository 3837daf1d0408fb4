from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rto.functional import losses
from rto.functional.preference import dpo_loss
from rto.types import LossNorm, LossOutput

B, T = 6, 5
LENGTHS = torch.tensor([[5], [1], [3], [4], [2], [5]])
MASK = torch.arange(T) < LENGTHS
NORM = LossNorm(tokens=20, sequences=6, groups=3)
NAMES = ("logprobs", "old", "advantages", "sampler", "values", "returns")


def data() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(B, T) for name in NAMES}


def policy(x: dict[str, Tensor], mask: Tensor, norm: LossNorm, **options) -> LossOutput:
    weights = losses.sampler_weights(
        old_logprobs=x["old"],
        sampler_logprobs=x["sampler"],
        mask=mask,
        kind="seq-mask-tis",
        threshold=(0.5, 5.0),
    )
    return losses.policy_loss(
        logprobs=x["logprobs"],
        old_logprobs=x["old"],
        advantages=x["advantages"],
        mask=mask,
        norm=norm,
        clip_low_high=(0.2, 0.3),
        dual_clip=3.0,
        weights=weights,
        **options,
    )


def value(x: dict[str, Tensor], mask: Tensor, norm: LossNorm, **options) -> LossOutput:
    return losses.value_loss(
        values=x["logprobs"],
        old_values=x["values"],
        returns=x["returns"],
        mask=mask,
        norm=norm,
        clip=0.2,
        **options,
    )


LOSSES: dict[str, Callable[[dict[str, Tensor], Tensor, LossNorm], LossOutput]] = {
    "policy-token": policy,
    "policy-sequence": lambda *args: policy(*args, reduction="sequence"),
    "value-token": value,
    "value-sequence": lambda *args: value(*args, reduction="sequence"),
    "sft": lambda x, mask, norm: losses.sft_loss(logprobs=x["logprobs"], mask=mask, norm=norm),
    "dpo": lambda x, mask, norm: dpo_loss(
        logprobs=x["logprobs"],
        ref_logprobs=x["old"],
        mask=mask,
        norm=norm,
        beta=0.1,
        label_smoothing=0.1,
        nll_coef=0.5,
    ),
    "pairwise": lambda x, mask, norm: losses.pairwise_loss(
        chosen=x["logprobs"][0::2, 0],
        rejected=x["logprobs"][1::2, 0],
        num_pairs=norm.sequences / 2,
    ),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def with_gradient(
    loss, x: dict[str, Tensor], rows: slice, mask: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    leaf = x["logprobs"].clone().requires_grad_()
    part = {name: tensor[rows] for name, tensor in {**x, "logprobs": leaf}.items()}
    output = loss(part, mask[rows], NORM)
    (gradient,) = torch.autograd.grad(output.loss, leaf)
    return {"loss": output.loss.detach(), **output.metrics}, gradient


@each_loss
def test_shards_sum_to_the_batch(loss):
    x = data()
    whole, whole_grad = with_gradient(loss, x, slice(None), MASK)
    parts = [with_gradient(loss, x, slice(i, i + 2), MASK) for i in (0, 2, 4)]
    for name, expected in whole.items():
        torch.testing.assert_close(sum(metrics[name] for metrics, _ in parts), expected)
    torch.testing.assert_close(sum(grad for _, grad in parts), whole_grad)
    assert bool(whole_grad.any())


@each_loss
def test_nan_in_the_padding_changes_nothing(loss):
    x = data()
    dirty = {name: tensor.masked_fill(~MASK, math.nan) for name, tensor in x.items()}
    clean = {name: tensor.masked_fill(~MASK, 0.5) for name, tensor in x.items()}
    results = [with_gradient(loss, rows, slice(None), MASK) for rows in (dirty, clean)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def one_token(logprob: float, old: float, advantage: float, **options) -> LossOutput:
    return losses.policy_loss(
        logprobs=torch.tensor([[logprob]]),
        old_logprobs=torch.tensor([[old]]),
        advantages=torch.tensor([[advantage]]),
        mask=torch.tensor([[True]]),
        norm=LossNorm(tokens=1, sequences=1, groups=1),
        **{"clip_low_high": (0.2, 0.3), **options},
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "loss"),
    [
        (1.1, 2.0, None, -2.2),
        (1.5, 2.0, None, -2.6),
        (0.5, 2.0, None, -1.0),
        (0.5, -2.0, None, 1.6),
        (1.5, -2.0, None, 3.0),
        (9.0, -2.0, 3.0, 6.0),
        (9.0, 2.0, 3.0, -2.6),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_policy_loss_of_one_token(ratio, advantage, dual_clip, loss):
    output = one_token(math.log(ratio), 0.0, advantage, dual_clip=dual_clip)
    assert float(output.loss) == pytest.approx(loss)
    assert float(output.metrics["policy/ratio"]) == pytest.approx(ratio)
    assert float(output.metrics["policy/approx_kl"]) == pytest.approx(-math.log(ratio))
    clipped = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.8)
    assert float(output.metrics["policy/clip_share"]) == clipped


def test_a_huge_log_ratio_stays_finite():
    output = one_token(500.0, 0.0, -1.0)
    assert float(output.loss) == pytest.approx(math.exp(20))


def test_gradient_raises_the_log_prob_of_an_advantageous_token():
    logprobs = torch.zeros(1, 2, requires_grad=True)
    losses.policy_loss(
        logprobs=logprobs,
        old_logprobs=torch.zeros(1, 2),
        advantages=torch.tensor([[1.0, -3.0]]),
        mask=torch.tensor([[True, True]]),
        norm=LossNorm(tokens=2, sequences=1, groups=1),
        clip_low_high=(0.2, 0.2),
    ).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.5, 1.5]]


def test_reductions_weigh_long_responses_differently():
    x = torch.tensor([[1.0, 1.0, 1.0], [5.0, math.nan, math.nan]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    norm = LossNorm(tokens=4, sequences=2, groups=1)
    assert losses.aggregate(x, mask=mask, norm=norm, reduction="token") == 2
    assert losses.aggregate(x, mask=mask, norm=norm, reduction="sequence") == 3


@pytest.mark.parametrize(
    ("value", "clip", "loss", "share"),
    [(1.1, 0.2, 0.405, 0), (1.5, 0.2, 0.32, 1), (1.5, None, 0.125, 0), (0.0, 0.2, 2.0, 0)],
)
def test_value_loss_of_one_token(value, clip, loss, share):
    output = losses.value_loss(
        values=torch.tensor([[value]]),
        old_values=torch.tensor([[1.0]]),
        returns=torch.tensor([[2.0]]),
        mask=torch.tensor([[True]]),
        norm=LossNorm(tokens=1, sequences=1, groups=1),
        clip=clip,
    )
    assert float(output.loss) == pytest.approx(loss)
    assert float(output.metrics["critic/clip_share"]) == share


def test_sft_loss_is_the_negative_log_likelihood_per_token():
    output = losses.sft_loss(
        logprobs=torch.tensor([[-1.0, -2.0], [-6.0, math.nan]]),
        mask=torch.tensor([[True, True], [True, False]]),
        norm=LossNorm(tokens=3, sequences=2, groups=1),
    )
    assert output.loss == 3


def test_pairwise_loss_by_hand():
    output = losses.pairwise_loss(
        chosen=torch.tensor([math.log(3), 0.0]), rejected=torch.zeros(2), num_pairs=2
    )
    assert float(output.loss) == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2)
    got = {name: float(value) for name, value in output.metrics.items()}
    assert got["reward_model/accuracy"] == 0.5
    assert got["reward_model/margin"] == pytest.approx(math.log(3) / 2)
    assert got["reward_model/chosen"] == pytest.approx(math.log(3) / 2)
    assert got["reward_model/rejected"] == 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tis", [[0.5, 4.0, 5.0], [2.0, 0.5, 1.0]]),
        ("icepop", [[0.0, 4.0, 0.0], [2.0, 0.5, 1.0]]),
        ("seq-tis", [[5.0, 5.0, 5.0], [1.0, 1.0, 1.0]]),
        ("seq-mask-tis", [[0.25, 4.0, 64.0], [2.0, 0.5, 1.0]]),
    ],
)
def test_sampler_weights_by_hand(kind, expected):
    """Geometric means of the rows: 4 and 1; products: 64 and 1."""
    ratio = torch.tensor([[0.25, 4.0, 64.0], [2.0, 0.5, math.nan]])
    weights, outside = losses.sampler_weights(
        old_logprobs=ratio.log(),
        sampler_logprobs=torch.zeros(2, 3),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        kind=kind,
        threshold=(0.5, 5.0),
    )
    torch.testing.assert_close(weights, torch.tensor(expected))
    changed = {"seq-tis": [True] * 3, "seq-mask-tis": [False] * 3}.get(kind, [True, False, True])
    assert outside.tolist() == [changed, [False] * 3]


def test_a_threshold_counts_no_padding_among_what_it_changed():
    for kind in ("tis", "icepop", "seq-tis", "seq-mask-tis"):
        _, outside = losses.sampler_weights(
            old_logprobs=torch.tensor([[3.0, 3.0]]),
            sampler_logprobs=torch.zeros(1, 2),
            mask=torch.tensor([[True, False]]),
            kind=kind,
            threshold=(0.5, 5.0),
        )
        assert outside.tolist() == [[True, False]]


def test_seq_mask_drops_a_whole_response():
    weights, _ = losses.sampler_weights(
        old_logprobs=torch.tensor([[3.0, 3.0], [0.0, 0.1]]),
        sampler_logprobs=torch.zeros(2, 2),
        mask=torch.ones(2, 2, dtype=torch.bool),
        kind="seq-mask-tis",
        threshold=(0.5, 5.0),
    )
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.0], [1.0, math.exp(0.1)]]))


def test_the_effective_share_by_hand():
    """Weights 1 and 3, the second over two tokens: 16 / (2 * 10)."""
    stats = losses.sampler_mismatch(
        logprobs=torch.tensor([[0.0, math.nan], [math.log(1.5), math.log(2.0)]]),
        sampler_logprobs=torch.zeros(2, 2),
        mask=torch.tensor([[True, False], [True, True]]),
    )
    assert float(stats["sampler/effective_share"]) == pytest.approx(0.8)


def test_the_effective_share_of_responses_that_no_float_could_weigh():
    stats = losses.sampler_mismatch(
        logprobs=torch.full((4, 3), 300.0),
        sampler_logprobs=torch.zeros(4, 3),
        mask=torch.ones(4, 3, dtype=torch.bool),
    )
    assert float(stats["sampler/effective_share"]) == pytest.approx(1.0)


def test_sampler_mismatch_by_hand():
    stats = losses.sampler_mismatch(
        logprobs=torch.tensor([[math.log(2), 0.0, math.nan]]),
        sampler_logprobs=torch.tensor([[0.0, math.log(4), 0.0]]),
        mask=torch.tensor([[True, True, False]]),
    )
    log2 = math.log(2)
    assert {name: float(value) for name, value in stats.items()} == pytest.approx(
        {
            "sampler/abs_diff_mean": 1.5 * log2,
            "sampler/abs_diff_max": 2 * log2,
            "sampler/ratio": (2 + 0.25) / 2,
            "sampler/k1": (-log2 + 2 * log2) / 2,
            "sampler/k3": (2 + 0.25) / 2 - 1 - (log2 - 2 * log2) / 2,
            "sampler/effective_share": 1.0,
        }
    )
