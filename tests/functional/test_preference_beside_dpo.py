"""The losses on pairs beside DPO: by hand, against loops, and what holds for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rto.functional.preference import dpo_loss, ipo_loss, rdpo_loss, simpo_loss, tdpo_loss
from rto.types import LossNorm, LossOutput

NAN = math.nan
BETA, ALPHA, GAMMA, NLL = 0.3, 0.2, 0.4, 0.25

Rows = dict[str, Tensor]
Loss = Callable[[Rows, Tensor, LossNorm], LossOutput]


def referenced(x: Rows) -> dict[str, Any]:
    return {"logprobs": x["logprobs"], "ref_logprobs": x["ref"]}


def tdpo(x: Rows, mask: Tensor, norm: LossNorm, **options) -> LossOutput:
    return tdpo_loss(
        **referenced(x), reference_kl=x["kl"], mask=mask, norm=norm, beta=BETA, **options
    )


LOSSES: dict[str, Loss] = {
    "dpo": lambda x, mask, norm: dpo_loss(
        **referenced(x), mask=mask, norm=norm, beta=BETA, label_smoothing=0.1, nll_coef=NLL
    ),
    "ipo": lambda x, mask, norm: ipo_loss(
        **referenced(x), mask=mask, norm=norm, beta=BETA, reduction="mean", nll_coef=NLL
    ),
    "ipo_sum": lambda x, mask, norm: ipo_loss(
        **referenced(x), mask=mask, norm=norm, beta=BETA, reduction="sum", nll_coef=NLL
    ),
    "rdpo": lambda x, mask, norm: rdpo_loss(
        **referenced(x), mask=mask, norm=norm, beta=BETA, alpha=ALPHA, nll_coef=NLL
    ),
    "simpo": lambda x, mask, norm: simpo_loss(
        logprobs=x["logprobs"],
        mask=mask,
        norm=norm,
        beta=BETA,
        gamma=GAMMA,
        label_smoothing=0.1,
        nll_coef=NLL,
    ),
    "tdpo1": lambda *args: tdpo(*args, alpha=1.0, detach_chosen=False, nll_coef=NLL),
    "tdpo2": lambda *args: tdpo(*args, alpha=ALPHA, detach_chosen=True, nll_coef=NLL),
}
each_loss = pytest.mark.parametrize("name", LOSSES)

B, T = 6, 5
LENGTHS = [5, 1, 3, 4, 2, 5]
MASK = torch.arange(T) < torch.tensor(LENGTHS).unsqueeze(-1)
NORM = LossNorm(tokens=20, sequences=6, groups=3)


def data() -> Rows:
    rng = torch.Generator().manual_seed(0)
    x = {name: torch.rand(B, T, generator=rng, dtype=torch.double) for name in ("a", "b", "kl")}
    return {"logprobs": -2 * x["a"], "ref": -2 * x["b"], "kl": x["kl"]}


def naive_pair(name: str, w: dict[str, list[float]], r: dict[str, list[float]]) -> float:
    """One pair's loss, winner and rejected, from the lists of its tokens' numbers."""

    def cross_entropy(margin: float, flipped: float = 0.0) -> float:
        p = 1 / (1 + math.exp(-margin))
        return -(1 - flipped) * math.log(p) - flipped * math.log(1 - p)

    num_w, num_r = len(w["logprobs"]), len(r["logprobs"])
    ratio_w = sum(w["logprobs"]) - sum(w["ref"])
    ratio_r = sum(r["logprobs"]) - sum(r["ref"])
    delta = sum(r["kl"]) - sum(w["kl"])
    match name:
        case "dpo":
            loss = cross_entropy(BETA * (ratio_w - ratio_r), 0.1)
        case "ipo":
            loss = (ratio_w / num_w - ratio_r / num_r - 1 / (2 * BETA)) ** 2
        case "ipo_sum":
            loss = (ratio_w - ratio_r - 1 / (2 * BETA)) ** 2
        case "rdpo":
            loss = cross_entropy(BETA * (ratio_w - ratio_r) + ALPHA * (num_w - num_r))
        case "simpo":
            means = sum(w["logprobs"]) / num_w - sum(r["logprobs"]) / num_r
            loss = cross_entropy(BETA * means - GAMMA, 0.1)
        case "tdpo1":
            loss = cross_entropy(BETA * (ratio_w - ratio_r - delta))
        case _:
            loss = cross_entropy(BETA * (ratio_w - ratio_r - ALPHA * delta))
    return loss - NLL * sum(w["logprobs"]) / num_w


@each_loss
def test_equals_a_loop_over_pairs(name: str):
    x = data()
    rows = [{k: v[i, :n].tolist() for k, v in x.items()} for i, n in enumerate(LENGTHS)]
    expected = sum(naive_pair(name, rows[i], rows[i + 1]) for i in (0, 2, 4)) / 3
    output = LOSSES[name](x, MASK, NORM)
    assert float(output.loss) == pytest.approx(expected, rel=1e-7)
    assert float(output.metrics["preference/loss"]) == float(output.loss)


@each_loss
def test_gradients(name: str):
    x = {k: v.requires_grad_() for k, v in data().items()}
    leaf = [x["logprobs"], x["ref"]]
    if name == "tdpo1":
        leaf.append(x["kl"])
    fixed = {"kl": x["kl"].detach()}

    def loss(*args: Tensor) -> Tensor:
        return LOSSES[name](fixed | dict(zip(x, args, strict=False)), MASK, NORM).loss

    assert torch.autograd.gradcheck(loss, leaf)


@each_loss
def test_shards_of_pairs_sum_to_the_step_in_any_order(name: str):
    x = data()
    whole = LOSSES[name](x, MASK, NORM)
    parts = []
    for rows in ([4, 5], [0, 1], [2, 3]):
        parts.append(LOSSES[name]({k: v[rows] for k, v in x.items()}, MASK[rows], NORM))
    torch.testing.assert_close(torch.stack([part.loss for part in parts]).sum(), whole.loss)
    for key, value in whole.metrics.items():
        assert not value.requires_grad
        torch.testing.assert_close(sum(part.metrics[key] for part in parts), value)
    order = [2, 3, 4, 5, 0, 1]
    moved = LOSSES[name]({k: v[order] for k, v in x.items()}, MASK[order], NORM)
    torch.testing.assert_close(moved.loss, whole.loss)


@each_loss
def test_padding_reaches_neither_value_nor_gradient(name: str):
    results = []
    for fill in (NAN, 7.0):
        x = {k: v.masked_fill(~MASK, fill).requires_grad_() for k, v in data().items()}
        output = LOSSES[name](x, MASK, NORM)
        output.loss.backward()
        grads = {k: v.grad for k, v in x.items() if v.grad is not None}
        assert all(not grad[~MASK].any() for grad in grads.values())
        results.append((output.loss.detach(), dict(output.metrics), grads))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


# One pair by hand: 3 tokens chosen, 1 rejected.
# Log-ratios: -6 + 7.5 = 1.5 and -4 + 5 = 1; D: 0.6 and 0.8; mean log-probs: -2 and -4.
PAIR_MASK = torch.tensor([[True, True, True], [True, False, False]])
PAIR = {
    "logprobs": torch.tensor([[-1.0, -2.0, -3.0], [-4.0, NAN, NAN]]),
    "ref": torch.tensor([[-2.0, -2.0, -3.5], [-5.0, NAN, NAN]]),
    "kl": torch.tensor([[0.1, 0.2, 0.3], [0.8, NAN, NAN]]),
}
PAIR_NORM = LossNorm(tokens=4, sequences=2, groups=1)


def metrics(output: LossOutput) -> dict[str, float]:
    return {name.removeprefix("preference/"): float(x) for name, x in output.metrics.items()}


def nll_of_win(margin: float) -> float:
    return math.log1p(math.exp(-margin))


@pytest.mark.parametrize(
    ("reduction", "chosen", "rejected", "loss"),
    [
        ("mean", 0.5 * 1.5 / 3, 0.5 * 1, (1.5 / 3 - 1 - 1) ** 2),
        ("sum", 0.5 * 1.5, 0.5 * 1, (1.5 - 1 - 1) ** 2),
    ],
)
def test_ipo_by_hand(reduction, chosen: float, rejected: float, loss: float):
    """1 / (2 beta) is 1."""
    output = ipo_loss(
        **referenced(PAIR), mask=PAIR_MASK, norm=PAIR_NORM, beta=0.5, reduction=reduction
    )
    assert metrics(output) == pytest.approx(
        {
            "loss": loss,
            "accuracy": float(chosen > rejected),
            "margin": chosen - rejected,
            "chosen": chosen,
            "rejected": rejected,
            "nll": 2,
        }
    )


def test_ipo_is_least_where_the_difference_is_half_the_inverse_of_beta():
    output = ipo_loss(**referenced(PAIR), mask=PAIR_MASK, norm=PAIR_NORM, beta=1.0, reduction="sum")
    assert float(output.loss) == pytest.approx(0, abs=1e-12), "1.5 - 1 = 1 / 2"


def test_ipo_refuses_another_reduction():
    with pytest.raises(ValueError, match="IPO reduction is 'token': expected mean or sum"):
        ipo_loss(
            **referenced(PAIR),
            mask=PAIR_MASK,
            norm=PAIR_NORM,
            beta=1.0,
            reduction="token",  # pyright: ignore[reportArgumentType]
        )


def test_rdpo_by_hand():
    output = rdpo_loss(**referenced(PAIR), mask=PAIR_MASK, norm=PAIR_NORM, beta=0.5, alpha=0.1)
    margin = 0.5 * (1.5 - 1) + 0.1 * (3 - 1)
    assert metrics(output) == pytest.approx(
        {
            "loss": nll_of_win(margin),
            "accuracy": 1,
            "margin": margin,
            "chosen": 0.5 * 1.5 + 0.1 * 3,
            "rejected": 0.5 * 1 + 0.1 * 1,
            "nll": 2,
        }
    )


def test_rdpo_wants_less_of_a_winner_that_is_longer():
    """Equal log-ratios: below log 2 when the winner is longer, above when it is shorter."""

    def loss(rows: list[int]) -> float:
        output = rdpo_loss(
            logprobs=PAIR["ref"][rows],
            ref_logprobs=PAIR["ref"][rows],
            mask=PAIR_MASK[rows],
            norm=PAIR_NORM,
            beta=0.1,
            alpha=0.001,
        )
        return float(output.loss)

    assert loss([0, 1]) == pytest.approx(nll_of_win(0.001 * 2), rel=1e-6)
    assert loss([0, 1]) < math.log(2) < loss([1, 0])


def test_simpo_by_hand():
    output = simpo_loss(
        logprobs=PAIR["logprobs"], mask=PAIR_MASK, norm=PAIR_NORM, beta=2.0, gamma=0.5
    )
    assert metrics(output) == pytest.approx(
        {
            "loss": nll_of_win(2 * (-2) - 2 * (-4) - 0.5),
            "accuracy": 1,
            "margin": 4,
            "chosen": -4,
            "rejected": -8,
            "nll": 2,
        }
    )


@pytest.mark.parametrize(
    ("alpha", "detach", "chosen", "rejected"),
    [
        (1.0, False, 0.5 * (1.5 + 0.6), 0.5 * (1 + 0.8)),
        (0.5, True, 0.5 * (1.5 + 0.5 * 0.6), 0.5 * (1 + 0.5 * 0.8)),
    ],
    ids=["tdpo1", "tdpo2"],
)
def test_tdpo_by_hand(alpha: float, detach: bool, chosen: float, rejected: float):
    output = tdpo_loss(
        **referenced(PAIR),
        reference_kl=PAIR["kl"],
        mask=PAIR_MASK,
        norm=PAIR_NORM,
        beta=0.5,
        alpha=alpha,
        detach_chosen=detach,
    )
    assert metrics(output) == pytest.approx(
        {
            "loss": nll_of_win(chosen - rejected),
            "accuracy": 1,
            "margin": chosen - rejected,
            "chosen": chosen,
            "rejected": rejected,
            "nll": 2,
            "chosen_kl": 0.6,
            "rejected_kl": 0.8,
        }
    )


def test_tdpo2_pushes_only_the_rejected_divergence():
    """d loss / d D_l = sigmoid(-margin) * beta * alpha / 3 pairs; nothing for D_w."""
    x = data()
    first = tdpo({**x, "kl": x["kl"].requires_grad_()}, MASK, NORM, alpha=1.0, detach_chosen=False)
    (both,) = torch.autograd.grad(first.loss, x["kl"])
    second = tdpo(x, MASK, NORM, alpha=ALPHA, detach_chosen=True)
    (one,) = torch.autograd.grad(second.loss, x["kl"])
    assert (both[0::2][MASK[0::2]] < 0).all()
    assert (both[1::2][MASK[1::2]] > 0).all()
    assert not one[0::2].any()
    sums = {k: v.masked_fill(~MASK, 0).sum(-1) for k, v in x.items()}
    reward = BETA * (sums["logprobs"] - sums["ref"] + ALPHA * sums["kl"])
    slope = torch.sigmoid(reward[1::2] - reward[0::2]) * BETA * ALPHA / 3
    torch.testing.assert_close(one[1::2], slope[:, None] * MASK[1::2])


def test_tdpo1_of_logits_equals_the_definition_in_value_and_gradient():
    """beta log pi/pi_ref summed, less the difference of sequential KLs, from whole softmaxes."""
    rng = torch.Generator().manual_seed(2)
    logits, ref = (torch.randn(B, T, 7, generator=rng, dtype=torch.double) for _ in range(2))
    logits.requires_grad_()
    ids = torch.randint(7, (B, T), generator=rng)
    policy, reference = logits.log_softmax(-1), ref.log_softmax(-1)
    chosen_ids = ids.unsqueeze(-1)
    got = tdpo(
        {
            "logprobs": policy.gather(-1, chosen_ids).squeeze(-1),
            "ref": reference.gather(-1, chosen_ids).squeeze(-1),
            "kl": (reference.exp() * (reference - policy)).sum(-1),
        },
        MASK,
        NORM,
        alpha=1.0,
        detach_chosen=False,
    ).loss
    rewards = []
    for row, length in enumerate(LENGTHS):
        reward = torch.zeros((), dtype=torch.double)
        for t in range(length):
            p, q = logits[row, t].softmax(-1), ref[row, t].softmax(-1)
            token = ids[row, t]
            reward = reward + (p[token] / q[token]).log()
            reward = reward + sum(q[v] * (q[v] / p[v]).log() for v in range(7))
        rewards.append(BETA * reward)
    win = [rewards[i] - rewards[i + 1] for i in (0, 2, 4)]
    expected = sum((1 + (-margin).exp()).log() for margin in win) / torch.tensor(3.0)
    torch.testing.assert_close(got, expected)
    (ours,), (theirs,) = (
        torch.autograd.grad(x, logits, retain_graph=True) for x in (got, expected)
    )
    torch.testing.assert_close(ours, theirs)
