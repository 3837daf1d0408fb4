"""What each group of actors has in memory in each phase of a run: on a GPU, on a node, on disk.

The figures that no formula gives (a CUDA context, an engine asleep, a process) are named constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rto.cluster.plan import Plan, choose_transport, takes_turns
from rto.planning.activations import backward, forward
from rto.planning.engine import GIB, EngineMemory, transformers_parts
from rto.planning.shape import ModelShape
from rto.planning.states import (
    Parts,
    TrainedModel,
    accumulated,
    gathered,
    held,
    on_host,
    width,
)
from rto.sections.run_config import RunConfig
from rto.weights.buffer import LEAST

Phase = Literal["start", "sampling", "scoring", "update", "push", "checkpoint"]
ONLINE: tuple[Phase, ...] = ("start", "sampling", "scoring", "update", "push", "checkpoint")
OFFLINE: tuple[Phase, ...] = ("start", "scoring", "update", "checkpoint")

CONTEXT = 0.6 * GIB
"""GPU memory of a process before its first tensor, with the workspace of its matrix products."""
NCCL = 0.5 * GIB
"""Buffers of a group of several GPUs, on each of them."""
ASLEEP = 1.0 * GIB
"""What a sleeping engine of vLLM keeps: graphs, and what its allocator does not manage."""
PROCESS = {"cpu": 0.7 * GIB, "cuda": 3.0 * GIB}
"""Host memory of an actor's process with its libraries."""
TOKEN_IN_STORE = 64
"""Bytes of a token in the object store: ids, masks, log-probs, scores, advantages."""


@dataclass(frozen=True)
class Setup:
    """A run's models and where they are."""

    config: RunConfig
    plan: Plan
    policy: TrainedModel
    critic: TrainedModel | None = None
    frozen: tuple[ModelShape, ...] = ()
    """Each model that a scorer holds, once."""
    online: bool = True
    rows: int = 1
    """Sequences of one row of a batch: two of a pair."""
    entropy: bool = False

    @property
    def phases(self) -> tuple[Phase, ...]:
        return ONLINE if self.online else OFFLINE

    @property
    def on_cpu(self) -> bool:
        return self.plan.device == "cpu"

    @property
    def trained(self) -> dict[str, TrainedModel]:
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic else {})

    @property
    def engine_width(self) -> int:
        return self.config.vllm.tensor_parallel_size

    def update_tokens(self, ranks: int) -> int:
        """Most tokens of a training forward on one rank."""
        train = self.config.train
        sequences = max(1, self.rows * train.batch_size // ranks)
        if train.micro_batch_size is not None:
            sequences = min(sequences, self.rows * train.micro_batch_size)
        return self._tokens(train.max_tokens_per_gpu, sequences)

    def score_tokens(self, actors: int) -> int:
        """Most tokens of a scoring forward on one actor."""
        rollout = self.config.rollout
        total = rollout.num_sequences if self.online else self.config.train.batch_size * self.rows
        return self._tokens(rollout.max_tokens_per_gpu, math.ceil(total / actors))

    def _tokens(self, budget: int, sequences: int) -> int:
        """A forward takes one row at least, however long."""
        longest = self.config.data.max_len
        return min(max(budget, longest), sequences * longest)


@dataclass(frozen=True)
class Place:
    """GPUs on which the same groups are; the whole machine on a CPU."""

    name: str
    groups: tuple[str, ...]
    count: int = 1


@dataclass(frozen=True)
class Need:
    """What one place needs in one phase: group -> what for -> bytes."""

    phase: str
    place: str
    groups: Mapping[str, Parts] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.group(name) for name in self.groups)

    def group(self, name: str) -> float:
        return sum(self.groups.get(name, {}).values())


def places(setup: Setup) -> list[Place]:
    """The kinds of GPUs that a run has, the ones with the most groups first."""
    specs = setup.plan.groups
    if setup.on_cpu:
        return [Place("machine", tuple(specs))]
    spans = {
        name: spec.num_actors * (setup.engine_width if name == "engine" else 1)
        for name, spec in specs.items()
    }
    if not setup.plan.colocated:
        return [Place(f"GPU of {name}", (name,), span) for name, span in spans.items()]
    return _shared_places(spans)


def _shared_places(spans: Mapping[str, int]) -> list[Place]:
    """Of groups that share GPUs, by how many each spans."""
    sizes = sorted(set(spans.values()))
    if len(sizes) == 1:
        return [Place("GPU", tuple(spans), sizes[0])]
    together = [tuple(name for name in spans if spans[name] >= size) for size in sizes]
    counts = [size - before for before, size in zip([0, *sizes], sizes, strict=False)]
    return [
        Place(f"GPU of {', '.join(groups)}", groups, count)
        for groups, count in zip(together, counts, strict=True)
    ]


def gpu_needs(setup: Setup, card: float | None) -> Iterator[Need]:
    """Of each kind of GPU in each phase; of the machine, on a CPU. ``card``: its bytes, None
    where they are not known, so that an engine's share is not either."""
    for place in places(setup):
        for phase in setup.phases:
            groups = {
                name: _scaled(_group(setup, name, phase, card), setup, name)
                for name in place.groups
            }
            yield Need(phase, place.name, groups)


def _scaled(parts: Parts, setup: Setup, name: str) -> Parts:
    """All actors of a group share the memory of a machine without GPUs."""
    if not setup.on_cpu:
        return parts
    actors = setup.plan.groups[name].num_actors
    return {each: value * actors for each, value in parts.items()}


def _group(setup: Setup, name: str, phase: Phase, card: float | None) -> Parts:
    process = PROCESS["cpu"] if setup.on_cpu else CONTEXT
    ranks = setup.plan.groups[name].num_actors
    together = setup.engine_width if name == "engine" else ranks if name != "scorer" else 1
    if together > 1 and not setup.on_cpu:
        process += NCCL
    parts = {"process": process}
    if name == "engine":
        return _sum(parts, _engine(setup, phase, card))
    if name == "scorer":
        return _sum(parts, _scorer(setup, phase))
    return _sum(parts, _trainer(setup, name, phase))


def _trainer(setup: Setup, name: str, phase: Phase) -> Parts:
    model, ds, config = setup.trained[name], setup.config.ds, setup.config
    device = setup.plan.device
    always = held(model, ds, on_cpu=setup.on_cpu)
    if phase == "start":
        return {each: value for each, value in always.items() if each != "optimizer"}
    if phase == "update":
        tokens = setup.update_tokens(model.ranks)
        entropy = setup.entropy and name == "policy"
        working = backward(model, ds, tokens, device=device, entropy=entropy)
        return _sum(always, accumulated(model, ds, on_cpu=setup.on_cpu), working)
    whole = {"whole weights": gathered(model, ds)} if ds.zero_stage == 3 else {}
    if phase == "scoring":
        working = forward(model.shape, ds, setup.score_tokens(model.ranks), device=device)
        return _sum(always, whole, working)
    if phase == "push" and name == "policy":
        sent = _sent(setup)
        return _sum(always, whole, {"weight transfer": sent} if sent else {})
    return _sum(always, whole) if phase == "checkpoint" and config.ds.zero_stage == 3 else always


def _sent(setup: Setup) -> float:
    """The buffer of a transfer and the copy that the other side takes of it; beside it a tensor
    that adapters are merged into, in fp32."""
    config, shape = setup.config, setup.policy.shape
    transport = choose_transport(config, device=setup.plan.device, colocated=setup.plan.colocated)
    buffer = max(LEAST, shape.largest * width(config.ds))
    merged = 12 * shape.hidden * shape.intermediate if setup.policy.adapted else 0
    return merged + (0 if transport == "object_store" else 2 * buffer)


def _scorer(setup: Setup, phase: Phase) -> Parts:
    """Offloaded models come one at a time; others stay, and so does what their forwards took,
    which torch keeps for the next one."""
    ds, device = setup.config.ds, setup.plan.device
    sizes = [shape.params * width(ds) for shape in setup.frozen]
    offload = setup.config.ref.offload and not setup.on_cpu
    if phase == "start":
        return {"parameters": max(sizes) if offload else sum(sizes)}
    if not setup.online and phase != "scoring":
        # The actors of a reference end when its log-probs are there.
        return {}
    if offload and phase != "scoring":
        return {}
    tokens = setup.score_tokens(setup.plan.groups["scorer"].num_actors)
    works = [forward(shape, ds, tokens, device=device) for shape in setup.frozen]
    if not offload:
        largest = max(works, key=lambda parts: sum(parts.values()))
        if setup.on_cpu and phase != "scoring":
            largest = {}
        return {"parameters": sum(sizes)} | dict(largest)
    pairs = [{"parameters": size, **work} for size, work in zip(sizes, works, strict=True)]
    return max(pairs, key=lambda parts: sum(parts.values()))


def engine_of(setup: Setup, card: float | None) -> EngineMemory:
    vllm = setup.config.vllm
    return EngineMemory(
        setup.policy.shape,
        width(setup.config.ds),
        vllm.tensor_parallel_size,
        eager=vllm.enforce_eager,
        large=card is not None and card > 85 * GIB,
    )


def share(setup: Setup, card: float) -> float:
    """Bytes of a card that an engine may take."""
    return setup.config.vllm.memory_share(setup.plan.beside_engine) * card


def _engine(setup: Setup, phase: Phase, card: float | None) -> Parts:
    config, shape, size = setup.config, setup.policy.shape, width(setup.config.ds)
    awake = phase in ("sampling", "push", "checkpoint") or not takes_turns(setup.config, setup.plan)
    if config.vllm.engine == "transformers":
        parts = transformers_parts(shape, size, setup.score_tokens(config.vllm.num_engines))
        kept = {"weights": parts["weights"]}
        return (parts if phase == "sampling" else kept) if awake else {}
    if not awake:
        return {"asleep": ASLEEP}
    if setup.on_cpu:
        cache = config.vllm.cpu_kvcache_gib * GIB
        return {"weights": shape.params * size, "KV cache": cache}
    engine = engine_of(setup, card)
    return engine.parts(share(setup, card)) if card else {"weights": engine.weights}


def _sum(*all_parts: Parts) -> Parts:
    total: dict[str, float] = {}
    for parts in all_parts:
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + value
    return total


def host_needs(setup: Setup, gpus_per_node: int) -> list[Need]:
    """Host memory of the node that rank 0 and the driver are on: without the page cache, which
    gives way."""
    config, ds = setup.config, setup.config.ds
    size = width(ds)
    here = {name: min(spec.num_actors, gpus_per_node) for name, spec in setup.plan.groups.items()}
    policy = setup.policy.shape.params * size
    always: dict[str, Parts] = {
        "driver": {"process": PROCESS["cuda"], "rollouts": _rollouts(setup)},
        **{name: {"process": PROCESS["cuda"] * count} for name, count in here.items()},
    }
    for name, model in setup.trained.items():
        states = on_host(model, ds) * here[name]
        average = 4 * model.shape.params if config.train.enable_ema and name == "policy" else 0
        written = _saved(setup, model, here[name]) if config.ckpt.async_write else 0
        more = {
            "offloaded optimizer": states,
            "moving average": average,
            "checkpoint in writing": written,
        }
        always[name] = {**always[name], **{each: value for each, value in more.items() if value}}
    loads = {name: model.shape.params * size * here[name] for name, model in setup.trained.items()}
    if setup.frozen:
        loads["scorer"] = max(each.params for each in setup.frozen) * size * here["scorer"]
        if config.ref.offload:
            pinned = sum(shape.page_locked for shape in setup.frozen) * size
            always["scorer"] = {**always["scorer"], "frozen models": pinned * here["scorer"]}
    return [
        Need("start", "node", _with(always, {n: {"loading": v} for n, v in loads.items()})),
        Need("running", "node", always),
        *([Need("push", "node", _with(always, _pushed(setup)))] if setup.online else []),
        Need("checkpoint", "node", _with(always, {"policy": {"export": policy}})),
    ]


def _pushed(setup: Setup) -> Mapping[str, Parts]:
    config = setup.config
    transport = choose_transport(config, device=setup.plan.device, colocated=setup.plan.colocated)
    if transport != "object_store":
        return {}
    size = setup.policy.shape.params * width(config.ds)
    return {"policy": {"weights": size}, "driver": {"object store": size}}


def _rollouts(setup: Setup) -> float:
    if not setup.online:
        return 0.0
    return TOKEN_IN_STORE * setup.config.rollout.num_sequences * setup.config.data.max_len


def _with(always: Mapping[str, Parts], more: Mapping[str, Parts]) -> Mapping[str, Parts]:
    return {name: _sum(always.get(name, {}), more.get(name, {})) for name in {**always, **more}}


def _saved(setup: Setup, model: TrainedModel, ranks: int) -> float:
    """Bytes that so many ranks of a model, rank 0 among them, write of a checkpoint: the weights,
    and each its part of the optimizer with the fp32 weights."""
    ds = setup.config.ds
    states = 8 if width(ds) == 4 and ds.zero_stage == 0 else 12
    part = ranks / model.ranks if ds.zero_stage else 1
    return model.params * (width(ds) + states * part)


def disk(setup: Setup) -> Parts:
    """Bytes of the run folder at its fullest: the checkpoints that are kept and one in writing,
    and the exports `last` and `best` with the draft of one."""
    config, size = setup.config, width(setup.config.ds)
    one = sum(_saved(setup, model, model.ranks) for model in setup.trained.values())
    if config.train.enable_ema:
        one += 4 * setup.policy.shape.params
    exported = setup.policy.shape.params
    if setup.critic is not None and config.critic.save_value_network:
        exported += setup.critic.shape.params
    return {
        "checkpoints": one * (max(1, config.ckpt.max_num) + 1),
        "exports": 3 * exported * size,
    }
