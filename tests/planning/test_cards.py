"""The table of cards, and how one is found in it."""

from __future__ import annotations

import pytest

from rto.planning.cards import CARDS, GpuCard, Machine, find_card, known_cards


@pytest.mark.parametrize(
    ("name", "gib", "tflops", "hbm"),
    [
        ("A100", 40, 312, 1555),
        ("A100", 80, 312, 2039),
        ("H100", 80, 989, 3350),
        ("H200", 141, 989, 4800),
        ("B200", 180, 2250, 8000),
        ("L40S", 48, 362, 864),
        ("RTX4090", 24, 165.2, 1008),
    ],
)
def test_the_data_sheets(name: str, gib: int, tflops: float, hbm: float) -> None:
    card = find_card(name, gib)
    assert card is not None
    assert (card.tflops, card.hbm) == (tflops, hbm)
    assert f"{name}-{gib}" in known_cards()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.name}-{card.gib}")
def test_a_card_is_of_this_world(card: GpuCard) -> None:
    assert 0.9 * card.gib < card.usable_gib < card.gib
    assert card.network < card.pcie <= card.nvlink < card.hbm


def test_a_name_without_a_size_is_the_largest_of_its_name() -> None:
    largest = find_card("a100")
    assert largest is not None
    assert largest.gib == 80


@pytest.mark.parametrize(("name", "gib"), [("A100", 81), ("V100", 32), ("A10", None)])
def test_what_the_table_has_not_is_none(name: str, gib: int | None) -> None:
    assert find_card(name, gib) is None


def test_ranks_fill_nodes() -> None:
    machine = Machine(CARDS[0], per_node=8, nodes=4)
    assert machine.gpus == 32
    assert [machine.nodes_of(ranks) for ranks in (1, 8, 9, 32)] == [1, 1, 2, 4]
