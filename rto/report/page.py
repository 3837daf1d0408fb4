"""Write runs as one HTML file that makes no requests and needs no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tokenizers import Tokenizer

from rto.errors import foreign
from rto.report import curves, evaluation, findings, samples, settings
from rto.report.collect import RunRecord, find_runs, read_runs
from rto.tracking.console import duration, figure
from rto.tracking.run_folder import write_atomic

TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 3_000_000
NUM_SAMPLES = 24
TOKENS = 40_000
POINTS = 200
CLOSING = (
    "reward/mean",
    "kl/sequence",
    "response/length",
    "sft/loss",
    "preference/accuracy",
    "reward_model/accuracy",
)


AXIS = {True: "iteration (online)", False: "optimizer step (offline)"}
"""What a curve is drawn against, by whether the run is online."""


@dataclass(frozen=True)
class TableRow:
    """One line of a table over runs; ``differs`` where its cells are not all equal."""

    name: str
    cells: list[str]

    @property
    def differs(self) -> bool:
        return len(set(self.cells)) > 1


def write_report(paths: Sequence[Path], target: Path, *, reload: int | None = None) -> int:
    """Report of the run folders that ``paths`` name, at ``target``; returns its bytes.

    Args:
        reload: seconds after which the page loads itself again; None for a page that does not.

    Raises:
        UserError: a path is no run folder, or a file in it is not what a run writes.
    """
    with foreign("no report can be made of these folders", "remove what no run wrote"):
        text = render(read_runs(find_runs(paths)), reload=reload)
    with foreign(f"{target}: the report cannot be written", "name another --output"):
        # A draft of its own: a run writes its own report, perhaps now.
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        write_atomic(draft, text)
        draft.replace(target)
    return len(text.encode())


def render(
    runs: Sequence[RunRecord], *, max_bytes: int = MAX_BYTES, reload: int | None = None
) -> str:
    """The page. Samples and points of curves are halved until it fits ``max_bytes``."""
    pairs = [samples.first_and_last(run) for run in runs]
    share = 1.0
    while True:
        text = _render(runs, pairs, share, reload)
        if len(text.encode()) <= max_bytes or share < 1 / 64:
            return text
        share /= 2


def _render(
    runs: Sequence[RunRecord],
    found: Sequence[Mapping[str, samples.Before]],
    share: float,
    reload: int | None,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "duration": duration}
    sections = curves.sections(runs, points=max(8, int(POINTS * share)))
    chosen = samples.choose(found, count=NUM_SAMPLES, tokens=int(TOKENS * share))
    chosen_settings = table(runs, [settings.acting(run) for run in runs])
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    lengths = [run.length for run in runs]
    numbers = {chart.key: chart for section in sections for chart in section.charts}
    payload = {
        "runs": [run.name for run in runs],
        "reload": reload,
        "lengths": lengths,
        "plot": [curves.LEFT, curves.WIDTH - curves.RIGHT],
        "charts": {key: chart_values(chart) for key, chart in numbers.items()},
        "samples": sample_values(runs, found, chosen),
    }
    return environment.get_template("page.html").render(
        runs=runs,
        curves=curves,
        style=style,
        script=script,
        policy=security_policy(style, script),
        payload=embedded(payload),
        reload=reload,
        made=time.strftime("%Y-%m-%d %H:%M:%S"),
        overview=overview(runs),
        versions=table(runs, [run.versions for run in runs]),
        settings=chosen_settings,
        changed=[row for row in chosen_settings if is_changed(row)],
        defaults=settings.defaults(),
        sections=sections,
        units=" or ".join(sorted({AXIS[run.is_online] for run in runs if run.metrics})),
        lengths_differ=len(set(filter(None, lengths))) > 1,
        all_ended=not any(run.is_unfinished for run in runs),
        timelines=[t for i, run in enumerate(runs) if (t := curves.timeline(i, run)) is not None],
        evaluations=evaluation.find_evaluations(runs),
        evaluation_plot=evaluation,
        accounts=[(i, each) for i, run in enumerate(runs) for each in findings.accounts(run)],
        warnings=[(i, said) for i, run in enumerate(runs) for said in findings.warnings(run)],
        num_samples=len(chosen),
        num_prompts=len({text for each in found for text in each}),
    )


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def security_policy(style: str, script: str) -> str:
    """Only this style and this script run, and nothing is fetched."""
    hashes = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("style", style), ("script", script))
    }
    allowed = "; ".join(f"{name}-src 'sha256-{value}'" for name, value in hashes.items())
    return f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; {allowed}"


def embedded(payload: Mapping[str, object]) -> str:
    """JSON that is safe inside a script element: no character of it can end the element."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def table(runs: Sequence[RunRecord], columns: Sequence[Mapping[str, str]]) -> list[TableRow]:
    """One row for each name that any run has, in order of appearance; an absent cell is a dash."""
    names = {name: None for column in columns for name in column}
    return [TableRow(name, [column.get(name, "–") for column in columns]) for name in names]


def is_changed(row: TableRow) -> bool:
    """Whether a run has the setting at another value than its default, or it has none."""
    return bool({*row.cells} - {"–", settings.defaults().get(row.name)})


def overview(runs: Sequence[RunRecord]) -> list[TableRow]:
    """What ran, and how it ended."""
    return [row for row in table(runs, [summary(run) for run in runs]) if set(row.cells) != {"–"}]


def summary(run: RunRecord) -> dict[str, str]:
    known = bool(run.about or run.metrics)
    found = {
        "stage": run.stage if known else "–",
        "method": run.about.get("title", run.kind) or "–",
    }
    if "command" in run.about:
        found |= {"command": f"rto {run.about['command']}", "status": run.about.get("status", "–")}
    found["model"] = run.config.get("actor.model_name_or_path", "–")
    if run.metrics:
        found["length"] = f"{len(run.metrics):,} {run.unit}"
    if run.clock is not None:
        began, ended = run.clock
        found["began"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
        found["training time"] = duration(ended - began)
    for key in CLOSING:
        values = run.column(key)[1]
        if values:
            found[f"{key}, first → last"] = f"{figure(values[0])} → {figure(values[-1])}"
    return found | {name: figure(value) for name, value in closing(run)}


def closing(run: RunRecord) -> Iterable[tuple[str, float]]:
    """The held-out figures that a run ended with."""
    results = run.about.get("results", {})
    assert isinstance(results, Mapping)
    return [(name, value) for name, value in results.items() if name.startswith("eval/")]


def chart_values(chart: curves.Chart) -> dict[str, object]:
    """What the pointer reads off a chart."""
    return {
        "range": chart.x_range,
        "y_range": chart.y_range,
        "lines": [{"run": line.run, "x": line.x, "y": line.y} for line in chart.lines],
    }


def sample_values(
    runs: Sequence[RunRecord], found: Sequence[Mapping[str, samples.Before]], chosen: Sequence[str]
) -> list[dict[str, object]]:
    """The samples by prompt; of each run that has it, its first response and its last."""
    tokenizers = [
        samples.find_tokenizer(run) if each else None for run, each in zip(runs, found, strict=True)
    ]
    shown: list[dict[str, object]] = []
    for text in chosen:
        answers = [
            {
                "run": i,
                "responses": [
                    response_values(response, tokenizers[i])
                    for response in (each[text].first, each[text].last)
                    if response is not None
                ],
            }
            for i, each in enumerate(found)
            if text in each
        ]
        shown.append({"prompt": text, "answers": answers})
    return shown


def response_values(response: samples.Response, tokenizer: Tokenizer | None) -> dict[str, object]:
    """Values of a response: token texts if there is a tokenizer, else the plain text."""
    values: dict[str, object] = {
        "iteration": response.iteration,
        "length": response.length,
        "finished": response.finished,
        "scores": {name: round(value, 4) for name, value in response.scores.items()},
        "text": response.text,
    }
    if tokenizer is not None:
        values["pieces"] = samples.pieces(tokenizer, response.ids)
        values["tokens"] = response.tokens
        values["text"] = ""
    return values
