"""`rto train` that ends with a line of JSON: the seconds that it spent in its journal, and in the
commits of checkpoints (manifests and fsync)."""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any

from rto.cli import main
from rto.runs import replay
from rto.runs.replay import KeptRewards, ReplayedGenerator
from rto.tracking.journal import Journal
from rto.training.checkpoint import CheckpointStore

SPENT = {"journal": 0.0, "commit": 0.0}
WATCHED: dict[str, list[tuple[Any, str]]] = {
    "journal": [
        *((Journal, name) for name in ("_append", "_turn", "put", "border")),
        *((kind, "_key") for kind in (KeptRewards, ReplayedGenerator)),
        *((replay, name) for name in ("_packed_responses", "_packed_rewards")),
    ],
    "commit": [(CheckpointStore, "commit")],
}


def watch(name: str, owner: Any, method: str) -> None:
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            SPENT[name] += time.perf_counter() - start

    setattr(owner, method, timed)


if __name__ == "__main__":
    for name, methods in WATCHED.items():
        for owner, method in methods:
            watch(name, owner, method)
    code = main.main(["train", *sys.argv[1:]])
    print(json.dumps(SPENT))
    sys.exit(code)
