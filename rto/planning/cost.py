"""Seconds of an online iteration, stage by stage, by a model of what each of them waits for.

Nothing here is measured: bytes over bandwidths and operations over peaks, with the shares of
``rto.planning.rates``. A stage is made of parts that follow each other; the largest is its bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rto.planning.decoding import generate
from rto.planning.engine import GIB
from rto.planning.job import Parts, StageTime, Workload, add, forward_flops
from rto.planning.network import all_gather, all_reduce
from rto.planning.rates import Rates
from rto.planning.shape import ModelShape
from rto.planning.states import TrainedModel

ADAM_BYTES = 28
"""Read and written per parameter by AdamW in fp32: weight, gradient and two means; the first and
the means are written back."""
PUSH_CALLS = 8
"""On each engine: wake twice, start, load, finish, receipt, probe, accept."""
CALLS = {"engine": 2, "policy": 3, "critic": 2, "scorer": 1}
"""On each actor of a group, beside a push: sample and sleep; score, update, probe; score, update;
score."""


@dataclass(frozen=True)
class Iteration:
    stages: tuple[StageTime, ...]
    seconds: float
    """Less than the sum of the stages where some run at once."""
    responses: int

    def __getitem__(self, name: str) -> StageTime:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def bound(self) -> StageTime:
        return max(self.stages, key=lambda stage: stage.seconds)

    @property
    def responses_per_second(self) -> float:
        return self.responses / self.seconds

    @property
    def parts(self) -> dict[tuple[str, str], float]:
        """(stage, part) -> seconds."""
        return {(s.name, part): value for s in self.stages for part, value in s.parts.items()}


def iteration(job: Workload, rates: Rates, *, lag: int = 0) -> Iteration:
    """Every stage of one iteration, and how long it takes.

    Args:
        lag: ``train.async_lag`` N, for engines on GPUs of their own. Sampling and push take turns
            on the engines; scoring goes on beside; what is left is the loop's. The slowest of the
            three bounds an iteration, and so does an (N + 1)-th of all of it.
    """
    stages = (
        generate(job, rates),
        score(job, rates),
        update(job, rates),
        sync(job, rates),
        checkpoint(job, rates),
        driver(job, rates),
    )
    stages = tuple(_as_measured(stage, rates) for stage in stages)
    seconds = sum(stage.seconds for stage in stages)
    if lag > 0 and not job.shared:
        sampling, scoring, pushing = stages[0].seconds, stages[1].seconds, stages[3].seconds
        loop = seconds - sampling - scoring
        seconds = max(sampling + pushing, scoring, loop, seconds / (lag + 1))
    return Iteration(stages, seconds, job.sequences)


def _as_measured(stage: StageTime, rates: Rates) -> StageTime:
    factor = rates.measured.get(stage.name, 1.0)
    return StageTime(stage.name, {name: value * factor for name, value in stage.parts.items()})


def score(job: Workload, rates: Rates) -> StageTime:
    """A forward of every model over every row: one after the other on shared GPUs, at once on
    GPUs of their own."""
    config, peak = job.config, job.peak * rates.scoring

    def forward(shape: ModelShape, actors: int) -> float:
        return forward_flops(shape, job.forward_tokens, job.context) / (actors * peak)

    groups: list[dict[str, float]] = []
    for name, model in job.setup.trained.items():
        if name == "critic" or job.scores_policy:
            parts = {name: forward(model.shape, model.ranks)}
            if config.ds.zero_stage == 3:
                share = job.forward_tokens / model.ranks
                count = _micro_batches(share, config.rollout.max_tokens_per_gpu)
                parts["gathering weights"] = count * _gather(job, model, rates)
            groups.append(parts)
    frozen_models = job.setup.frozen
    if frozen_models:
        frozen = sum(forward(shape, config.ref.num_replicas) for shape in frozen_models)
        parts = {"frozen models": frozen}
        if config.ref.offload:
            size = sum(shape.params for shape in frozen_models) * job.width
            parts["moving them to the GPU"] = size / (job.machine.card.pcie * 1e9 * rates.pcie)
        groups.append(parts)
    return StageTime("score", _together(groups, shared=job.shared))


def update(job: Workload, rates: Rates) -> StageTime:
    """Forward, backward and collectives of every micro-batch, and the optimizer's steps."""
    groups = [_update(job, model, rates) for model in job.setup.trained.values()]
    return StageTime("update", _together(groups, shared=job.shared))


def _update(job: Workload, model: TrainedModel, rates: Rates) -> dict[str, float]:
    config, ranks = job.config, model.ranks
    # In units of a forward: the gradient of the activations is one more, that of the weights
    # another (adapters have next to none), and so is a second forward.
    passes = (2 if model.adapted else 3) + model.checkpointing
    tokens = job.forward_tokens * config.train.max_epochs
    products = passes * forward_flops(model.shape, tokens, job.context)
    steps = config.steps_per_iteration
    per_step = tokens / steps / ranks
    parts = {"products": products / (ranks * job.peak * rates.training)}
    parts |= _optimizer(job, model, steps, rates)
    micro = _micro_batches(per_step, config.train.max_tokens_per_gpu)
    if config.train.micro_batch_size is not None:
        rows = config.train.batch_size / ranks
        micro = max(micro, math.ceil(rows / config.train.micro_batch_size))
    if ranks > 1:
        parts["collectives"] = steps * _collectives(job, model, micro, rates)
    return parts


def _optimizer(job: Workload, model: TrainedModel, steps: int, rates: Rates) -> dict[str, float]:
    """AdamW on each rank's part, over its card's memory; or on the host, with gradients there and
    weights back."""
    card, ds = job.machine.card, job.config.ds
    part = model.params / (model.ranks if ds.zero_stage >= 1 else 1)
    if not ds.adam_offload:
        return {"optimizer": steps * part * ADAM_BYTES / (card.hbm * 1e9 * rates.hbm)}
    beside = min(model.ranks, job.machine.per_node)
    moved = part * (4 + job.width) / (card.pcie * 1e9 * rates.pcie)
    return {"optimizer on the host": steps * (part * beside / rates.host_adam + moved)}


def _collectives(job: Workload, model: TrainedModel, micro: int, rates: Rates) -> float:
    """Of one optimizer step, as DeepSpeed 0.19 does them: stage 0 sums the gradients, stage 1 and
    2 sum them and gather the weights that the ranks have stepped (2 sums after every micro-batch,
    for it keeps no whole gradients), stage 3 gathers the weights for every forward and backward
    and leaves each rank its part of the gradients (1.5 times the bytes of stage 2; Rajbhandari et
    al. 2020, section 7.2)."""
    stage, machine, ranks = job.config.ds.zero_stage, job.machine, model.ranks
    gradients = model.params * job.width
    if stage == 3:
        gathered = 2 * _gather(job, model, rates)
        scattered = all_gather(machine, ranks, gradients, rates, calls=_layers(model.shape))
        return micro * (gathered + scattered)
    summed = all_reduce(machine, ranks, gradients, rates)
    if stage == 0:
        return summed
    times = micro if stage == 2 else 1
    return times * summed + all_gather(machine, ranks, gradients, rates)


def _gather(job: Workload, model: TrainedModel, rates: Rates) -> float:
    """All weights once, layer by layer."""
    size, calls = model.shape.params * job.width, _layers(model.shape)
    return all_gather(job.machine, model.ranks, size, rates, calls=calls)


def _layers(shape: ModelShape) -> int:
    return shape.layers + shape.encoder_layers + 2


def sync(job: Workload, rates: Rates) -> StageTime:
    """The policy's weights to every engine, and the proof that they are there."""
    card, config = job.machine.card, job.config
    engines, width = config.vllm.num_engines, config.vllm.tensor_parallel_size
    size = job.setup.policy.shape.params * job.width
    parts = {"engines wake and prove": rates.push_fixed + PUSH_CALLS * engines * rates.call}
    if config.ds.zero_stage == 3:
        parts["gathering weights"] = _gather(job, job.setup.policy, rates)
    if job.transport == "ipc":
        call = rates.call + engines * width * rates.handle
        parts["calls for each GiB"] = math.ceil(size / GIB) * engines * call
        parts["copies and digests"] = size / GIB * rates.push_chunk
    elif job.transport == "nccl":
        outside = job.machine.nodes_of(engines * width + config.actor.num_ranks) > 1
        link = (card.network if outside else card.nvlink) * 1e9 * rates.link
        parts["broadcast from rank 0"] = size / link
    else:
        # Ray copies from node to node: those that have it pass it on.
        rounds = math.ceil(math.log2(max(1, job.machine.nodes_of(engines)))) + 2
        parts["copies in the object store"] = rounds * size / (rates.store * 1e9)
    return StageTime("sync", parts)


def checkpoint(job: Workload, rates: Rates) -> StageTime:
    """An iteration's share of the checkpoints: weights and optimizer by all nodes, the export by
    one."""
    every = job.config.ckpt.save_steps
    if every < 1:
        return StageTime("checkpoint", {"none before the end": 0.0})
    rate = rates.storage * 1e9
    states = job.width + (12 if job.width == 2 else 8)
    written = sum(
        model.params * states / (rate * job.machine.nodes_of(model.ranks))
        for model in job.setup.trained.values()
    )
    exported = job.setup.policy.shape.params * job.width / rate
    return StageTime(
        "checkpoint",
        {"weights and optimizer": written / every, "export by one node": exported / every},
    )


def driver(job: Workload, rates: Rates) -> StageTime:
    """What the one process of the loop does between the stages."""
    groups = job.setup.plan.groups
    calls = sum(CALLS[name] * spec.num_actors for name, spec in groups.items())
    return StageTime(
        "driver",
        {
            "rows": job.room * rates.driver,
            "object store": job.room * rates.shipped / (rates.store * 1e9),
            "calls": calls * rates.call,
        },
    )


def _micro_batches(tokens: float, budget: int) -> int:
    return max(1, math.ceil(tokens / budget))


def _together(groups: Iterable[Parts], *, shared: bool) -> Parts:
    """The parts of all groups where they share GPUs, else of the one that takes longest."""
    groups = list(groups)
    if not shared:
        return max(groups, key=lambda parts: sum(parts.values()))
    total: dict[str, float] = {}
    for parts in groups:
        add(total, parts)
    return total
