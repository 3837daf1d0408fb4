"""The warnings of a report, and its accounting of samples."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rto.report.collect import RunRecord
from rto.secrets import hide
from rto.sections.runtime import LOGPROB_TOLERANCE
from rto.tracking.quiet import escape_control

CUT_SHARE = 0.1
CLIP_SHARE = 0.3
TAIL = 10
"""Iterations at the end of a run that a warning speaks of."""
MAX_LOGS, MAX_LOG, MAX_LOG_LINE = 50, 8 << 20, 500
"""Log files, characters of each and of a line that are looked at."""
LEVELS = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) \d+ \S+: (.*)")


@dataclass(frozen=True)
class Account:
    """What came in, what was trained on, and what was left out, by reason.

    ``unexplained`` is drawn - trained - filtered; None where the run did not record ``trained``.
    """

    unit: str
    drawn: int
    trained: int | None
    filtered: Mapping[str, int] = field(default_factory=dict)

    @property
    def unexplained(self) -> int | None:
        if self.trained is None:
            return None
        return self.drawn - self.trained - sum(self.filtered.values())


def accounts(run: RunRecord) -> list[Account]:
    """Of the data set that the run read, and of the responses it sampled."""
    accounts_of_run: list[Account] = []
    data = run.about.get("data")
    if isinstance(data, Mapping):
        accounts_of_run.append(Account(data["unit"], data["read"], data["used"], data["filtered"]))
    if run.is_online:
        rows = [row for row in run.metrics if "response/num" in row]
        known = all("response/trained" in row for row in rows)
        trained = sum(int(row["response/trained"]) for row in rows) if known else None
        drawn = sum(int(row["response/num"]) for row in rows)
        waiting = sum(
            int(row["response/num"] - row["response/trained"])
            for row in rows
            if known and "policy/loss" not in row
        )
        reasons = {"critic alone was trained (critic.freezing_steps)": waiting} if waiting else {}
        accounts_of_run.append(Account("responses", drawn, trained, reasons))
    return accounts_of_run


def warnings(run: RunRecord) -> list[str]:
    """One sentence each, the most serious first."""
    parts = (_ending(run), _accounting(run), _figures(run), _left_out(run), _logged(run))
    return [*run.missing, *itertools.chain.from_iterable(parts)]


def _ending(run: RunRecord) -> Iterator[str]:
    if run.is_unfinished:
        why = run.about.get("reason")
        how = f" ({run.about['status']}: {why})" if why and "status" in run.about else ""
        yield f"the run has not finished: {len(run.metrics)} {run.unit} are there{how}"
    restarts = run.about.get("restarts")
    if isinstance(restarts, list) and restarts:
        yield (
            f"actors died and the run went on, {len(restarts)} times; last at "
            f"{restarts[-1]['at']}: {restarts[-1]['lost']}"
        )
    if run.versions.get("git_commit", "").endswith("-dirty"):
        yield "the code was not as committed: git_commit ends in -dirty"


def _accounting(run: RunRecord) -> Iterator[str]:
    for account in accounts(run):
        if account.unexplained:
            yield f"{account.unexplained} {account.unit} are unaccounted for"


def _figures(run: RunRecord) -> Iterator[str]:
    gap, limit = _tail(run, "sampler/abs_diff_mean"), allowed_gap(run.config)
    if gap is not None and gap > limit:
        yield (
            f"engine and trainer differ by {gap:.2g} in log-prob per token (limit {limit:g}): the "
            "samples are not the policy's own"
        )
    cut = _tail(run, "response/truncated_share")
    if cut is not None and cut > CUT_SHARE:
        yield f"{cut:.0%} of the last responses are cut: raise rollout.max_new_tokens"
    explained = _tail(run, "critic/explained_variance")
    if explained is not None and explained < 0:
        yield f"the critic explains less than a constant would (explained variance {explained:.2f})"
    clipped = _tail(run, "policy/clip_share")
    if clipped is not None and clipped > CLIP_SHARE:
        yield f"{clipped:.0%} of the ratios are clipped: the steps may be too large"


def _left_out(run: RunRecord) -> Iterator[str]:
    for area in ("policy", "critic", "reward_model"):
        skipped = sum(run.column(f"{area}/skipped_steps")[1])
        if skipped:
            yield f"{skipped:.0f} optimizer steps of the {area} were left out: not finite"


def allowed_gap(config: Mapping[str, str]) -> float:
    given = config.get("vllm.logprob_tolerance", "null")
    loosest = max(LOGPROB_TOLERANCE.values())
    if given != "null":
        return number(given, loosest)
    return LOGPROB_TOLERANCE.get(config.get("ds.param_dtype", ""), loosest)


def number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default


def _tail(run: RunRecord, key: str) -> float | None:
    """Mean of the metric over the last iterations that have it."""
    values = run.column(key)[1][-TAIL:]
    return fmean(values) if values else None


def _logged(run: RunRecord) -> Iterator[str]:
    for path in sorted((run.path / "logs").glob("*.log"))[:MAX_LOGS]:
        if not path.is_file():
            continue
        said = logged_problems(path)
        if said:
            times = "once" if len(said) == 1 else f"{len(said)} times"
            yield f"logs/{path.name} warns {times}, first: {hide(escape_control(said[0][:200]))}"


def logged_problems(path: Path) -> Sequence[str]:
    """Messages of the warnings and errors in a log file of the run."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(MAX_LOG).splitlines()
        matches = (LEVELS.match(line[:MAX_LOG_LINE]) for line in lines)
        return [match[2] for match in matches if match is not None]
