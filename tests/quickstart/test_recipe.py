"""What the quickstart says before it starts and behind its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rto.evaluation.statistics import Mean
from rto.quickstart import recipe, run
from rto.quickstart.stages import PolicyRow


def row(kl: float) -> PolicyRow:
    return PolicyRow(gold_reward=Mean(1.0, (0.9, 1.1)), reward=0.5, kl=kl, length=20.0)


ROWS = {"sft": row(0.0), "dpo": row(12.6), "ppo": row(9.0), "rto": row(17.8)}
STEPS = {"sft": 400, "dpo": 150, "ppo": 64, "rto": 64}


def test_it_says_what_it_will_do_how_long_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    recipe.announce(tmp_path / "runs")
    said = capsys.readouterr().out
    for stage, makes in recipe.MAKES.items():
        assert any(stage in line and makes in line for line in said.splitlines()), stage
    assert "5 to 11 minutes on two cores" in said.replace("\n", " ")
    assert str(tmp_path / "runs") in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("sft", "400 steps of 32 demonstrations"),
        # 8000 pairs less the 5% held out are 7600: 237 whole batches, one epoch.
        ("reward", "237 steps of 32 pairs"),
        ("dpo", "150 steps of 32 pairs"),
        # 128 responses in batches of 64, twice: 4 steps for each of 16 iterations.
        ("rto", "64 steps: 16 iterations of 128 sampled responses"),
    ],
)
def test_the_work_of_a_stage(stage: str, expected: str) -> None:
    assert recipe.work(stage, recipe.stage_config(stage, Path("x"))) == expected


@pytest.mark.parametrize(("stage", "expected"), [("dpo", 3), ("ppo", 12)])
def test_an_iteration_of_online_training_is_several_steps(
    tmp_path: Path, stage: str, expected: int
) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 3)
    assert recipe.made_steps(stage, tmp_path) == expected


def test_the_sentence_names_who_moved_farthest_and_every_policys_steps() -> None:
    said = recipe.how_to_read(ROWS, STEPS)
    assert "one seed, which does not order the methods" in said
    assert "RTO moved farthest" in said
    assert "(KL: DPO 12.6 nats in 150 steps, PPO 9.000 nats in 64 steps, RTO 17.8 nats" in said
    assert "SFT 0" not in said
    assert "DPO moved farthest" in recipe.how_to_read({**ROWS, "dpo": row(20.0)}, STEPS)


def test_the_table_is_followed_by_each_difference_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for name in ROWS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("{}\n")
    gains = {
        "sft": Mean(1.161, (1.054, 1.259)),
        "ppo": Mean(0.4, (0.3, 0.5)),
        "dpo": Mean(-0.244, (-0.5, 0.1)),
    }
    recipe.report(ROWS, gains, dict.fromkeys(recipe.STAGES, 50.0), 300.0, tmp_path)
    said = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in said.splitlines() if "│ RTO -" in line}
    assert list(lines) == ["RTO - SFT", "RTO - PPO", "RTO - DPO"]
    assert "[+1.054, +1.259]" in lines["RTO - SFT"]
    assert "no" in lines["RTO - SFT"]
    assert "-0.244" in lines["RTO - DPO"]
    assert "yes" in lines["RTO - DPO"]
    assert said.index("RTO - DPO") > said.index("KL to SFT")


def test_a_difference_is_paired_by_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts differ by 100, the policies by exactly 1 on each: the interval has no width."""
    gold = {"rto": np.array([1.0, 101.0, 201.0]), "dpo": np.array([0.0, 100.0, 200.0])}
    monkeypatch.setattr(run, "gold_by_prompt", lambda name: gold[name])
    found = run.paired_gain("rto", "dpo")  # pyright: ignore[reportArgumentType]
    assert found == Mean(1.0, (1.0, 1.0))
