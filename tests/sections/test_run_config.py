"""Rules across sections."""

from __future__ import annotations

from typing import Any

import pytest

from rto.errors import UserError
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed, Lora
from rto.sections.training import Actor, Critic, DPOModel, Frozen, Reward, RolloutSection, Train


def online(**sections: Any) -> RunConfig:
    """A configuration that every online rule accepts, but for ``sections``."""
    complete: dict[str, Any] = {
        "actor": Actor(model_name_or_path="policy", num_gpus_per_node=2),
        "reward": Reward(model_name_or_path=["reward"]),
        "dpo": DPOModel("dpo"),
        "data": Data(prompt_dataset=["prompts.jsonl"], max_len=100),
        "rollout": RolloutSection(batch_size=32, max_new_tokens=60),
        "train": Train(batch_size=16),
    }
    return RunConfig(**{**complete, **sections})


def test_a_complete_configuration_passes() -> None:
    online().check_online(needs_critic=True, needs_dpo=True)


def test_the_batch_divides_over_the_ranks() -> None:
    with pytest.raises(UserError, match="train.batch_size 15 does not divide over 2 ranks"):
        online(train=Train(batch_size=15))


def test_ranks_that_share_rows_are_one_part_of_the_batch() -> None:
    """Four ranks, two and two."""
    actor = Actor(model_name_or_path="policy", num_gpus_per_node=4)
    two = DeepSpeed(sequence_parallel_size=2)
    online(actor=actor, ds=two, train=Train(batch_size=2)).check_online(
        needs_critic=True, needs_dpo=True
    )
    with pytest.raises(UserError, match="15 does not divide over 2 groups of 2 ranks: use a"):
        online(actor=actor, ds=two, train=Train(batch_size=15))
    with pytest.raises(
        UserError,
        match="ds.sequence_parallel_size is 3 and actor.num_nodes x actor.num_gpus_per_node is 4 "
        "ranks, of which 3 share rows: use a multiple of 3",
    ):
        online(actor=actor, ds=DeepSpeed(sequence_parallel_size=3))


def test_a_quantised_base_needs_adapters() -> None:
    with pytest.raises(UserError, match="set ds.lora.rank to 8 or more"):
        RunConfig(ds=DeepSpeed(load_in_4bit=True))
    RunConfig(ds=DeepSpeed(load_in_4bit=True, lora=Lora(rank=8)))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"actor": Actor()}, "actor.model_name_or_path is not set"),
        (
            {"train": Train(batch_size=24)},
            "= 32 sequences do not divide into optimizer steps of train.batch_size 24",
        ),
        (
            {"rollout": RolloutSection(batch_size=8, n_samples_per_prompt=6, max_new_tokens=60)},
            "train.batch_size 16 does not hold whole groups of 6 on each of 2 ranks",
        ),
        ({"data": Data(max_len=100)}, "no prompts: set data.prompt_dataset"),
        ({"reward": Reward()}, "no reward source"),
        (
            {"rollout": RolloutSection(batch_size=32, max_new_tokens=100)},
            "rollout.max_new_tokens 100 leaves no room for a prompt in data.max_len 100",
        ),
        ({"dpo": DPOModel()}, "needs a DPO policy: set dpo.model_name_or_path"),
    ],
)
def test_online_rules(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        online(**sections).check_online(needs_critic=True, needs_dpo=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_is_asked_only_for_what_it_reads() -> None:
    online(dpo=DPOModel()).check_online(needs_critic=True, needs_dpo=False)


def test_feedback_and_a_function_are_enough() -> None:
    config = online(data=Data(feedback="f.jsonl"), reward=Reward(func_path="f.py"))
    config.check_online(needs_critic=True, needs_dpo=True)


def test_the_reference_is_the_starting_point_unless_named() -> None:
    assert online().reference_path == "policy"
    assert online(ref=Frozen(model_name_or_path="base")).reference_path == "base"


def test_the_critic_starts_from_the_first_reward_model() -> None:
    assert online().critic_path == "reward"
    assert online(reward=Reward(func_path="f.py")).critic_path == "policy"
    assert online(critic=Critic(model_name_or_path="critic")).critic_path == "critic"


def test_half_of_the_length_is_the_response_unless_told() -> None:
    assert (online().max_new_tokens, online().max_prompt_len) == (60, 40)
    halves = online(rollout=RolloutSection(batch_size=32), data=Data(max_len=101))
    assert (halves.max_new_tokens, halves.max_prompt_len) == (50, 51)


def test_a_limit_of_its_own_for_prompts() -> None:
    """Of 100 tokens: 30 for the prompt leave 70; told 20, the response has no more."""
    data = Data(prompt_dataset=["p.jsonl"], max_len=100, max_prompt_len=30)
    rest = online(data=data, rollout=RolloutSection(batch_size=32))
    assert (rest.max_new_tokens, rest.max_prompt_len) == (70, 30)
    told = online(data=data, rollout=RolloutSection(batch_size=32, max_new_tokens=20))
    assert (told.max_new_tokens, told.max_prompt_len) == (20, 30)
    told = online(data=data, rollout=RolloutSection(batch_size=32, max_new_tokens=90))
    assert (told.max_new_tokens, told.max_prompt_len) == (90, 10)
    for wrong in (0, 100):
        with pytest.raises(UserError, match=f"data.max_prompt_len is {wrong}"):
            RunConfig(data=Data(max_len=100, max_prompt_len=wrong))


def test_sequences_and_ranks_multiply() -> None:
    assert RolloutSection(batch_size=4, n_samples_per_prompt=3).num_sequences == 12
    assert Actor(num_nodes=2, num_gpus_per_node=8).num_ranks == 16
