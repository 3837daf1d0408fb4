"""Whether a run fits a machine: by how much, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from rto.planning.engine import GIB
from rto.planning.machine import Capacity
from rto.planning.memory import Need, Setup, engine_of, gpu_needs, host_needs, share
from rto.planning.remedies import Remedy, on_gpus, remedies
from rto.sections.run_config import RunConfig

Build = Callable[[RunConfig], Setup]
"""What a configuration comes to; its models are read once."""

TIGHT = 0.05
"""Of a card: what is left below that may be taken by what the formulas do not know."""
MOST_GPUS = 1024


@dataclass(frozen=True)
class Shortage:
    """What does not fit: ``need`` of ``have`` bytes."""

    phase: str
    place: str
    need: float
    have: float

    def __str__(self) -> str:
        return (
            f"{self.place} in {self.phase}: {self.need / GIB:,.1f} GiB of {self.have / GIB:,.1f}, "
            f"{(self.need - self.have) / GIB:,.1f} too much"
        )


@dataclass(frozen=True)
class Verdict:
    """``gpu`` and ``host`` are all needs; ``shortages`` those that are above the capacity, the
    worst first; ``remedy`` the settings that would make it fit."""

    capacity: Capacity
    gpu: Sequence[Need]
    host: Sequence[Need]
    shortages: Sequence[Shortage]
    cache_tokens: int | None = None
    """Tokens of an engine's KV cache."""
    remedy: str = ""

    @property
    def fits(self) -> bool:
        return not self.shortages

    @property
    def fullest(self) -> Need:
        return max(self.gpu, key=lambda need: need.total)

    @property
    def free(self) -> float | None:
        """Bytes left on the fullest GPU."""
        return None if self.capacity.gpu is None else self.capacity.gpu - self.fullest.total

    @property
    def told(self) -> str:
        """The verdict as one line."""
        if not self.fits:
            why = "; ".join(str(each) for each in self.shortages[:2])
            return f"does not fit {self.capacity.name}: {why}. {self.remedy}"
        if self.free is None:
            return "no verdict: the memory of the GPUs is not known here, give --plan.gpus"
        if self.capacity.gpu is not None and self.free < TIGHT * self.capacity.gpu:
            left = f"narrowly: {self.free / GIB:.1f} GiB are left"
        else:
            left = f"{self.free / GIB:.1f} GiB are left"
        return f"fits {self.capacity.name}, {left} of {self.fullest.place} in {self.fullest.phase}"


def judge(config: RunConfig, build: Build, capacity: Capacity) -> Verdict:
    """The needs of a run, and its remedy where they are above the capacity."""
    verdict = _weighed(build(config), capacity)
    if verdict.fits:
        return verdict
    return replace(verdict, remedy=_remedy(config, build, capacity))


def _weighed(setup: Setup, capacity: Capacity) -> Verdict:
    gpu = list(gpu_needs(setup, capacity.gpu))
    host = [] if setup.on_cpu else host_needs(setup, capacity.per_node)
    shortages = [*_above(gpu, capacity.gpu), *_above(host, capacity.host)]
    cache = None
    if setup.online and not setup.on_cpu and setup.config.vllm.engine == "vllm" and capacity.gpu:
        cache = engine_of(setup, capacity.gpu).cache_tokens(share(setup, capacity.gpu))
        shortages += _cache_shortage(setup, capacity.gpu, cache)
    return Verdict(capacity, gpu, host, shortages, cache)


def _above(needs: Sequence[Need], have: float | None) -> list[Shortage]:
    if have is None:
        return []
    found = [Shortage(n.phase, n.place, n.total, have) for n in needs if n.total > have]
    return sorted(found, key=lambda shortage: shortage.have - shortage.need)


def _cache_shortage(setup: Setup, card: float, tokens: int) -> list[Shortage]:
    """vLLM refuses a cache that does not hold one row of the greatest length."""
    longest = setup.config.data.max_len
    if tokens >= longest:
        return []
    engine = engine_of(setup, card)
    need = engine.weights + engine.working + longest * engine.token_bytes
    return [Shortage("sampling", "the engine's share of a GPU", need, share(setup, card))]


def _fits(config: RunConfig, build: Build, capacity: Capacity) -> bool:
    return _weighed(build(config), capacity).fits


def _remedy(config: RunConfig, build: Build, capacity: Capacity) -> str:
    """The first change that is enough by itself, else as few of them as there need be, else the
    fewest GPUs."""
    found = _settings(config, build, capacity)
    if found is not None:
        return f"It fits with {_flags(found)}"
    if build(config).on_cpu:
        return "No setting makes it fit: take a smaller model, or a machine with more memory"
    ranks = 2 * build(config).policy.ranks
    while ranks <= MOST_GPUS:
        told = _on_more(config, build, capacity, ranks)
        if told:
            return told
        ranks *= 2
    return f"Neither settings nor {MOST_GPUS} of these GPUs make it fit: take a smaller model"


def _on_more(config: RunConfig, build: Build, capacity: Capacity, ranks: int) -> str:
    """The line for so many ranks; empty where they are not enough, or the batch does not divide."""
    usual = capacity.card.per_node if capacity.card is not None else 8
    per_node = min(ranks, max(usual, capacity.per_node))
    groups = ranks * config.rollout.n_samples_per_prompt
    if config.train.batch_size % groups or ranks % per_node:
        return ""
    host = capacity.host and capacity.host * per_node / capacity.per_node
    more = on_gpus(config, ranks, per_node)
    machine = replace(capacity, per_node=per_node, nodes=ranks // per_node, host=host)
    chosen = [] if _fits(more, build, machine) else _settings(more, build, machine)
    if chosen is None:
        return ""
    gpus = round(build(_changed(more, chosen)).plan.total("GPU"))
    nodes = f" on {machine.nodes} nodes" if machine.nodes > 1 else ""
    how = f", with {_flags(chosen)}" if chosen else ""
    return f"No setting makes it fit; the fewest GPUs that would are {gpus}{nodes}{how}"


def _settings(config: RunConfig, build: Build, capacity: Capacity) -> list[Remedy] | None:
    """The first remedy that is enough, else those that help, one after the other, until it fits;
    None where all of them do not make it fit."""
    able = list(remedies(build(config), capacity.per_node))
    for each in able:
        if _fits(each.change(config), build, capacity):
            return [each]
    chosen: list[Remedy] = []
    excess = _excess(config, build, capacity)
    for each in able:
        left = _excess(_changed(config, [*chosen, each]), build, capacity)
        if left < excess:
            chosen, excess = [*chosen, each], left
        if left == 0:
            return _fewest(chosen, config, build, capacity)
    return None


def _excess(config: RunConfig, build: Build, capacity: Capacity) -> float:
    """Bytes above the capacity, over all phases and places."""
    found = _weighed(build(config), capacity).shortages
    return sum(each.need - each.have for each in found)


def _fewest(
    chosen: Sequence[Remedy], config: RunConfig, build: Build, capacity: Capacity
) -> list[Remedy]:
    """Without those that are not needed, the last tried first to go."""
    kept = list(chosen)
    for each in reversed(chosen):
        fewer = [other for other in kept if other is not each]
        if _fits(_changed(config, fewer), build, capacity):
            kept = fewer
    return kept


def _changed(config: RunConfig, chosen: Sequence[Remedy]) -> RunConfig:
    return reduce(lambda changed, remedy: remedy.change(changed), chosen, config)


def _flags(chosen: Sequence[Remedy]) -> str:
    return " and ".join(f"--{flag}" for remedy in chosen for flag in remedy.flags)
