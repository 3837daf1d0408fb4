"""`rto data check` and `rto data convert`: what a data set holds, and other layouts of it."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rto.cli.one_line_parser import OneLineParser
from rto.errors import UserError
from rto.sections.data import Data
from rto.sections.ranges import check_tree
from rto.tracking.console import table
from rto.tracking.quiet import quiet

if TYPE_CHECKING:
    from rto.data.feedback.check import Report, Spread

BLOCKS = " ▏▎▍▌▋▊▉█"
WIDTH = 40
WRITES = ("nested", "flat", "pairs", "unpaired", "sft", "prompts")


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    quiet(None)
    return options.run(options)


def check(options: argparse.Namespace) -> int:
    """Print what the data set holds; 0 where some of it can be used."""
    data = _data(options)
    from rto.data.feedback.command import usable_report

    report = usable_report(
        options.source,
        data,
        split=options.source_split,
        model=options.model,
        chat_template=options.chat_template,
        max_len=options.max_len,
    )
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print_report(report, Console())
    return 0


def print_report(report: Report, console: Console) -> None:
    """Tables, and histograms of numbers."""
    console.print(
        f"{report.source}: layout {report.layout}, {report.num_rows:,} rows, "
        f"{report.num_prompts:,} prompts, {report.num_responses:,} responses",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    counts = report.responses_per_prompt
    _print_histogram(console, "responses per prompt", [f"{n:,}" for n in counts], counts.values())
    if report.rewards is not None:
        spread = report.rewards
        _print_histogram(console, "reward", bin_labels(spread), spread.counts)
    spreads = {
        "reward": report.rewards,
        f"prompt ({report.unit})": report.prompt_length,
        f"response ({report.unit})": report.response_length,
    }
    lines = [_spread_row(name, spread) for name, spread in spreads.items() if spread is not None]
    if lines:
        console.print(table(lines))
    if report.truncated is not None:
        said = f"cut at {report.max_len} {report.unit}: {report.truncated:.1%} of the responses"
        console.print(said, highlight=False)
    for line in finding_lines(report):
        console.print(Text(line), soft_wrap=True)


def finding_lines(report: Report) -> list[str]:
    """Two lines a finding: what and where, and its first occurrence."""
    if not report.findings:
        return ["no findings"]
    lines = ["findings"]
    for finding in report.findings:
        rows = ", ".join(map(str, finding.rows))
        more = ", ..." if finding.more_rows else ""
        lines.append(f"  {finding.severity:<7} {finding.count:>9,}  {finding.kind}: {rows}{more}")
        lines.append(" " * 21 + finding.example.removeprefix(f"{report.source}: "))
    return lines


def histogram(labels: Sequence[str], counts: Sequence[int]) -> list[str]:
    """One line a bin: its label, a bar in eighths of a character, its count."""
    margin, highest = max(map(len, labels)), max(counts)
    return [
        f"{label:>{margin}} {_bar(count / highest)} {count:,}"
        for label, count in zip(labels, counts, strict=True)
    ]


def bin_labels(spread: Spread) -> list[str]:
    """The value of each bin, or where it begins and ends."""
    edges = [f"{edge:.4g}" for edge in spread.edges]
    if spread.edges[-1] == spread.edges[-2]:
        return edges[:-1]
    return [f"{low} to {high}" for low, high in zip(edges, edges[1:], strict=False)]


def convert(options: argparse.Namespace) -> int:
    """Write the rows in another layout."""
    paths = target_paths(options.target, split=options.split is not None)
    data = _data(options)
    from rto.data.feedback.command import convert_file

    for written in convert_file(
        options.source,
        data,
        paths,
        source_split=options.source_split,
        to=options.to,
        normalise=options.normalise,
        threshold=options.threshold,
        duplicates=options.merge_duplicates,
        split=options.split,
        seed=options.seed,
    ):
        made = "pair" if options.to == "pairs" else "row"
        empty = f"; {written.num_empty:,} more make no {made}" if written.num_empty else ""
        merged = f"; {written.num_merged:,} duplicates merged, with the mean of their rewards"
        num_prompts = written.num_prompts - written.num_empty
        print(
            f"{written.path}: {written.num_rows:,} rows of {num_prompts:,} prompts{empty}"
            f"{merged if written.num_merged else ''}"
        )
    return 0


def target_paths(target: str, *, split: bool) -> list[Path]:
    """Where the rows go: TARGET, or TARGET-train and TARGET-eval.

    Raises:
        UserError: not a .jsonl file, or one that is there already.
    """
    path = Path(os.path.expanduser(target))
    if path.suffix != ".jsonl":
        raise UserError(f"data convert: the target {target} must end in .jsonl")
    sides = ("-train", "-eval") if split else ("",)
    paths = [path.with_name(f"{path.stem}{side}.jsonl") for side in sides]
    for each in paths:
        if each.exists():
            raise UserError(f"data convert: {each} exists: remove it or choose another target")
        if not each.parent.is_dir():
            raise UserError(f"data convert: {each.parent} is not a directory: create it")
    return paths


def _data(options: argparse.Namespace) -> Data:
    """How the source is read, with its columns by the names that are expected."""
    columns = [x for given in options.columns for x in given.split(",")]
    data = Data(columns=columns, config_name=options.config_name)
    check_tree(data, "data.")
    return replace(data, layout=options.layout)


def _print_histogram(
    console: Console, title: str, labels: Sequence[str], counts: Iterable[int]
) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    for line in histogram(labels, list(counts)):
        console.print(Text(f"  {line}"), soft_wrap=True)


def _bar(share: float) -> str:
    """At least an eighth for a share that is not 0."""
    eighths = max(round(share * WIDTH * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + BLOCKS[eighths % 8].strip()


def _spread_row(name: str, spread: Spread) -> dict[str, object]:
    shown = ("mean", "std", "min", "median", "p95", "max")
    return {"": name, **{key: float(getattr(spread, key)) for key in shown}}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: one line with the argument and the remedy.
    """
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="rto data", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="check|convert")
    source = OneLineParser(add_help=False)
    source.add_argument("source", help="file, directory of save_to_disk, or hub id")
    source.add_argument("--layout", metavar="NAME", help="instead of the one the columns tell")
    source.add_argument(
        "--source_split", default="train", metavar="NAME", help="split to read (%(default)s)"
    )
    source.add_argument(
        "--columns",
        "--data.columns",
        action="append",
        default=[],
        metavar="NEW=OLD,...",
        help="columns by other names: prompt=question,response=answer,reward=score",
    )
    source.add_argument(
        "--config_name", "--data.config_name", metavar="NAME", help="of a hub set that has several"
    )
    checked = commands.add_parser(
        "check", parents=[source], help="statistics and findings", allow_abbrev=False
    )
    checked.set_defaults(run=check)
    checked.add_argument("--model", metavar="DIR_OR_ID", help="count in this model's tokens")
    checked.add_argument(
        "--chat_template",
        metavar="NAME_OR_FILE",
        help="one of several that the model has, or a file",
    )
    checked.add_argument(
        "--max_len", type=_positive, metavar="N", help="limit of prompt and response together"
    )
    checked.add_argument("--json", action="store_true", help="print JSON instead of tables")
    written = commands.add_parser(
        "convert", parents=[source], help="write another layout", allow_abbrev=False
    )
    written.set_defaults(run=convert)
    _add_convert(written)
    return parser


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET.jsonl", help="file to write")
    parser.add_argument("--to", required=True, choices=WRITES, help="layout to write")
    parser.add_argument(
        "--normalise",
        choices=("none", "zscore", "per_prompt"),
        default="none",
        help="rewards to mean 0 and variance 1, over the training split or by prompt (%(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="mean|median|VALUE",
        help="lowest reward with label true, for --to unpaired (mean; 0.5 of labels)",
    )
    parser.add_argument(
        "--merge_duplicates",
        choices=("mean", "keep"),
        default="mean",
        help="equal responses to a prompt become one with their mean reward (%(default)s)",
    )
    parser.add_argument(
        "--split",
        type=_share,
        metavar="RATIO",
        help="share of the prompts that goes to TARGET-eval, the rest to TARGET-train",
    )
    parser.add_argument("--seed", type=_seed, default=42, help="of the split (%(default)s)")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1 on")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 0 on")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number") from error
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be between 0 and 1")
    return value


def _threshold(text: str) -> str | float:
    if text in ("mean", "median"):
        return text
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: mean, median or a number") from error
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: must be finite")
    return value
