"""Whether a run fits a machine: by how much, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rto.planning.cards import CARDS, GpuCard
from rto.planning.engine import GIB
from rto.planning.machine import Capacity, host_gib
from rto.planning.memory import Need, Setup, engine_of, gpu_needs, host_needs, share
from rto.planning.remedies import Remedy, changed, on_gpus, remedies
from rto.sections.run_config import RunConfig

Build = Callable[[RunConfig], Setup]
"""What a configuration comes to; its models are read once."""

TIGHT = 0.05
"""Of a card: what is left below that may be taken by what the formulas do not know."""
MOST_GPUS = 1024


@dataclass(frozen=True)
class Shortage:
    """What does not fit: ``need`` of ``have`` bytes; ``shares`` says who takes them."""

    phase: str
    place: str
    need: float
    have: float
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def excess(self) -> float:
        return self.need - self.have

    def __str__(self) -> str:
        ordered = sorted(self.shares.items(), key=lambda pair: -pair[1])
        who = ", ".join(f"{name} {value / GIB:,.1f}" for name, value in ordered)
        return (
            f"{self.phase} takes {self.need / GIB:,.1f} of the {self.have / GIB:,.1f} GiB of a "
            f"{self.place}, {self.excess / GIB:,.1f} too much" + (f" ({who})" if who else "")
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
            places = dict.fromkeys(each.place for each in self.shortages)
            worst = [max(self._at(place), key=lambda x: x.excess) for place in places]
            why = "; ".join(str(each) for each in worst)
            return f"does not fit {self.capacity.name}: {why}. {self.remedy}"
        if self.free is None:
            return "no verdict: the memory of the GPUs is not known here, give --plan.gpus"
        if self.capacity.gpu is not None and self.free < TIGHT * self.capacity.gpu:
            left = f"narrowly, {self.free / GIB:.1f} GiB are left"
        else:
            left = f"{self.free / GIB:.1f} GiB are left"
        where = f"of the fullest {self.fullest.place}, in {self.fullest.phase}"
        return f"fits {self.capacity.name}: {left} {where}"

    def _at(self, place: str) -> list[Shortage]:
        return [each for each in self.shortages if each.place == place]


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
    return [
        Shortage(n.phase, n.place, n.total, have, {name: n.group(name) for name in n.groups})
        for n in needs
        if n.total > have
    ]


def _cache_shortage(setup: Setup, card: float, tokens: int) -> list[Shortage]:
    """vLLM refuses a cache that does not hold one row of the greatest length."""
    longest = setup.config.data.max_len
    if tokens >= longest:
        return []
    engine = engine_of(setup, card)
    need = engine.weights + engine.working + longest * engine.token_bytes
    shares = {"weights": engine.weights, "working memory": engine.working}
    return [Shortage("sampling", "GPU's share for an engine", need, share(setup, card), shares)]


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
    found = _on_more(config, build, capacity, least=2)
    if found:
        return f"No setting makes it fit; the fewest GPUs that would are {found}"
    larger = [card for card in CARDS if card.usable_gib * GIB > (capacity.gpu or 0)]
    for card in sorted(larger, key=lambda card: card.usable_gib):
        found = _on_more(config, build, _with_card(capacity, card), least=1)
        if found:
            return f"No number of these GPUs makes it fit; the fewest larger ones are {found}"
    return "Neither settings nor any number of GPUs make it fit: take a smaller model"


def _with_card(capacity: Capacity, card: GpuCard) -> Capacity:
    """The same number of nodes and GPUs with another card, and the host memory usual beside it."""
    host = capacity.host and host_gib(card.name) * capacity.per_node * GIB
    return replace(capacity, gpu=card.usable_gib * GIB, host=host, card=card)


def _on_more(config: RunConfig, build: Build, capacity: Capacity, *, least: int) -> str:
    """The fewest GPUs on which the run fits, from ``least`` times its own on; empty where there is
    no such number."""
    ranks = least * build(config).policy.ranks
    while ranks <= MOST_GPUS:
        found = _with_ranks(config, build, capacity, ranks)
        if found:
            return found
        ranks *= 2
    return ""


def _with_ranks(config: RunConfig, build: Build, capacity: Capacity, ranks: int) -> str:
    """So many ranks, where they are enough and the batch divides; else empty."""
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
    gpus = round(build(changed(more, chosen)).plan.total("GPU"))
    name = "" if capacity.card is None else f" {capacity.card.name}-{capacity.card.gib}"
    nodes = f" on {machine.nodes} nodes" if machine.nodes > 1 else ""
    return f"{gpus}{name}{nodes}" + (f", with {_flags(chosen)}" if chosen else "")


def _settings(config: RunConfig, build: Build, capacity: Capacity) -> list[Remedy] | None:
    """The first remedy that is enough, else those that help, one after the other, until it fits;
    None where all of them do not make it fit."""
    able = list(remedies(build(config), capacity.per_node))
    for each in able:
        if _fits(changed(config, [each]), build, capacity):
            return [each]
    chosen: list[Remedy] = []
    excess = _excess(config, build, capacity)
    for each in able:
        left = _excess(changed(config, [*chosen, each]), build, capacity)
        if left < excess:
            chosen, excess = [*chosen, each], left
        if left == 0:
            return _fewest(chosen, config, build, capacity)
    return None


def _excess(config: RunConfig, build: Build, capacity: Capacity) -> float:
    """Bytes above the capacity, over all phases and places."""
    found = _weighed(build(config), capacity).shortages
    return sum(each.excess for each in found)


def _fewest(
    chosen: Sequence[Remedy], config: RunConfig, build: Build, capacity: Capacity
) -> list[Remedy]:
    """Without those that are not needed, the last tried first to go."""
    kept = list(chosen)
    for each in reversed(chosen):
        fewer = [other for other in kept if other is not each]
        if _fits(changed(config, fewer), build, capacity):
            kept = fewer
    return kept


def _flags(chosen: Sequence[Remedy]) -> str:
    return " and ".join(flag for remedy in chosen for flag in remedy.flags)
