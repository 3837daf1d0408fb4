"""The parts of the weight-sync proof that need no engine."""

from __future__ import annotations

import pytest
import torch

from rto.cluster.weight_sync import Probe, check_receipt, make_probe
from rto.errors import ProofError
from rto.rollout.digest import WeightReceipt

SENT = {"a.weight": "11", "b.weight": "22"}


def test_a_probe_is_the_longest_prompts_halved() -> None:
    prompts = [[5], [1, 2, 3, 4, 5], [6, 7], [8, 9, 10], [11, 12], [13, 14, 15, 16]]
    probe = make_probe(prompts, tolerance=0.1)
    assert probe.pairs == [
        ([1, 2], [3, 4, 5]),
        ([13, 14], [15, 16]),
        ([8], [9, 10]),
        ([6], [7]),
    ]


def test_a_probe_cuts_long_prompts() -> None:
    probe = make_probe([list(range(100))], tolerance=0.1, max_len=8)
    assert probe.pairs == [([0, 1, 2, 3], [4, 5, 6, 7])]


def test_prompts_of_one_token_make_no_probe() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        make_probe([[1], [2]], tolerance=0.1)


def compared(probe: Probe, engine: list[list[float]], trainer: list[list[float]]) -> list[float]:
    figures = probe.compare(torch.tensor(trainer), engine)
    return [figures.mean, figures.largest]


def test_compare_aligns_the_responses_and_ignores_padding() -> None:
    # Sequences of 4 and 2 tokens: responses of 2 and 1.
    probe = make_probe([[1, 2, 3, 4], [5, 6]], tolerance=0.1)
    engine = [[-1.0, -2.0], [-3.0]]
    assert compared(probe, engine, [[-1.0, -2.0], [-3.0, 77.0]]) == [0, 0]
    got = compared(probe, engine, [[-1.0, -2.3], [-3.0, 77.0]])
    # One of three tokens is off by 0.3.
    assert got == pytest.approx([0.1, 0.3])


def test_compare_sees_a_shift_by_one_token() -> None:
    probe = make_probe([[1, 2, 3, 4]], tolerance=0.1)
    assert compared(probe, [[-1.0, -2.0]], [[-9.0, -1.0]])[1] == 8


def test_equal_digests_pass() -> None:
    check_receipt(SENT, WeightReceipt(dict(SENT), ()), engine=0)


@pytest.mark.parametrize(
    ("received", "unassigned", "message"),
    [
        ({**SENT, "b.weight": "23"}, (), "engine 1 received other weights: 'b.weight' differs"),
        ({"a.weight": "11"}, (), "'b.weight' did not arrive"),
        ({**SENT, "c.weight": "33"}, (), "'c.weight' was not sent"),
        (SENT, ("z", "y"), "engine 1 left 2 parameters unassigned: y, z"),
    ],
)
def test_a_difference_is_named(
    received: dict[str, str], unassigned: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ProofError, match=message):
        check_receipt(SENT, WeightReceipt(received, unassigned), engine=1)


def test_the_first_difference_by_name_is_the_one_named() -> None:
    received = {"a.weight": "0", "b.weight": "0"}
    with pytest.raises(ProofError, match="'a.weight' differs"):
        check_receipt(SENT, WeightReceipt(received, ()), engine=0)
