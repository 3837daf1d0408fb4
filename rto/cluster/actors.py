"""What the Ray actors are made of: thin shells around the engine, the frozen scorer and the
trainer rank.

DeepSpeed and vLLM are imported inside the actor that uses them.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import ray
import torch

from rto.cluster.stall import write_stacks_when_asked
from rto.crash import crash_point
from rto.models.device import dtype_of, resolve_device
from rto.protocols import Method, Output
from rto.rollout.engine import Engine, ReceivingEngine, Transport, build_engine
from rto.rollout.requests import Pairs, Sample, SampleRequest, Sampling
from rto.scoring.frozen import FrozenOptions, FrozenScorer
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Beside
from rto.training.ranks import Rank, RankPlace
from rto.types import LossNorm, Role, StepStats, TokenBatch, TrainBatch

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from rto.rollout.vllm.engine import WeightTransferInitRequest, WeightTransferUpdateRequest
    from rto.training.learner import Objective
    from rto.training.writer import Fingerprint
    from rto.weights.digest import TensorDigests, WeightReceipt

Kind = Literal["policy", "critic", "score"]
Device = Literal["cpu", "cuda"]


def prepare_process(*, share: int) -> None:
    """Settings of a worker process: ``share`` processes of its kind use the cores at once.

    Beside a GPU, too: offloaded Adam, copies and loading are the host's. Ray sets one thread.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // share))
    if ray.is_initialized():
        write_stacks_when_asked()


@dataclass(frozen=True)
class TrainerSpec:
    """What a trainer rank is built from."""

    kind: Kind
    model_path: str
    total_steps: int
    value_constants: tuple[float, float] = (0.0, 1.0)
    extras: frozenset[Output] = frozenset()
    """What a method reads of a policy's forward beside log-probs: ``PolicyMethod.outputs``."""
    engine_extras: Mapping[str, object] = field(default_factory=dict)
    """What a file adds to the configuration of DeepSpeed (`rto.sections.deepspeed_file`)."""


class TrainerActor:
    """One rank of the policy, of the critic, or of a reward model in training.

    ``start`` may be called again, for another run: the rank is built anew.
    """

    def address(self) -> tuple[str, int]:
        """Where the ranks of this group meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return ray.util.get_node_ip_address(), port

    def devices(self) -> list[str]:
        return [str(gpu) for gpu in ray.get_gpu_ids()]

    def start(
        self, spec: TrainerSpec, config: RunConfig, device: Device, rank: int, ranks: int,
        rendezvous: tuple[str, int], share: int,
    ) -> None:  # fmt: skip
        """``share`` trainers, of the policy and of the critic, compute at the same time."""
        prepare_process(share=share)
        self.rest()
        self.rank = Rank(
            spec.kind,
            spec.model_path,
            config,
            RankPlace(rank, ranks, rendezvous, device),
            total_steps=spec.total_steps,
            value_constants=spec.value_constants,
            extras=spec.extras,
            engine_extras=spec.engine_extras,
        )

    def rest(self) -> None:
        """Give the model's memory back."""
        if "rank" in vars(self):
            self.rank.close()
            del self.rank

    def packs(self) -> bool:
        return self.rank.packs

    def update(
        self, method: Method, batch: TrainBatch, steps: list[list[list[int]]],
        norms: list[LossNorm], extra: Objective | None = None, single_step: bool = False,
    ) -> StepStats:  # fmt: skip
        crash_point("rank.before_update")
        stats = self.rank.update(method, batch, steps, norms, extra, single_step=single_step)
        crash_point("rank.updated")
        return stats

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> torch.Tensor:
        """Log-probs or values [B, T], or scores [B]; at the rollout's temperature by default."""
        crash_point("rank.before_score")
        return self.rank.score(tokens, temperature=temperature)

    def export_weights(self) -> Mapping[str, torch.Tensor]:
        """Full tensors by HF name on rank 0; other ranks take part and return nothing."""
        crash_point("rank.before_push")
        return self.rank.export_weights()

    def send_weights(self) -> None:
        self.rank.send_weights()

    def init_weight_transfer(
        self, engines: Sequence[ActorHandle], transport: Literal["nccl", "ipc"], workers: int
    ) -> None:
        """Join vLLM's weight transfer; ``workers`` counts the engines' processes."""
        self.rank.init_weight_transfer(engines, transport, workers)

    def sent_digests(self) -> TensorDigests:
        return self.rank.sent_digests

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        """``behind``: it is written while the rank goes on, until ``written`` tells."""
        crash_point("rank.before_save")
        self.rank.save(folder, tag, behind=behind)
        crash_point("rank.saved")

    def written(self) -> dict[str, Fingerprint] | None:
        return self.rank.written()

    def load(self, folder: str, tag: str) -> None:
        crash_point("rank.before_load")
        self.rank.load(folder, tag)

    def export(self, folder: str) -> None:
        """Write a directory that ``from_pretrained`` loads (rank 0 writes, all take part)."""
        self.rank.export(folder)


class ScorerActor:
    """A replica of all frozen models."""

    def start(
        self, paths: Mapping[Role, str], rewards: Sequence[str], config: RunConfig, device: Device,
        replicas: int,
    ) -> None:  # fmt: skip
        crash_point("scorer.before_start")
        prepare_process(share=replicas)
        options = FrozenOptions(
            dtype=dtype_of(config.ds.dtype),
            device=resolve_device(device),
            attn_implementation=config.ds.attn_implementation,
            max_tokens=config.rollout.max_tokens_per_gpu,
            max_len=config.data.max_len,
            temperature=config.rollout.temperature,
            offload=config.ref.offload,
        )
        self.scorer = FrozenScorer(paths, rewards, options)

    def rest(self) -> None:
        """Give the models' memory back."""
        del self.scorer

    def score(
        self, tokens: TokenBatch, roles: frozenset[Role]
    ) -> tuple[dict[Role, torch.Tensor], torch.Tensor]:
        """Log-probs by role, and the raw rewards [num_models, B] (no rows where not asked)."""
        crash_point("scorer.before_score")
        rewards = torch.empty(0, len(tokens))
        if Role.REWARD in roles:
            rewards = self.scorer.rewards(tokens)
        return self.scorer.score(tokens, roles - {Role.REWARD}), rewards


class EngineActor:
    """A vLLM engine, or transformers' own sampling, as ``vllm.engine`` was settled."""

    _parts: Iterator[list[Sample]] = iter(())
    """What `next_part` takes from."""
    _failure: BaseException | None = None
    """What the last weight transfer failed with. A trainer asked for it, and over NCCL that trainer
    waits inside a broadcast for this very engine: it never hears of it."""

    def tell_failure(self) -> None:
        """Raises ``_failure``, where there is one."""
        if self._failure is not None:
            raise self._failure

    def start(
        self, model_path: str, config: RunConfig, transport: Transport, device: Device, index: int,
        beside: Beside, *gpus: list[str],
    ) -> None:  # fmt: skip
        """``gpus`` are those to use, one list per colocated rank; none: those Ray gives.

        Called again, for another run with the same ``engine_settings``, it keeps the engine: no
        rollout is drawn from it before that run's weights are in it and proven.
        """
        if "engine" in vars(self):
            return
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu for each in gpus for gpu in each)
        # vLLM takes torch's thread count.
        prepare_process(share=config.vllm.num_engines)
        self.engine: Engine = build_engine(
            model_path,
            config,
            max_len=config.data.max_len,
            device=device,
            max_tokens=config.rollout.max_tokens_per_gpu,
            transport=transport,
            index=index,
            beside=beside,
        )

    def begin(
        self, parts: Sequence[Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> None:
        """The samples come from ``next_part``, part by part. What was begun before is given up."""
        crash_point("engine.before_generate")
        self._parts = self.engine.generate_parts(parts, sampling, policy_version)

    def next_part(self) -> list[Sample]:
        samples = next(self._parts)
        crash_point("engine.generated")
        return samples

    def response_logprobs(self, pairs: Pairs) -> list[list[float]]:
        return self.engine.response_logprobs(pairs)

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        crash_point("engine.before_load")
        self.engine.load_weights(weights)
        crash_point("engine.loaded")

    def receipt(self) -> WeightReceipt:
        return self.engine.receipt()

    def accept(self, version: int) -> None:
        crash_point("engine.before_accept")
        self.engine.accept(version)

    def keep(self, version: int) -> bool:
        return self.engine.keep(version)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self, tag: Literal["weights", "kv_cache"]) -> None:
        self.engine.wake(tag)

    # vLLM's RayVLLMWeightSyncClient calls these four by name.
    def init_weight_transfer_engine(self, request: WeightTransferInitRequest) -> None:
        with self._receiving() as engine:
            engine.init_weight_transfer_engine(request)

    def start_weight_update(self) -> None:
        with self._receiving() as engine:
            engine.start_weight_update()

    def update_weights(self, request: WeightTransferUpdateRequest) -> None:
        with self._receiving() as engine:
            engine.update_weights(request)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        with self._receiving() as engine:
            engine.finish_weight_update(weight_version)

    @contextmanager
    def _receiving(self) -> Iterator[ReceivingEngine]:
        """transformers' engine has the object store alone (``choose_transport``)."""
        assert isinstance(self.engine, ReceivingEngine)
        try:
            yield self.engine
        finally:
            self._failure = self._failure or sys.exc_info()[1]


def engine_settings(
    model_path: str, config: RunConfig, transport: Transport, beside: Beside
) -> tuple[object, ...]:
    """What an engine is built from."""
    return model_path, config.ds.dtype, config.data.max_len, config.vllm, transport, beside
