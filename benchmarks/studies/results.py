"""The command line of a study and its page; text below ``READING`` is written by hand and kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import ROOT, versions

READING = "## What it shows and what it does not"


@dataclass(frozen=True)
class Arguments:
    seeds: int
    out: Path
    quick: bool

    parts: Sequence[str] = ()


def arguments(*, seeds: int, parts: Sequence[str] = ()) -> Arguments:
    """``parts``: those of a study that can be run alone, all by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only tests the program")
    if parts:
        parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    torch.set_num_threads(1)
    return Arguments(**vars(parser.parse_args()))


def write(given: Arguments, name: str, *, found: dict[str, object], page: str) -> None:
    """``name``.json and ``name``.md, which keeps the hand-written end that it had."""
    given.out.mkdir(parents=True, exist_ok=True)
    found = {"seeds": given.seeds, "versions": versions(), **found}
    (given.out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    target = given.out / f"{name}.md"
    before = target.read_text("utf-8") if target.is_file() else ""
    _, marker, reading = before.partition(READING)
    target.write_text(page.rstrip() + "\n" + (f"\n{marker}{reading}" if marker else ""), "utf-8")
    print(page)


def best_rate(rates: Sequence[float], final: Callable[[float], float]) -> dict[float, float]:
    """Learning rate -> what the baseline ends with, the best first; NaN never wins."""
    ends = {rate: final(rate) for rate in rates}
    return dict(sorted(ends.items(), key=lambda pair: -np.nan_to_num(pair[1], nan=-np.inf)))
