"""Small run folders, written as a run writes them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel

WORDS = ("<pad>", "one", "two", "</script>", "<b>")
HOSTILE = (
    "</script><script>window.broken=1</script><img src=x onerror=window.broken=2>\u202e\x1b[31m"
)


def rollout(
    prompt_id: int, prompt: str, response: str, reward: float, ids: Sequence[int] = (1, 2)
) -> dict[str, Any]:
    """One line: the DPO policy gives each token log-prob -1 where the reference gives -1.5."""
    tokens = {
        "policy": [-0.5] * len(ids),
        "reference": [-1.5] * len(ids),
        "dpo": [-1.0] * len(ids),
    }
    scores: dict[str, Any] = {
        role: {"tokens": values, "sum": sum(values)} for role, values in tokens.items()
    }
    return {
        "prompt_id": prompt_id,
        "sample_index": 0,
        "policy_version": 0,
        "seed": 1,
        "finished": True,
        "prompt": prompt,
        "response": response,
        "response_ids": list(ids),
        "scores": {**scores, "critic": {"tokens": [0.25] * len(ids)}, "reward": reward},
    }


def write_iteration(run: Path, iteration: int, rows: Sequence[dict[str, Any]]) -> None:
    folder = run / "rollouts"
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / f"iter_{iteration:06d}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    words = {word: i for i, word in enumerate(WORDS)}
    Tokenizer(WordLevel(words, unk_token="<pad>")).save(str(folder / "tokenizer.json"))


def metrics_row(iteration: int, **extra: float) -> dict[str, float]:
    return {
        "iteration": iteration,
        "time": 1000.0 + 4 * (iteration + 1),
        "response/num": 2,
        "response/trained": 2,
        "reward/mean": 0.5 * iteration,
        "kl/sequence": 0.1 * iteration,
        "policy/loss": 1.0 - 0.1 * iteration,
        "sampler/abs_diff_mean": 1e-6,
        "time/generate": 1.0,
        "time/update": 2.0,
        "time/iteration": 4.0,
        **extra,
    }


def write_run(path: Path, *, iterations: int = 3, seed: int = 1, response: str = "one two") -> Path:
    """An online run of two prompts, each answered in every iteration."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(
        f"algo:\n  name: rto\n  kl:\n    init_coef: 0.01\ntrain:\n  seed: {seed}\n"
        "ds:\n  param_dtype: fp32\n"
    )
    (path / "versions.json").write_text(json.dumps({"torch": "2.13.0", "cpu_count": 2}))
    about = {
        "command": "train",
        "method": "rto",
        "title": "Reinforced Token Optimization",
        "status": "finished",
        "data": {"unit": "prompts", "read": 10, "used": 7, "filtered": {"too long": 3}},
        "results": {"eval/accuracy": 0.75},
    }
    (path / "run.json").write_text(json.dumps(about))
    rows = [json.dumps(metrics_row(i)) for i in range(iterations)]
    (path / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    for i in range(iterations):
        answers = [rollout(n, f"prompt {n}", f"{response} {n} {i}", reward=i + n) for n in range(2)]
        write_iteration(path, i, answers)
    write_tokenizer(path / "last")
    return path
