"""Write every rollout of a run: a Parquet file per iteration, beside the loop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rto.crash import crash_point
from rto.functional.masked import masked_sum
from rto.storage import writing
from rto.types import Role, Rollout, ScoredBatch

GROUP_ROWS = 1024
"""Rows that a reader has to unpack together."""
LOGPROBS = frozenset({Role.POLICY, Role.REFERENCE, Role.DPO, Role.DPO_REFERENCE})
_DECIMALS = 4


@dataclass(frozen=True)
class RolloutColumns:
    """The rollouts of an iteration as a file has them, without padding: nothing of the batch is
    held. Scores are not rounded yet."""

    rows: Mapping[str, list[int] | list[bool] | list[str]]
    lengths: Tensor
    """Tokens of each response, [B]."""
    ids: Tensor
    """Of all responses, one after the other."""
    tokens: Mapping[str, Tensor]
    """Numbers of these tokens, by the name that says whose they are."""
    responses: Mapping[str, Tensor]
    """Numbers of the responses, [B]."""


def rollout_columns(rollouts: Sequence[Rollout], batch: ScoredBatch) -> RolloutColumns:
    """What is told of each response; log-probs are summed too."""
    if len(rollouts) != len(batch):
        raise ValueError(f"{len(rollouts)} rollouts for {len(batch)} scored rows")
    mask = batch.tokens.response_mask
    places = mask.flatten().nonzero().squeeze(-1)

    def real(x: Tensor) -> Tensor:
        return x.flatten().index_select(0, places)

    by_token = {role: x.detach() for role, x in batch.scores.items() if x.ndim > 1}
    sums = {r: masked_sum(x, mask, dim=-1) for r, x in by_token.items() if r in LOGPROBS}
    alone = {role: x.detach() for role, x in batch.scores.items() if x.ndim == 1}
    return RolloutColumns(
        rows=_rows(rollouts),
        lengths=mask.sum(-1),
        ids=real(batch.tokens.response_ids).int(),
        tokens={
            "sampler_logprobs": real(batch.tokens.sampler_logprobs),
            **{f"{role}_tokens": real(x) for role, x in by_token.items()},
        },
        responses={str(role): x.clone() for role, x in (sums | alone).items()},
    )


def _rows(rollouts: Sequence[Rollout]) -> dict[str, list[int] | list[bool] | list[str]]:
    return {
        "prompt_id": [r.prompt.id for r in rollouts],
        "sample_index": [r.sample_index for r in rollouts],
        "policy_version": [r.policy_version for r in rollouts],
        "seed": [r.seed for r in rollouts],
        "finished": [r.finished for r in rollouts],
        "prompt": [_utf8(r.prompt.text) for r in rollouts],
        "response": [_utf8(r.text) for r in rollouts],
    }


def _utf8(text: str) -> str:
    """The text as it is; half a character of UTF-16, which no file can hold, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def rollout_table(columns: RolloutColumns) -> pa.Table:
    """The file's columns: those of ``rto.Run(...).rollouts()``, numbers to 4 decimals."""
    ends = torch.cat([torch.zeros(1, dtype=torch.long), columns.lengths.cumsum(0)])
    offsets = pa.array(ends.numpy().astype("int32"))

    def lists(flat: Tensor) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(flat.numpy()))

    numbers = {name: pa.array(_rounded(x).numpy()) for name, x in columns.responses.items()}
    tokens = {name: lists(_rounded(x).float()) for name, x in columns.tokens.items()}
    return pa.table({**columns.rows, "response_ids": lists(columns.ids), **tokens, **numbers})


def _rounded(values: Tensor) -> Tensor:
    return values.double().round(decimals=_DECIMALS)


def write_rollouts(path: Path, columns: RolloutColumns) -> None:
    """The whole file or none, on the disk. Equal content gives equal bytes.

    Raises:
        StorageFailed: the disk is full, read-only or gone.
    """
    crash_point("rollouts.before_write")
    draft = path.with_name(f"{path.name}.tmp")
    split = [f"{name}.list.element" for name in columns.tokens]
    with writing(path.parent):
        try:
            _write_table(draft, rollout_table(columns), split)
            crash_point("rollouts.before_rename")
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def _write_table(path: Path, table: pa.Table, split: list[str]) -> None:
    with path.open("wb") as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            row_group_size=GROUP_ROWS,
            use_dictionary=["prompt"],  # pyright: ignore[reportArgumentType]
            use_byte_stream_split=split,  # pyright: ignore[reportArgumentType]
        )
        file.flush()
        os.fsync(file.fileno())


class RolloutWriter:
    """Writes one file at a time in a thread. A call waits for the file before; an error of its
    writing is raised by the next call or by ``flush``."""

    def __init__(self) -> None:
        # A thread of an executor ends its work before the interpreter exits.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollouts")
        self._running: Future[None] | None = None

    def write(self, path: Path, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None:
        """Begin a file. The batch may be changed or dropped when this returns."""
        self.flush()
        columns = rollout_columns(rollouts, batch)
        self._running = self._thread.submit(write_rollouts, path, columns)

    def flush(self) -> None:
        """Wait until all that was written is on the disk."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._thread.shutdown()
