"""Every method learns: three seeds each on the quickstart's toy, against where it started.

The table goes to docs/results/. ``make test-learn`` makes the quickstart's models first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rto.comparison.run import ComparisonPlan, compare, entries
from rto.comparison.tables import ComparedRow, markdown
from rto.tracking.run_folder import versions

pytestmark = [pytest.mark.learn, pytest.mark.timeout(4 * 3600)]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
OFFLINE = "sft,dpo,ipo,ipo_sum,rdpo,simpo,tdpo1,tdpo2,rpo,dro,kto,reward_aware"
ONLINE = (
    "ppo,rto,reinforce_pp,reinforce_pp+rto,reinforce_baseline,rloo,grpo,dr_grpo,"
    "rpo:online,dro:online,kto:online,reward_aware:online"
)
FLAGS = ("--config", "examples/configs/quickstart-compare.yaml")
BUDGET = {"offline": 3072, "online": 2048}


@pytest.fixture(scope="module")
def rows() -> Mapping[str, ComparedRow]:
    plan = ComparisonPlan(
        base=FLAGS,
        entries=entries(OFFLINE),
        seeds=3,
        budget=BUDGET["offline"],
        prompts="runs/quickstart/data/eval_prompts.jsonl",
        root=ROOT / "runs" / "learn" / "offline",
        judge="rto/quickstart/reward_func.py",
    )
    online = replace(
        plan,
        entries=entries(ONLINE),
        budget=BUDGET["online"],
        root=ROOT / "runs" / "learn" / "online",
    )
    found = {**compare(plan), **compare(online)}
    write(found)
    return found


def write(rows: Mapping[str, ComparedRow]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, object]] = {}
    for label, row in rows.items():
        algo, _, mode = label.partition(":")
        online = label in ONLINE.split(",")
        results.setdefault(algo, {})[mode or ("online" if online else "offline")] = {
            "start": row.start,
            "end": row.reward,
            "ci95_gain": list(row.gain.ci95),
            "kl": row.kl,
        }
    (RESULTS / "learn.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [
        "# Every method on the quickstart's toy",
        "",
        "This page shows that each method learns; it does not show which one is best. "
        "`make test-learn` writes it. The reward is the gold reward on held-out prompts. Each "
        "method has three seeds, and the interval resamples seeds and prompts. Offline runs train "
        f"on {BUDGET['offline']} stored sequences and online runs on {BUDGET['online']} sampled "
        "ones. All have the settings of `examples/configs/quickstart-compare.yaml`, which were not "
        "tuned for each method.",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in versions().items()) + ".",
    ]
    (RESULTS / "learn.md").write_text(markdown(rows, lines=lines))
    print((RESULTS / "learn.md").read_text())


@pytest.mark.parametrize("label", [*OFFLINE.split(","), *ONLINE.split(",")])
def test_it_beats_the_policy_that_it_started_from(
    rows: Mapping[str, ComparedRow], label: str
) -> None:
    low, _ = rows[label].gain.ci95
    assert low > 0, f"{label}: gain {rows[label].gain}"
