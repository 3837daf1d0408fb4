"""A small task of the quickstart, on disk."""

from __future__ import annotations

import json
from pathlib import Path

from rto.quickstart.data import ToyPaths, write_task


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(directory: Path, seed: int) -> ToyPaths:
    return write_task(directory, seed=seed, num_sft=60, num_pairs=400, num_prompts=40, num_eval=20)
