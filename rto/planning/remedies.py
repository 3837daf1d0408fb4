"""Changes of a run's settings that make it need less memory, in the order in which they are tried:
first those that leave the result as it is, then adapters, which do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rto.planning.memory import Setup
from rto.sections.run_config import RunConfig

LEAST_TOKENS = 4096
"""Below that a forward no longer fills a card."""
LOWEST_SHARE, HIGHEST_SHARE = 0.2, 0.9
LORA_RANK = 64


@dataclass(frozen=True)
class Remedy:
    """Settings of one section and the values that they are to have; a dot leads into a section of
    it."""

    section: str
    values: Mapping[str, object]

    @property
    def flags(self) -> list[str]:
        """As a user writes them."""
        return [f"--{self.section}.{k} {str(v).lower()}" for k, v in self.values.items()]


def changed(config: RunConfig, chosen: Sequence[Remedy]) -> RunConfig:
    """The configuration with all of them; of two for one setting the later one counts."""
    values: dict[str, dict[str, object]] = {}
    for each in chosen:
        values.setdefault(each.section, {}).update(each.values)
    sections = {name: _with(getattr(config, name), new) for name, new in values.items()}
    return replace(config, **sections) if sections else config


def _with(section: Any, values: Mapping[str, object]) -> Any:
    inner: dict[str, dict[str, object]] = {}
    own: dict[str, object] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    nested = {name: _with(getattr(section, name), new) for name, new in inner.items()}
    return replace(section, **own, **nested)


def remedies(setup: Setup, per_node: int) -> Iterator[Remedy]:
    """Those that change something of this run. ``per_node``: GPUs of a node."""
    yield from _of_forwards(setup)
    if setup.frozen and not setup.on_cpu and not setup.config.ref.offload:
        yield Remedy("ref", {"offload": True})
    if setup.online and setup.plan.colocated:
        yield from _of_engines(setup, per_node)
    if setup.frozen and not setup.on_cpu:
        yield from _of_replicas(setup.config)
    yield from _of_ranks(setup)


def _of_forwards(setup: Setup) -> Iterator[Remedy]:
    """Checkpointing, then halves of the token budgets, down to one row of the greatest length."""
    config, longest = setup.config, setup.config.data.max_len
    for section in ("actor", "critic")[: len(setup.trained)]:
        if not getattr(config, section).gradient_checkpointing_enable:
            yield Remedy(section, {"gradient_checkpointing_enable": True})
    for section in ("train", "rollout"):
        tokens = getattr(config, section).max_tokens_per_gpu // 2
        while tokens >= max(LEAST_TOKENS, longest):
            yield Remedy(section, {"max_tokens_per_gpu": tokens})
            tokens //= 2


def _of_engines(setup: Setup, per_node: int) -> Iterator[Remedy]:
    """Smaller shares, larger ones where the cache has no room, and engines over several GPUs."""
    vllm = setup.config.vllm
    if not vllm.enable_sleep:
        yield Remedy("vllm", {"enable_sleep": True})
    share = vllm.memory_share(setup.plan.beside_engine)
    steps = [round(share - 0.05 * step, 2) for step in range(1, 20)]
    steps += [round(share + 0.1 * step, 2) for step in range(1, 10)]
    for step in steps:
        if LOWEST_SHARE <= step <= HIGHEST_SHARE:
            yield Remedy("vllm", {"gpu_memory_utilization": step})
    ranks, width = setup.policy.ranks, 2 * vllm.tensor_parallel_size
    while width <= min(ranks, per_node) and ranks % width == 0 and per_node % width == 0:
        yield Remedy("vllm", {"tensor_parallel_size": width, "num_engines": ranks // width})
        width *= 2


def _of_replicas(config: RunConfig) -> Iterator[Remedy]:
    """Fewer copies of the frozen models: each has all of them in its node's memory."""
    count = config.ref.num_gpus_per_node // 2
    while count >= 1:
        yield Remedy("ref", {"num_gpus_per_node": count})
        count //= 2


def _of_ranks(setup: Setup) -> Iterator[Remedy]:
    ds = setup.config.ds
    for stage in (2, 3):
        if ds.zero_stage < stage and (stage == 2 or setup.policy.ranks > 1):
            yield Remedy("ds", {"zero_stage": stage})
    if not setup.on_cpu and ds.zero_stage and not ds.adam_offload:
        yield Remedy("ds", {"adam_offload": True})
    if not ds.lora.rank:
        yield Remedy("ds", {"lora.rank": LORA_RANK})


def on_gpus(config: RunConfig, gpus: int, per_node: int) -> RunConfig:
    """The run with its ranks, replicas and engines on so many GPUs, whole nodes of them."""
    here = min(gpus, per_node)
    spread = {"num_nodes": gpus // here, "num_gpus_per_node": here}
    engines = max(1, gpus // config.vllm.tensor_parallel_size)
    chosen = [Remedy(section, spread) for section in ("actor", "critic", "ref")]
    return changed(config, [*chosen, Remedy("vllm", {"num_engines": engines})])
