"""A row's tokens on several ranks, without the others: each rank's part and what it picks of it.

With the others: test_sequence_ranks.py.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from token_rows import token_batch
from transformers import LlamaConfig, T5Config

from rto.errors import UserError
from rto.models.packing import Packed, pack
from rto.models.sequence import Picked, SequenceRanks, check_config


def ranks(index: int, size: int) -> SequenceRanks:
    return SequenceRanks(cast(Any, None), index, size)


def packed() -> Packed:
    """Eight tokens: a prompt of two with two responses, a prompt of one with one response."""
    rows = token_batch([[1, 2], [1, 2], [6]], [[3, 4], [5], [7, 8]], groups=[0, 0, 1])
    return pack(rows)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_parts_are_of_one_length_and_hold_every_token_once(size: int) -> None:
    whole = packed()
    parts = [ranks(index, size).shard(whole) for index in range(size)]
    assert len({part.ids.shape for part in parts}) == 1
    for name in ("ids", "positions"):
        together = torch.cat([getattr(part, name) for part in parts], dim=1)
        total = whole.ids.shape[1]
        assert torch.equal(together[:, :total], getattr(whole, name))
        assert (together[:, total:] == getattr(whole, name)[0, 0]).all(), "filled up"


@pytest.mark.parametrize("size", [2, 3, 5, 9])
@pytest.mark.parametrize("name", ["before", "prompt", "last"])
def test_each_state_that_is_asked_for_is_on_one_rank(size: int, name: str) -> None:
    whole = packed()
    index = getattr(whole, name)
    states = torch.arange(whole.ids.shape[1]).float()[:, None]
    found = torch.zeros(len(index), 1)
    marked = torch.zeros(len(index), dtype=torch.long)
    for number in range(size):
        rows = ranks(number, size).shard(whole).rows
        assert rows is not None
        assert rows.shard is not None
        picked = rows.shard.pick(rows.shard.part(states.T).T, index)
        assert picked.here is not None
        found[picked.here] = picked.states
        marked += picked.here
        assert torch.equal(picked.mine(index), index[picked.here])
    assert marked.eq(1).all()
    assert torch.equal(found, states[index])


def test_what_is_whole_already_stays_as_it_is() -> None:
    states, values = torch.ones(3, 2), torch.arange(3)
    picked = Picked(states)
    assert picked.mine(values) is values
    assert picked.whole(values) is values


def test_what_a_config_tells_of_sharing_rows() -> None:
    check_config("m", LlamaConfig(hidden_size=48, num_attention_heads=6), 3)
    with pytest.raises(UserError, match="m: ds.sequence_parallel_size is 4 and the model has 6"):
        check_config("m", LlamaConfig(hidden_size=48, num_attention_heads=6), 4)
    with pytest.raises(UserError, match="is 2 and this is an encoder-decoder model"):
        check_config("m", T5Config(num_heads=4), 2)
