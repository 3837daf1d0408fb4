"""Frozen weights visit a device and are at home again as they were, without a copy back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from token_rows import token_batch
from torch import Tensor, nn

from rto.scoring import offload
from rto.scoring.frozen import FrozenOptions, FrozenScorer
from rto.scoring.offload import Offloaded
from rto.types import Role

CPU = torch.device("cpu")


def addresses(model: nn.Module) -> list[int]:
    return [parameter.data_ptr() for parameter in model.parameters()]


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The copies that a device got: another memory, as a GPU's is."""
    copies: list[Tensor] = []

    def copy(host: Tensor, device: torch.device) -> Tensor:
        copies.append(host.clone())
        return copies[-1]

    monkeypatch.setattr(offload, "to_device", copy)
    return copies


def test_a_turn_leaves_the_weights_where_they_were(lent: list[Tensor]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    at_home, values = addresses(model), [p.detach().clone() for p in model.parameters()]
    held = Offloaded(model, CPU)
    assert addresses(model) == at_home, "a model that is in host memory is not copied"
    with held.on_device():
        assert addresses(model) == [copy.data_ptr() for copy in lent]
        assert not set(addresses(model)) & set(at_home)
    assert addresses(model) == at_home
    for parameter, value in zip(model.parameters(), values, strict=True):
        assert torch.equal(parameter, value)


def test_what_a_device_wrote_is_dropped_with_its_copy(lent: list[Tensor]) -> None:
    model = nn.Linear(2, 2)
    value, held = model.weight.detach().clone(), Offloaded(model, CPU)

    def turn() -> None:
        with held.on_device():
            model.weight.data.zero_()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        turn()
    assert torch.equal(model.weight, value), "after an error, too"


def test_scores_of_lent_weights_are_the_same_turn_after_turn(
    tiny_model_dir: Path, tiny_reward_dir: Path, lent: list[Tensor]
) -> None:
    tokens = token_batch([[1, 6], [1]], [[7, 9, 2], [8, 2]])
    roles, path = {Role.REFERENCE: str(tiny_model_dir)}, str(tiny_reward_dir)
    found: list[Tensor] = []
    for offloads in (False, True):
        options = FrozenOptions(dtype=torch.float32, device=CPU, offload=offloads)
        scorer = FrozenScorer(roles, [path], options)
        for _ in range(2):
            found.append(scorer.score(tokens, frozenset(roles))[Role.REFERENCE])
            found.append(scorer.rewards(tokens))
        assert bool(lent) is offloads
    for turn in (1, 2, 3):
        assert torch.equal(found[0], found[2 * turn])
        assert torch.equal(found[1], found[2 * turn + 1])
