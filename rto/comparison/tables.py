"""Several methods side by side: their table, their plot, their figures as JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rto.evaluation.statistics import Mean, bootstrap_runs, difference, win_rate

MARKERS = "osD^v"


@dataclass(frozen=True)
class Judged:
    """One run's answers: rewards [prompts, samples], and what they and the run cost."""

    rewards: np.ndarray
    kl: float
    length: float
    seconds: float = 0.0
    tokens_trained: float = 0.0
    tokens_sampled: float = 0.0


@dataclass(frozen=True)
class ComparedRow:
    """One method over its seeds, against the policy that it started from."""

    start: float
    reward: float
    gain: Mean
    win_rate: Mean
    kl: float
    length: float
    seconds: float
    tokens_trained: float
    tokens_sampled: float
    num_seeds: int


def summarise(runs: Sequence[Judged], start: Judged) -> ComparedRow:
    """Means over the runs of one method; all answered the same prompts as ``start``."""
    rewards = np.stack([run.rewards.mean(-1) for run in runs])
    wins = np.stack([win_rate(run.rewards, start.rewards) for run in runs])

    def mean(name: str) -> float:
        return float(np.mean([getattr(run, name) for run in runs]))

    return ComparedRow(
        start=float(start.rewards.mean()),
        reward=float(rewards.mean()),
        gain=bootstrap_runs(rewards - start.rewards.mean(-1)),
        win_rate=bootstrap_runs(wins),
        kl=mean("kl"),
        length=mean("length"),
        seconds=mean("seconds"),
        tokens_trained=mean("tokens_trained"),
        tokens_sampled=mean("tokens_sampled"),
        num_seeds=len(runs),
    )


def differences(methods: Mapping[str, Sequence[Judged]]) -> dict[str, Mean]:
    """ "a - b" -> the reward of a minus that of b, for every two methods."""
    rewards = {name: np.stack([r.rewards.mean(-1) for r in runs]) for name, runs in methods.items()}
    return {
        f"{a} - {b}": difference(rewards[a], rewards[b])
        for a, b in itertools.combinations(methods, 2)
    }


def table_rows(rows: Mapping[str, ComparedRow]) -> list[dict[str, str]]:
    return [
        {
            "method": name,
            "reward": f"{row.reward:.3f}",
            "gain over start": str(row.gain),
            "win rate": f"{row.win_rate.mean:.1%}"
            f" [{row.win_rate.ci95[0]:.1%}, {row.win_rate.ci95[1]:.1%}]",
            "KL": f"{row.kl:.2f}",
            "length": f"{row.length:.1f}",
            "seconds": f"{row.seconds:.0f}",
            "trained tok": f"{row.tokens_trained:,.0f}",
            "sampled tok": f"{row.tokens_sampled:,.0f}",
        }
        for name, row in rows.items()
    ]


def markdown(rows: Mapping[str, ComparedRow], *, lines: Sequence[str]) -> str:
    """The table as Markdown under the given lines."""
    cells = table_rows(rows)
    head = list(cells[0])
    body = [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(cell.values()) + " |" for cell in cells),
    ]
    return "\n".join([*lines, "", *body]) + "\n"


def write_json(
    path: Path, rows: Mapping[str, ComparedRow], gaps: Mapping[str, Mean], about: Mapping[str, Any]
) -> None:
    content = {
        **about,
        "methods": {name: asdict(row) for name, row in rows.items()},
        "differences": {
            name: {**asdict(gap), "significant": gap.significant} for name, gap in gaps.items()
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def plot(path: Path, methods: Mapping[str, Sequence[Judged]], start: Judged) -> None:
    """Reward against KL to the reference: a point per run, a large one per method with the 95%
    interval of its gain over the start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colours = pyplot.colormaps["tab10"]
    level = float(start.rewards.mean())
    axes.axhline(level, color="grey", linewidth=1, linestyle=":")
    axes.scatter(start.kl, level, color="black", s=40)
    axes.annotate("start", (start.kl, level), xytext=(6, 4), textcoords="offset points")
    for i, (name, runs) in enumerate(methods.items()):
        x = np.array([run.kl for run in runs])
        y = np.array([run.rewards.mean() for run in runs])
        colour, marker = colours(i % 10), MARKERS[i // 10 % len(MARKERS)]
        axes.scatter(x, y, color=colour, s=16, alpha=0.5, marker=marker)
        low, high = level + np.array(summarise(runs, start).gain.ci95)
        # The mean of equal rewards may lie an ulp outside of their interval.
        bar = np.maximum([[y.mean() - low], [high - y.mean()]], 0)
        axes.errorbar(x.mean(), y.mean(), yerr=bar, color=colour, capsize=4, linewidth=1.5)
        axes.scatter(x.mean(), y.mean(), color=colour, marker=marker, s=80, edgecolors="black")
        axes.annotate(name, (x.mean(), y.mean()), xytext=(6, 4), textcoords="offset points")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("KL to the reference (nats per response)")
    axes.set_ylabel("reward")
    title = "small: one run, large: mean of a method's runs; bars: 95% interval of its gain"
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
