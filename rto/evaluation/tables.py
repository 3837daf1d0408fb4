"""The figures of an evaluation as rows of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rto.evaluation.measured import Measured

if TYPE_CHECKING:
    from rto.evaluation.judge import WinRate
    from rto.evaluation.suite import Figures


def metric_rows(figures: Mapping[str, Figures]) -> list[dict[str, str]]:
    """A row per metric, a column per policy."""
    names = dict.fromkeys(name for each in figures.values() for name in each.metrics)
    return [
        {"metric": _label(name, figures)}
        | {policy: _shown(each.metrics.get(name)) for policy, each in figures.items()}
        for name in names
    ]


def win_rows(win_rates: Mapping[str, WinRate]) -> list[dict[str, str]]:
    """A row per judge."""
    return [
        {
            "judge": judge,
            "win rate": _win(found),
            "prompts": f"{found.num_prompts - found.num_left_out} of {found.num_prompts}",
            "judgements": str(found.num_judgements),
            "unparsed": str(found.num_unparsed),
            "both orders agree": "" if found.agreement is None else f"{found.agreement:.1%}",
        }
        for judge, found in win_rates.items()
    ]


def _label(name: str, figures: Mapping[str, Figures]) -> str:
    sources = {each.metrics[name].source for each in figures.values() if name in each.metrics}
    said = ", ".join(sorted(sources - {""}))
    return f"{name} ({said})" if said else name


def _shown(found: Measured | None) -> str:
    if found is None:
        return ""
    interval = "" if found.ci95 is None else " [{:.3f}, {:.3f}]".format(*found.ci95)
    return f"{found.value:.3f}{interval}"


def _win(found: WinRate) -> str:
    if found.win_rate is None:
        return "none: no verdict"
    low, high = found.win_rate.ci95
    return f"{found.win_rate.mean:.1%} [{low:.1%}, {high:.1%}]"
