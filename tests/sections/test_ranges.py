"""Every setting of every section has a type and a range, whoever sets it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from rpo_ext.settings import KTOSettings
from rto.errors import UserError
from rto.methods.settings.policy_gradient import PPOSettings
from rto.sections.data import Data
from rto.sections.methods import Algo, installed
from rto.sections.ranges import Range, bare, check_value, choices, hints, options, show
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed, Lora, WandB
from rto.sections.training import Actor, Adam, Reward, RolloutSection, Train

NOT_FINITE = [float("nan"), float("inf"), float("-inf"), 1e39, -1e39, 10**5000]


def leaves(section: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of each setting below a section."""
    for name, hint in hints(section).items():
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield prefix + name, hint


SETTINGS = dict(leaves(RunConfig)) | {
    f"algo.{method}.{name}": hint
    for method, settings in installed().methods.items()
    for name, hint in hints(type(settings)).items()
}


def changed(tree: Any, name: str, value: Any) -> Any:
    """The tree with one setting replaced, as a Python program would."""
    head, _, rest = name.partition(".")
    if isinstance(tree, Algo) and rest:
        settings = changed(installed().methods[head], rest, value)
        return Algo(head, settings)
    inner = changed(getattr(tree, head), rest, value) if rest else value
    return dataclasses.replace(tree, **{head: inner})


def refused(name: str, value: Any) -> str:
    with pytest.raises(UserError) as caught:
        changed(RunConfig(), name, value)
    text = str(caught.value)
    assert text.startswith(f"{name} is ")
    assert "\n" not in text
    assert len(text) < 250
    return text


def numbers(hint: Any) -> Iterator[tuple[Any, int]]:
    """The number types of a setting with their ranges; 2 for both of a pair, 0 in a list."""
    for option in options(hint):
        base, _ = bare(option)
        if base in (int, float):
            yield option, 1
        elif typing.get_origin(base) in (list, tuple):
            size = len(typing.get_args(base)) if typing.get_origin(base) is tuple else 0
            for item in typing.get_args(base):
                yield from ((found, size) for found, _ in numbers(item))


NUMERIC = {name: list(numbers(hint)) for name, hint in SETTINGS.items() if list(numbers(hint))}


def test_there_are_as_many_numbers_as_expected() -> None:
    """The walk sees lists, pairs and members of unions."""
    assert len(NUMERIC) > 80
    assert {"reward.weights", "actor.adam.betas", "algo.grpo.dual_clip"} < set(NUMERIC)


@pytest.mark.parametrize("name", NUMERIC)
def test_a_number_has_a_range_and_refuses_what_is_outside(name: str) -> None:
    for hint, size in NUMERIC[name]:
        kind, limits = bare(hint)
        assert isinstance(limits, Range), f"{name}: declare its range with rto.sections.ranges"
        outside = [x for x in NOT_FINITE if kind is float or isinstance(x, int)]
        outside += [limits.least - 1] if limits.least is not None else []
        outside += [limits.most + 1] if limits.most is not None else []
        outside += [x for x in (limits.above, limits.below) if x is not None]
        for value in outside:
            refused(name, [value] * size if size > 1 else value if size else [value])


ANYTHING = ["no such value", "", "1", {"a": [1]}, object(), [[1]], None, True]


@pytest.mark.parametrize("value", ANYTHING, ids=range(len(ANYTHING)))
def test_another_type_is_refused(value: Any) -> None:
    for name, hint in SETTINGS.items():
        plain = [bare(option)[0] for option in options(hint)]
        if type(value) not in plain:
            refused(name, value)


def test_a_text_is_not_empty_and_holds_no_nul() -> None:
    texts = [name for name, hint in SETTINGS.items() if hint is str]
    assert len(texts) > 5
    for name in texts:
        assert "must be a text that is not empty" in refused(name, "")
        refused(name, "a\0b")


def test_a_choice_is_among_those_that_exist() -> None:
    for name, hint in SETTINGS.items():
        assert not choices(hint) or all(x in refused(name, "zzz") for x in choices(hint))
    assert "did you mean sdpa?" in refused("ds.attn_implementation", "spda")
    assert "did you mean kl_target_policy?" in refused(
        "algo.reward_aware.distance", "kl_target_polic"
    )
    assert refused("ds.zero_stage", True) == "ds.zero_stage is true: must be 0, 1, 2 or 3"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rollout.batch_size", -1, "must be 1 or more"),
        ("rollout.batch_size", 1.5, "must be a whole number, 1 or more"),
        ("rollout.batch_size", None, "rollout.batch_size is null: must be a whole number, 1 or"),
        ("rollout.batch_size", 2**63, "must be less than 2^63"),
        ("actor.adam.lr", "abc", "actor.adam.lr is 'abc': must be a number above 0 and at most 1"),
        ("actor.adam.lr", float("nan"), "is nan: must be a number above 0"),
        ("critic.adam.lr", 0, "critic.adam.lr is 0: must be above 0 and at most 1"),
        ("algo.ppo.kl_coef", float("inf"), "is inf: must be less than 3.4e+38"),
        ("train.max_steps", "x", "must be a whole number, 1 or more; or null"),
        ("ckpt.save_steps", 0, "ckpt.save_steps is 0: must be -1, or 1 or more"),
        ("actor.adam.betas", (0.9,), "must be 2 numbers, each at least 0 and below 1"),
        ("actor.adam.betas", (0.9, 1.0), "is (0.9, 1.0): must be 2 numbers, each at least 0"),
        ("actor.adam.betas", 0.9, "must be 2 numbers"),
        ("reward.weights", ["a"], "must be a list of numbers; or null"),
        ("data.dataset", "a.jsonl", "data.dataset is 'a.jsonl': must be a list of texts"),
        ("data.dataset", [None], "must be a list of texts"),
        ("ds.adam_offload", "yes", "ds.adam_offload is 'yes': must be true or false"),
        ("algo", 3, "algo is 3: must be a section"),
    ],
)
def test_what_a_refusal_says(name: str, value: Any, said: str) -> None:
    assert said in refused(name, value)


def test_the_borders_belong_to_their_ranges() -> None:
    RunConfig(
        actor=Actor(adam=Adam(lr=1, betas=(0, 0), weight_decay=0), max_norm=0),
        algo=Algo("ppo", PPOSettings(eps_clip_low_high=(0.1, 7.0))),
        rollout=RolloutSection(top_p=1.0, max_new_tokens=None),
        train=Train(seed=2**32 - 1),
        ds=DeepSpeed(lora=Lora(rank=0, dropout=0.0)),
    )


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("reward", Reward(func_path="r.py", weights=[1, 2]), "reward.weights has 2 entries for 1"),
        (
            "algo",
            Algo("ppo", PPOSettings(reward_clip_range=(1, 1))),
            "algo.ppo.reward_clip_range is 1, 1: the first must be lower",
        ),
        (
            "algo",
            Algo("ppo", PPOSettings(is_correction_threshold=(5, 1))),
            "algo.ppo.is_correction_threshold is 5, 1: the first must be lower",
        ),
        (
            "algo",
            Algo("kto", KTOSettings(desirable_weight=0, undesirable_weight=0)),
            "algo.kto.desirable_weight and undesirable_weight are 0: nothing to learn",
        ),
        ("data", Data(dataset=["a"], dataset_probs=[0.0]), "data.dataset_probs are all 0"),
    ],
)
def test_fields_that_do_not_go_together(section: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        RunConfig(**{section: value})


def test_a_value_is_shown_on_one_short_line() -> None:
    circular: list[Any] = []
    circular.append(circular)
    doubled: Any = ["x"]
    for _ in range(40):
        doubled = [doubled, doubled]
    for value in (circular, doubled, "a" * 10**6, 10**5000, {"a": {"b": {"c": {"d": 1}}}}):
        assert len(show(value)) < 200
    assert show("a\nb") == "'a\\nb'"


def test_a_range_on_a_union_is_a_mistake_of_the_declaration() -> None:
    with pytest.raises(TypeError, match="on the member of the union"):
        check_value("x", typing.Annotated[int | None, Range()], 1)
    check_value("x", Literal["a"] | None, None)
    assert WandB().group is None
