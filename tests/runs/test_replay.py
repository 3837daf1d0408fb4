"""Responses and rewards of a run, taken again by the run that goes on with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from local_group import EOS, BigramEngine, bigram, engines
from sampled import values

from rto.cluster.generator import EngineGenerator
from rto.overlap import cut
from rto.rollout.requests import Sampling
from rto.runs.replay import KeptRewards, ReplayedGenerator
from rto.tracking.journal import Journal
from rto.types import Prompt, Rollout, logprob_array, token_array

PROMPTS = [Prompt(i, (0, i % 5), f"p{i}", label=None if i else "l") for i in range(4)]


def silent(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal", first=0, tell=silent) as journal:
        yield journal


def replaying(journal: Journal, engine: BigramEngine, **changes: Any) -> ReplayedGenerator:
    of_engine = {
        "samples_per_prompt": 2,
        "run_seed": 4,
        "sampling": Sampling(6),
        "sleep_after": False,
    }
    inner = {name: changes.pop(name, given) for name, given in of_engine.items()}
    common: dict[str, Any] = {
        "weights": lambda: "w",
        "settings": ["vllm", "fp32", 16],
        "checkpoints": list,
    }
    return ReplayedGenerator(
        EngineGenerator(engines(engine), **inner), journal, **{**common, **changes}
    )


def draw(
    generator: ReplayedGenerator,
    prompts: Sequence[Prompt] = PROMPTS,
    *,
    parts: int = 2,
    version: int = 7,
    iteration: int = 7,
) -> list[Rollout]:
    found = generator.generate(cut(prompts, parts), version, iteration)
    return [rollout for part in found for rollout in part]


def asked(engine: BigramEngine) -> list[int]:
    """How many responses, in each call."""
    return [note[1] for note in engine.notes if note[0] == "generate"]


def test_what_was_sampled_is_not_sampled_again(journal: Journal) -> None:
    first, second = BigramEngine(bigram()), BigramEngine(bigram(1))
    drawn = draw(replaying(journal, first))
    again = draw(replaying(journal, second))
    assert values(again) == values(drawn)
    assert (asked(first), asked(second)) == ([8], [0])


def test_a_part_that_is_missing_is_sampled(journal: Journal) -> None:
    first, second = BigramEngine(bigram()), BigramEngine(bigram())
    parts = replaying(journal, first).generate(cut(PROMPTS, 3), 7, 7)
    kept = [next(parts), next(parts)]
    again = draw(replaying(journal, second), parts=3)
    assert values(again[:4]) == values([rollout for part in kept for rollout in part])
    assert values(again) == values(draw(replaying(journal, BigramEngine(bigram())), parts=1))
    assert asked(second) == [4]


def test_where_a_batch_decides_the_last_bits_a_draw_is_kept_as_a_whole(journal: Journal) -> None:
    engine = BigramEngine(bigram())
    next(replaying(journal, engine).generate(cut(PROMPTS, 2), 7, 7))
    for expected in ([8], [8, 0]):
        draw(replaying(journal, engine, whole=True))
        assert asked(engine)[1:] == expected


ANOTHER_PROMPT = [*PROMPTS[:3], replace(PROMPTS[3], token_ids=(0, 4))]
ANOTHER_LABEL = [replace(PROMPTS[0], label="m"), *PROMPTS[1:]]


@pytest.mark.parametrize(
    ("changes", "call"),
    [
        ({"weights": lambda: "v"}, {}),
        ({"sampling": Sampling(6, 0.5)}, {}),
        ({"sampling": Sampling(6, stop_token_ids=(EOS,))}, {}),
        ({"settings": ["transformers", "fp32", 16]}, {}),
        ({"run_seed": 5}, {}),
        ({"samples_per_prompt": 3}, {}),
        ({}, {"iteration": 8}),
        ({}, {"version": 8}),
        ({}, {"prompts": ANOTHER_PROMPT, "parts": 1}),
        ({}, {"prompts": ANOTHER_LABEL, "parts": 1}),
    ],
)
def test_responses_of_anything_else_are_not_used(
    journal: Journal, changes: dict[str, Any], call: dict[str, Any]
) -> None:
    """Other weights, above all: a run that goes on with others never trains on these."""
    draw(replaying(journal, BigramEngine(bigram())), parts=call.get("parts", 2))
    other = BigramEngine(bigram(1))
    draw(replaying(journal, other, **changes), **call)
    assert asked(other) == [4 * changes.get("samples_per_prompt", 2)]


def test_engines_that_share_their_gpus_sleep_though_they_sampled_nothing(journal: Journal) -> None:
    draw(replaying(journal, BigramEngine(bigram())))
    engine = BigramEngine(bigram())
    parts = replaying(journal, engine, sleep_after=True).generate(cut(PROMPTS, 2), 7, 7)
    next(parts)
    assert engine.notes[-1] == ("sleep",)


def test_the_files_follow_the_checkpoints(journal: Journal, tmp_path: Path) -> None:
    steps = list[int]()
    generator = replaying(journal, BigramEngine(bigram()), checkpoints=lambda: steps)
    for iteration, step in ((0, 1), (2, 3), (4, 5)):
        draw(generator, iteration=iteration)
        steps.append(step)
    journal.flush()
    assert sorted(path.stem for path in (tmp_path / "journal").iterdir()) == [
        "00000002",
        "00000004",
    ]


@dataclass
class Source:
    calls: list[int] = field(default_factory=list)

    def __call__(self, kept: KeptRewards, name: str, rollouts: Sequence[Rollout]) -> list[float]:
        """As the scorer asks."""
        rewards = kept.recall(name, rollouts)
        if rewards is None:
            self.calls.append(len(rollouts))
            rewards = [1 / (3 + r.sample_index + r.prompt.id) for r in rollouts]
            kept.keep(name, rollouts, rewards)
        return rewards


def responses(**changes: Any) -> list[Rollout]:
    (first, *others) = [
        Rollout(
            prompt, k, token_array([k, EOS]), logprob_array([-1.0, -2.0]), f"r{k}", True, 3, 10 + k
        )
        for prompt in PROMPTS[:2]
        for k in range(2)
    ]
    return [replace(first, **changes), *others]


def test_a_source_is_asked_once_about_the_same_responses(journal: Journal) -> None:
    kept, source = KeptRewards(journal, []), Source()
    first = source(kept, "f", responses())
    assert source(kept, "f", responses()) == first
    assert source.calls == [4]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 11},
        {"text": "other"},
        {"token_ids": token_array([1, EOS])},
        {"finished": False},
        {"prompt": replace(PROMPTS[0], label="m")},
        {"prompt": replace(PROMPTS[0], text="q")},
    ],
)
def test_a_reward_is_of_the_response_that_it_was_given_for(
    journal: Journal, changes: dict[str, Any]
) -> None:
    kept, source = KeptRewards(journal, []), Source()
    source(kept, "f", responses())
    source(kept, "f", responses(**changes))
    assert source.calls == [4, 4]


def test_sources_are_told_apart(journal: Journal) -> None:
    source = Source()
    for name, settings in (("f", []), ("g", []), ("f", [["http://h?model=a"]])):
        source(KeptRewards(journal, settings), name, responses())
    assert source.calls == [4, 4, 4]


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_a_reward_that_is_none_is_not_kept(journal: Journal, bad: float | None) -> None:
    kept = KeptRewards(journal, [])
    kept.keep("f", responses(), [1.0, bad, 0.0, 0.0])
    assert kept.recall("f", responses()) is None
