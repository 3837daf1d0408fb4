"""Held-out rows of an offline stage: when they are judged, by what, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from stored import stored
from token_rows import token_batch

from rto.data.examples import Example
from rto.errors import UserError
from rto.runs.held_out import HeldOut, add_reward_constants, best_held_out, held_out_metrics
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt, Eval
from rto.tracking.timing import Timings
from rto.types import Role, ScoredBatch

ROWS = stored([(Example((1,), (2,), True),), (Example((3,), (2,), True),)])
SEVERAL = stored([(Example((1,), (2,), True), Example((1,), (4,), True))])
NONE = ROWS.select([])


def judged(steps: range, *, every: int, last_step: int = 7) -> tuple[HeldOut, list[int]]:
    """Which steps were judged; judgement n says that the accuracy is n."""
    count = iter(range(100))
    held = HeldOut(lambda: {"eval/accuracy": float(next(count))}, every, last_step, Timings())
    return held, [step for step in steps if held.after(step)]


@pytest.mark.parametrize(("every", "expected"), [(3, [2, 5, 6]), (-1, [6]), (1, list(range(7)))])
def test_held_out_rows_are_judged_when_due_and_after_the_last_step(
    every: int, expected: list[int]
) -> None:
    held, found = judged(range(7), every=every)
    assert found == expected
    assert held.final() == {"eval/accuracy": len(expected) - 1}


def test_a_run_without_a_step_left_is_judged_all_the_same() -> None:
    held, found = judged(range(0), every=2)
    assert (found, held.final()) == ([], {"eval/accuracy": 0.0})


def test_nothing_held_out_is_never_judged() -> None:
    held = HeldOut(None, 1, 1, Timings())
    assert (held.after(0), held.final()) == ({}, {})


def test_evaluation_has_a_time_of_its_own() -> None:
    timings = Timings()
    HeldOut(lambda: {"eval/x": 1.0}, 2, 9, timings).after(0)
    assert "time/evaluate" not in timings.lap()
    HeldOut(lambda: {"eval/x": 1.0}, 2, 9, timings).after(1)
    assert "time/evaluate" in timings.lap()


def test_figures_of_pairs_by_hand() -> None:
    """Log-ratios: chosen -1 + 2 = 1, rejected -3 + 1 = -2; chosen -2 + 0 = -2, rejected -1 + 1 = 0.
    One pair of two is right; margins 3 and -2; nll 7 over 5 tokens."""
    tokens = token_batch([[1]] * 4, [[5], [5, 2], [5], [2]], groups=[0, 0, 1, 1])
    policy = torch.tensor([[-1.0, 99], [-2, -1], [-2, 99], [-1, 99]])
    reference = torch.tensor([[-2.0, 99], [-1, 0], [0, 99], [-1, 99]])
    scored = ScoredBatch(tokens, {Role.POLICY: policy, Role.REFERENCE: reference})
    assert held_out_metrics("policy", "pairs", scored) == pytest.approx(
        {
            "eval/nll_per_token": 7 / 5,
            "eval/log_ratio": (1 - 2 - 2 + 0) / 4,
            "eval/accuracy": 0.5,
            "eval/margin": 0.5,
        }
    )


def test_figures_of_a_reward_model_by_hand() -> None:
    tokens = token_batch([[1]] * 4, [[2]] * 4, groups=[0, 0, 1, 1])
    scored = ScoredBatch(tokens, {Role.POLICY: torch.tensor([3.0, 1.0, 0.0, 0.0])})
    assert held_out_metrics("score", "pairs", scored) == pytest.approx(
        {"eval/accuracy": 0.5, "eval/mean": 1.0, "eval/std": math.sqrt((4 + 0 + 1 + 1) / 4)}
    )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([0, 0, 1, 1], {"eval/row_correlation": -0.6, "eval/reward_correlation": 1.0}),
        ([0, 1, 2, 3], {"eval/row_correlation": -0.6}),
    ],
)
def test_correlation_with_the_reward_within_prompts_and_over_all(
    groups: list[int], expected: dict[str, float]
) -> None:
    """x = -1, -2, -3, -4 and y = 2, 1, 4, 3 less a prompt's mean are equal: correlation 1. Over
    all, with x centred 1.5 .5 -.5 -1.5 and y -.5 -1.5 1.5 .5: (-.75 -.75 -.75 -.75) / 5 = -0.6."""
    tokens = token_batch([[1]] * 4, [[2]] * 4, groups=groups)
    policy = torch.tensor([[-1.0], [-2], [-3], [-4]])
    scored = ScoredBatch(tokens, {Role.POLICY: policy, Role.REWARD: torch.tensor([2.0, 1, 4, 3])})
    found = held_out_metrics("policy", "rewards", scored)
    assert {k: v for k, v in found.items() if "corr" in k} == pytest.approx(expected)


def config(**changes: object) -> RunConfig:
    ckpt = {"best_metric_key": changes.pop("key")} if "key" in changes else {}
    return RunConfig(eval=Eval(**changes), ckpt=Ckpt(**ckpt))  # pyright: ignore


@pytest.mark.parametrize(
    ("kind", "feedback", "rows", "expected"),
    [
        ("score", "pairs", SEVERAL, "eval/accuracy"),
        ("policy", "pairs", SEVERAL, "eval/accuracy"),
        ("policy", "demonstrations", ROWS, "eval/nll_per_token"),
        ("policy", "rewards", SEVERAL, "eval/reward_correlation"),
        ("policy", "rewards", ROWS, "eval/row_correlation"),
    ],
)
def test_each_stage_has_its_own_criterion(kind, feedback, rows, expected: str) -> None:
    assert best_held_out(kind, feedback, rows, config(steps=2)) == expected
    assert best_held_out(kind, feedback, rows, config()) == ""


@pytest.mark.parametrize(
    ("changes", "rows", "said"),
    [
        ({"steps": 2}, NONE, "eval.steps is 2 and no row is held out"),
        ({"steps": 2, "key": "eval/acuracy"}, ROWS, "'eval/acuracy': did you mean eval/accuracy"),
        ({"steps": 2, "key": "eval/zzz"}, ROWS, "one of eval/accuracy, eval/margin"),
        ({"key": "eval/margin"}, ROWS, "measured every eval.steps: set that"),
        ({"steps": 2, "patience": 1, "key": "dpo/x"}, ROWS, "eval.patience counts evaluations"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes, rows, said: str) -> None:
    with pytest.raises(UserError, match=said):
        best_held_out("policy", "pairs", rows, config(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, r"eval\.steps is 0"),
        ({"steps": -2}, r"eval\.steps is -2"),
        ({"steps": 1, "patience": 0}, r"eval\.patience is 0"),
        ({"patience": 3}, r"eval\.patience is 3 and eval\.steps is not set"),
    ],
)
def test_settings_have_a_range(changes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        RunConfig(eval=Eval(**changes))


def test_an_exported_reward_model_gets_its_constants(tiny_reward_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text((tiny_reward_dir / "config.json").read_text())
    add_reward_constants(tmp_path, {"sft/loss": 1.0})
    assert json.loads(path.read_text()).get("mean") != 0.25
    add_reward_constants(tmp_path, {"eval/mean": 0.25, "eval/std": 2.0})
    found = json.loads(path.read_text())
    assert (found["mean"], found["std"]) == (0.25, 2.0)


@pytest.mark.parametrize("kind", ["policy", "score"])
def test_a_tie_is_no_preference(kind) -> None:
    tokens = token_batch([[1]] * 2, [[2]] * 2, groups=[0, 0])
    equal = torch.full((2,) if kind == "score" else (2, 1), -1.0)
    scored = ScoredBatch(tokens, {Role.POLICY: equal})
    assert held_out_metrics(kind, "pairs", scored)["eval/accuracy"] == 0.0
