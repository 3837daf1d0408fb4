from __future__ import annotations

import math

import pytest
import torch

from rto.functional.preference import check_pairs, dpo_loss, split_pairs
from rto.types import LossNorm, LossOutput

MASK = torch.tensor([[True, True], [True, False]])
LOGPROBS = torch.tensor([[-1.0, -2.0], [-4.0, math.nan]])
REFERENCE = torch.tensor([[-2.0, -3.0], [-3.0, math.nan]])


def loss(**options: float) -> LossOutput:
    """Log-ratios: chosen (-3) - (-5) = 2, rejected (-4) - (-3) = -1; difference 3."""
    return dpo_loss(
        logprobs=LOGPROBS,
        ref_logprobs=REFERENCE,
        mask=MASK,
        norm=LossNorm(tokens=3, sequences=2, groups=1),
        **{"beta": 0.5, **options},
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_dpo_by_hand():
    output = loss()
    assert float(output.loss) == pytest.approx(-math.log(sigmoid(0.5 * 3)))
    assert {name: float(value) for name, value in output.metrics.items()} == pytest.approx(
        {
            "preference/loss": -math.log(sigmoid(1.5)),
            "preference/accuracy": 1,
            "preference/margin": 1.5,
            "preference/chosen": 1.0,
            "preference/rejected": -0.5,
            "preference/nll": 1.5,
        }
    )


def test_label_smoothing_mixes_in_the_flipped_preference():
    expected = -0.9 * math.log(sigmoid(1.5)) - 0.1 * math.log(sigmoid(-1.5))
    assert float(loss(label_smoothing=0.1).loss) == pytest.approx(expected)


def test_nll_term_is_the_chosen_responses_nll_per_token():
    assert float(loss(nll_coef=2.0).loss - loss().loss) == pytest.approx(2 * 1.5)


def test_policy_equal_to_the_reference_loses_log_2():
    output = dpo_loss(
        logprobs=LOGPROBS,
        ref_logprobs=LOGPROBS,
        mask=MASK,
        norm=LossNorm(tokens=3, sequences=2, groups=1),
        beta=0.1,
    )
    assert float(output.loss) == pytest.approx(math.log(2))


def test_pairs_are_adjacent_rows_of_one_group():
    chosen, rejected = split_pairs(torch.arange(6))
    assert chosen.tolist() == [0, 2, 4]
    assert rejected.tolist() == [1, 3, 5]
    check_pairs(torch.tensor([0, 0, 3, 3, 0, 0]))
    with pytest.raises(ValueError, match="rows 2 and 3 of the pairs answer two prompts"):
        check_pairs(torch.tensor([0, 0, 1, 2]))
    with pytest.raises(ValueError, match="3 rows do not form pairs"):
        split_pairs(torch.arange(3))
