"""What a card reaches of its peak, and what hosts take: the constants of the cost model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

STAGES = ("generate", "score", "update", "sync")
"""The stages that a run measures (``time/NAME``), by the names that it has for them."""


@dataclass(frozen=True)
class Rates:
    """None was measured with this program on a GPU. Each field says where it comes from."""

    training: float = 0.40
    """Of a card's peak, recomputation counted, in forward and backward. LLM Foundry's benchmarks of
    1 to 13 B parameters at 1,024 and 2,048 tokens have 0.40 to 0.59 on H100 and 0.60 to 0.79 on
    A100; rows of a few hundred tokens and a head in chunks reach less."""
    scoring: float = 0.50
    """Of a card's peak in forwards alone: no optimizer and no second pass between them."""
    hbm: float = 0.70
    """Of the memory's bandwidth, where weights and cache are read for one token each."""
    link: float = 0.78
    """Of NVLink and network in large collectives: 235 of 300 GB/s in NCCL's tests on an A100
    node."""
    pcie: float = 0.50
    """Of PCIe when all GPUs of a node read from page-locked memory: two of them share a switch in
    a DGX A100."""
    decode_step: float = 3e-3
    """Seconds of the engine's own work per step, between two forwards: it schedules in the process
    that launches. Assumed."""
    decode_sequence: float = 15e-6
    """Seconds of it per running sequence and step: sampling by its own seed, log-prob. Assumed."""
    tp_layer: float = 30e-6
    """Seconds of a layer's two all-reduces of a step between the GPUs of one engine. Assumed."""
    hop_inside: float = 3.4e-6
    """Seconds of a step of a ring inside a node (NCCL's own tuning table: NVLink, simple
    protocol)."""
    hop_outside: float = 14e-6
    """Seconds of a step between nodes (the same table: network)."""
    collective: float = 8.4e-6
    """Seconds that a collective takes to begin (the same table)."""
    host_adam: float = 1.9e9
    """Parameters a second of AdamW on a node's cores, with ``ds.adam_offload``: torch's fused
    kernel did 0.24e9 on one thread of a loaded machine, and a node has a thread for each of eight
    ranks at least."""
    call: float = 5e-4
    """Seconds of the caller for one call on an actor. Ray's own benchmarks have some thousands a
    second."""
    handle: float = 2e-6
    """Seconds to pack one GPU's memory handle into a message; every engine is sent the handles of
    all. Measured on a CPU, with as many tuples of their size."""
    push_fixed: float = 1.5
    """Seconds of a push whatever the size: engines wake, answer the probe, accept. Assumed."""
    push_chunk: float = 0.05
    """Seconds of one GiB of weights over IPC beside the calls: engines and ranks wait for each
    other. Assumed."""
    store: float = 1.0
    """GB/s of a copy through Ray's object store. Assumed."""
    storage: float = 2.0
    """GB/s that a node writes to where checkpoints go. Assumed; an NVMe disk does more, a shared
    file system may do less."""
    driver: float = 3.7e-7
    """Seconds of the driver per response and token of room (the longest response): `python -m
    benchmarks.driver` on two cores of a CPU, 0.35 s for 1,024 x 1,024 and 13 s for 8,192 x
    4,096."""
    shipped: float = 170.0
    """Bytes per token of room that the driver sends and receives in an iteration: rows to three
    groups, their answers, the batch of the update to two."""
    prompt_share: float = 0.25
    """Mean prompt as a share of the longest, where ``plan.prompt_tokens`` is unset. UltraFeedback's
    with a limit of 1,024 tokens."""
    response_share: float = 0.40
    """Mean response as a share of the longest, where ``plan.response_tokens`` is unset."""
    measured: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Stage -> seconds that a run took over those that the model gives for it."""
