"""Responses on the disk, to the last bit: those that wait in a checkpoint to be trained on, of
weights that nobody has any more, and those of a journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rto.types import Prompt, Rollout, logprob_array, token_array

FILE = "drawn.parquet"
"""In a checkpoint's folder; absent where no response waits."""
TOKENS = ["token_ids", "sampler_logprobs"]
"""Columns with a number per token: millions, which stay arrays."""
SCHEMA = pa.schema(
    [
        ("draw", pa.int32()),
        ("prompt_id", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("prompt_text", pa.binary()),
        ("prompt_label", pa.binary()),
        ("prompt_source", pa.binary()),
        ("sample_index", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("sampler_logprobs", pa.list_(pa.float32())),
        ("text", pa.binary()),
        ("finished", pa.bool_()),
        ("policy_version", pa.int64()),
        ("seed", pa.int64()),
    ]
)


def drawn_table(drawn: Sequence[Sequence[Rollout]]) -> pa.Table:
    """A row per response, as it is, with the number of its draw."""
    rows = [
        {
            "draw": number,
            "prompt_id": rollout.prompt.id,
            "prompt_ids": rollout.prompt.token_ids,
            "prompt_text": _bytes(rollout.prompt.text),
            "prompt_label": None if rollout.prompt.label is None else _bytes(rollout.prompt.label),
            "prompt_source": _bytes(rollout.prompt.source),
            "sample_index": rollout.sample_index,
            "token_ids": rollout.token_ids,
            "sampler_logprobs": rollout.sampler_logprobs,
            "text": _bytes(rollout.text),
            "finished": rollout.finished,
            "policy_version": rollout.policy_version,
            "seed": rollout.seed,
        }
        for number, rollouts in enumerate(drawn)
        for rollout in rollouts
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def write_drawn(checkpoint: Path, drawn: Sequence[Sequence[Rollout]]) -> None:
    """Every response, by iteration."""
    if any(drawn):
        pq.write_table(drawn_table(drawn), checkpoint / FILE, compression="zstd")


def read_drawn(checkpoint: Path) -> list[list[Rollout]]:
    """What ``write_drawn`` was given."""
    if not (checkpoint / FILE).exists():
        return []
    return drawn_of(pq.read_table(checkpoint / FILE))


def drawn_of(table: pa.Table) -> list[list[Rollout]]:
    """What ``drawn_table`` was given."""
    drawn: list[list[Rollout]] = []
    tokens = [table.column(name).to_numpy() for name in TOKENS]
    rows = table.drop_columns(TOKENS).to_pylist()
    for row, token_ids, logprobs in zip(rows, *tokens, strict=True):
        if row["draw"] == len(drawn):
            drawn.append([])
        drawn[-1].append(
            Rollout(
                prompt=Prompt(
                    id=row["prompt_id"],
                    token_ids=tuple(row["prompt_ids"]),
                    text=_text(row["prompt_text"]),
                    label=None if row["prompt_label"] is None else _text(row["prompt_label"]),
                    source=_text(row["prompt_source"]),
                ),
                sample_index=row["sample_index"],
                token_ids=token_array(token_ids),
                sampler_logprobs=logprob_array(logprobs),
                text=_text(row["text"]),
                finished=row["finished"],
                policy_version=row["policy_version"],
                seed=row["seed"],
            )
        )
    return drawn


def _bytes(text: str) -> bytes:
    """UTF-8, with which half a character of UTF-16 survives too."""
    return text.encode("utf-8", "surrogatepass")


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")
