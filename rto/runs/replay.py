"""What a run that goes on does not repeat: responses and rewards that its journal holds.

A response is a function of the weights, the prompt, the seed and how it is sampled; a reward, of
the response and its source. Each is kept under a digest of these, so it is used again only where
all of them are the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial

import pyarrow as pa
import xxhash

from rto.cluster.generator import EngineGenerator
from rto.cluster.scorer import ClusterScorer
from rto.protocols import Generator
from rto.rollout.seeds import request_seed
from rto.runs.drawn import drawn_of, drawn_table
from rto.sections.run_config import RunConfig
from rto.tracking.journal import Journal, Tell
from rto.tracking.run_folder import RunFolder
from rto.types import Prompt, Rollout, TokenIds


@dataclass(frozen=True)
class ReplayedGenerator:
    """Implements ``Generator``: samples the parts that the journal does not have.

    ``weights`` gives the digest of those that the engines hold; ``settings`` are all else that a
    response depends on, ``checkpoints`` gives the steps of the run's. Where ``whole`` is set, a
    sample depends on its batch in the last bits: a draw is then sampled as a whole or not at all.
    """

    inner: EngineGenerator
    journal: Journal
    weights: Callable[[], str]
    settings: Sequence[object]
    checkpoints: Callable[[], Sequence[int]]
    whole: bool = False

    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        self.journal.border(iteration, self.checkpoints())
        keys = [self._key(part, policy_version, iteration) for part in parts]
        known = [key in self.journal for key in keys]
        if self.whole and not all(known):
            known = [False] * len(keys)
        missing = [part for part, has in zip(parts, known, strict=True) if not has]
        fresh = self.inner.generate(missing, policy_version, iteration)
        if not missing:
            # Nothing comes; engines that share their GPUs fall asleep.
            fresh = iter(list(fresh))
        for key, has in zip(keys, known, strict=True):
            yield self._kept(key) if has else self._put(key, next(fresh), iteration)

    def _kept(self, key: bytes) -> list[Rollout]:
        kept = self.journal.get(key)
        assert kept is not None
        (rollouts,) = drawn_of(_unpacked(kept))
        return rollouts

    def _put(self, key: bytes, rollouts: list[Rollout], iteration: int) -> list[Rollout]:
        self.journal.put(key, partial(_packed_responses, rollouts, iteration))
        return rollouts

    def _key(self, part: Sequence[Prompt], policy_version: int, iteration: int) -> bytes:
        inner = self.inner
        seeds = [
            [
                request_seed(inner.run_seed, iteration, prompt.id, k)
                for k in range(inner.samples_per_prompt)
            ]
            for prompt in part
        ]
        prompts = [[p.id, p.token_ids, p.text, p.label, p.source] for p in part]
        how = [self.weights(), policy_version, iteration, *self.settings, astuple(inner.sampling)]
        return _digest(["responses", how, prompts, seeds])


@dataclass(frozen=True)
class KeptRewards:
    """Implements ``RewardMemory`` with a journal. ``settings`` tell the sources apart where their
    names do not."""

    journal: Journal
    settings: Sequence[object]

    def recall(self, source: str, rollouts: Sequence[Rollout]) -> list[float] | None:
        kept = self.journal.get(self._key(source, rollouts))
        return None if kept is None else _unpacked(kept).column("reward").to_pylist()

    def keep(
        self, source: str, rollouts: Sequence[Rollout], rewards: Sequence[float | None]
    ) -> None:
        """Not where one is missing or not finite: the run that goes on asks for them again."""
        if all(reward is not None and math.isfinite(reward) for reward in rewards):
            packed = partial(_packed_rewards, source, rollouts, rewards)
            self.journal.put(self._key(source, rollouts), packed)

    def _key(self, source: str, rollouts: Sequence[Rollout]) -> bytes:
        rows = [
            [r.prompt.id, r.prompt.label, r.sample_index, r.seed, r.finished, len(r.token_ids)]
            for r in rollouts
        ]
        texts = [text for r in rollouts for text in (r.prompt.text, r.text)]
        tokens = (r.token_ids for r in rollouts)
        return _digest(["rewards", source, *self.settings, rows, texts], *tokens)


@contextmanager
def replayed(
    config: RunConfig,
    folder: RunFolder,
    generator: EngineGenerator,
    scorer: ClusterScorer,
    *,
    first: int,
    weights: Callable[[], str],
    checkpoints: Callable[[], Sequence[int]],
    tell: Tell,
) -> Iterator[tuple[Generator, ClusterScorer]]:
    """The generator and the scorer of a run that begins with iteration ``first``, with the run
    folder's journal where ``ckpt.journal`` is on."""
    if not config.ckpt.journal:
        yield generator, scorer
        return
    engine, reward = config.vllm.engine, config.reward
    with Journal(folder.journal, first=first, tell=tell) as journal:
        kept = KeptRewards(journal, [reward.model_name_or_path, reward.remote_url])
        yield (
            ReplayedGenerator(
                generator,
                journal,
                weights,
                settings=[engine, config.ds.dtype, config.data.max_len],
                checkpoints=checkpoints,
                whole=engine == "transformers",
            ),
            replace(scorer, kept=kept),
        )


def _digest(about: object, *tokens: TokenIds) -> bytes:
    """Of plain values, and of token ids whose number these tell."""
    whole = xxhash.xxh3_128(json.dumps(about).encode("ascii"))
    for each in tokens:
        whole.update(each.data)
    return whole.digest()


def _packed_responses(rollouts: Sequence[Rollout], iteration: int) -> bytes:
    return _packed(drawn_table([rollouts]), {"kind": "responses", "iteration": str(iteration)})


def _packed_rewards(
    source: str, rollouts: Sequence[Rollout], rewards: Sequence[float | None]
) -> bytes:
    columns = {
        "prompt_id": [r.prompt.id for r in rollouts],
        "sample_index": [r.sample_index for r in rollouts],
        "seed": [r.seed for r in rollouts],
        "reward": pa.array(rewards, pa.float64()),
    }
    return _packed(pa.table(columns), {"kind": "rewards", "source": source})


def _packed(table: pa.Table, about: dict[str, str]) -> bytes:
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(about)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(content: bytes) -> pa.Table:
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()
