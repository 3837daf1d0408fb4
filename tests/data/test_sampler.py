from __future__ import annotations

import pytest

from rto.data.sampler import PromptSampler, permutation
from rto.errors import UserError
from rto.types import Prompt

PROMPTS = [Prompt(id=i, token_ids=(1, i), text=str(i)) for i in range(10)]


def ids(sampler: PromptSampler, iteration: int) -> list[int]:
    return [prompt.id for prompt in sampler.draw(iteration)]


def test_a_draw_depends_on_seed_and_iteration_alone() -> None:
    forward = PromptSampler(PROMPTS, batch_size=3, seed=7)
    in_order = [ids(forward, i) for i in range(12)]
    backward = PromptSampler(PROMPTS, batch_size=3, seed=7)
    assert [ids(backward, i) for i in reversed(range(12))] == in_order[::-1]
    other = PromptSampler(PROMPTS, batch_size=3, seed=8)
    assert [ids(other, i) for i in range(12)] != in_order


def test_an_epoch_has_distinct_prompts_and_the_next_another_order() -> None:
    sampler = PromptSampler(PROMPTS, batch_size=3, seed=0)
    assert sampler.iterations_per_epoch == 3
    first = [x for i in range(3) for x in ids(sampler, i)]
    second = [x for i in range(3, 6) for x in ids(sampler, i)]
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_permutation_is_one() -> None:
    assert sorted(permutation(50, seed=1, epoch=2)) == list(range(50))
    assert (permutation(50, seed=1, epoch=2) != permutation(50, seed=2, epoch=1)).any()


def test_too_few_prompts() -> None:
    with pytest.raises(UserError, match="rollout.batch_size is 11, but there are 10 prompts"):
        PromptSampler(PROMPTS, batch_size=11, seed=0)


@pytest.mark.parametrize("iterations", [0, 1, 3, 4, 7, 40])
def test_drawn_prompts_are_counted_once(iterations: int) -> None:
    sampler = PromptSampler(PROMPTS, batch_size=3, seed=5)
    drawn = {x for i in range(iterations) for x in ids(sampler, i)}
    assert sampler.num_drawn(iterations) == len(drawn)
