"""Changes of a run's settings that make it need less memory, in the order in which they are tried:
first those that leave the result as it is, then adapters, which do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rto.planning.memory import Setup
from rto.sections.run_config import RunConfig

LEAST_TOKENS = 4096
"""Below that a forward no longer fills a card."""
LOWEST_SHARE = 0.2
LORA_RANK = 64


@dataclass(frozen=True)
class Remedy:
    """Flags as a user writes them, and the configuration with them."""

    flags: tuple[str, ...]
    change: Callable[[RunConfig], RunConfig]


def remedies(setup: Setup, per_node: int) -> Iterator[Remedy]:
    """Those that change something of this run."""
    config, on_gpu = setup.config, not setup.on_cpu
    for name in setup.trained:
        section = {"policy": "actor"}.get(name, name)
        if not getattr(config, section).gradient_checkpointing_enable:
            yield _checkpointing(section)
    for section in ("train", "rollout") if setup.online else ("train",):
        yield from _tokens(config, section)
    if setup.frozen and on_gpu and not config.ref.offload:
        yield Remedy(("ref.offload true",), lambda c: replace(c, ref=replace(c.ref, offload=True)))
    if setup.online and setup.plan.colocated:
        yield from _engines(setup, per_node)
    for stage in (2, 3):
        if config.ds.zero_stage < stage and (setup.policy.ranks > 1 or stage == 2):
            yield _ds(zero_stage=stage)
    if on_gpu and config.ds.zero_stage and not config.ds.adam_offload:
        yield _ds(adam_offload=True)
    if not config.ds.lora.rank:
        yield Remedy(
            (f"ds.lora.rank {LORA_RANK}",),
            lambda c: replace(c, ds=replace(c.ds, lora=replace(c.ds.lora, rank=LORA_RANK))),
        )


def _engines(setup: Setup, per_node: int) -> Iterator[Remedy]:
    config = setup.config
    if not config.vllm.enable_sleep:
        yield _vllm(enable_sleep=True)
    share = config.vllm.memory_share(setup.plan.beside_engine)
    lower = (round(share - 0.05 * step, 2) for step in range(1, 20))
    yield from (_vllm(gpu_memory_utilization=x) for x in lower if x >= LOWEST_SHARE)
    higher = (round(share + 0.1 * step, 2) for step in range(1, 10))
    yield from (_vllm(gpu_memory_utilization=x) for x in higher if x <= 0.9)
    ranks, width = setup.policy.ranks, 2 * config.vllm.tensor_parallel_size
    while width <= min(ranks, per_node) and ranks % width == 0 and per_node % width == 0:
        yield _vllm(tensor_parallel_size=width, num_engines=ranks // width)
        width *= 2


def _checkpointing(section: str) -> Remedy:
    name = "gradient_checkpointing_enable"

    def change(config: RunConfig) -> RunConfig:
        return replace(config, **{section: replace(getattr(config, section), **{name: True})})

    return Remedy((f"{section}.{name} true",), change)


def _tokens(config: RunConfig, section: str) -> Iterator[Remedy]:
    """Halves of the budget, down to one row of the greatest length."""
    tokens = getattr(config, section).max_tokens_per_gpu // 2
    while tokens >= max(LEAST_TOKENS, config.data.max_len):
        yield _budget(section, tokens)
        tokens //= 2


def _budget(section: str, tokens: int) -> Remedy:
    def change(config: RunConfig) -> RunConfig:
        changed = replace(getattr(config, section), max_tokens_per_gpu=tokens)
        return replace(config, **{section: changed})

    return Remedy((f"{section}.max_tokens_per_gpu {tokens}",), change)


def _ds(**values: object) -> Remedy:
    return Remedy(
        _flags("ds", values),
        lambda c: replace(c, ds=replace(c.ds, **values)),  # type: ignore[arg-type]
    )


def _vllm(**values: object) -> Remedy:
    return Remedy(
        _flags("vllm", values),
        lambda c: replace(c, vllm=replace(c.vllm, **values)),  # type: ignore[arg-type]
    )


def _flags(section: str, values: dict[str, object]) -> tuple[str, ...]:
    return tuple(f"{section}.{name} {str(value).lower()}" for name, value in values.items())


def on_gpus(config: RunConfig, gpus: int, per_node: int) -> RunConfig:
    """The run with its ranks, replicas and engines on so many GPUs, whole nodes of them."""
    here = min(gpus, per_node)
    spread = {"num_nodes": gpus // here, "num_gpus_per_node": here}
    engines = max(1, gpus // config.vllm.tensor_parallel_size)
    return replace(
        config,
        actor=replace(config.actor, **spread),
        critic=replace(config.critic, **spread),
        ref=replace(config.ref, **spread),
        vllm=replace(config.vllm, num_engines=engines),
    )
