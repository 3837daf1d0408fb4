"""The machine that a run is planned for: its GPUs' memory, its nodes and their host memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rto.planning.cards import GpuCard, find_card, known_cards
from rto.planning.engine import GIB
from rto.sections.ranges import require
from rto.sections.runtime import Planned

HOST_GIB_PER_GPU = {"A100": 144, "H100": 256, "H200": 256, "B200": 256, "L40S": 192}
"""Host memory beside each GPU where ``plan.host_gib`` is unset: that of AWS's machines with eight
of the cards (p4de, p5, p5e, p6-b200, g6e.48xlarge)."""
OTHER_HOST_GIB = 64
"""Beside each of other cards."""
UNLISTED = 0.985
"""Of the memory in a card's name, what torch finds of one that the table has not."""


@dataclass(frozen=True)
class Capacity:
    """What there is. None: not known here, so that nothing is refused for it."""

    name: str
    gpu: float | None
    """Bytes of one GPU that torch may allocate."""
    host: float | None
    """Bytes of a node's memory."""
    per_node: int
    nodes: int = 1
    card: GpuCard | None = None

    @property
    def gpus(self) -> int:
        return self.per_node * self.nodes


def planned_capacity(plan: Planned) -> Capacity:
    """What ``plan.gpus`` and ``plan.host_gib`` describe.

    Raises:
        UserError: a card that the table has not, without its memory.
    """
    card = find_card(plan.card, plan.gib)
    require(
        card is not None or plan.gib is not None,
        f"plan.gpus is {plan.gpus}: the memory of {plan.card} is not in the table "
        f"({known_cards()}): write it behind the name, as in 8x{plan.card}-80",
    )
    gib = card.usable_gib if card is not None else (plan.gib or 0) * UNLISTED
    usual = card.per_node if card is not None else 8
    nodes, per_node = plan.num_nodes, plan.per_node
    if nodes is None:
        nodes = math.ceil(per_node / usual)
        per_node = math.ceil(per_node / nodes)
    host = plan.host_gib or host_gib(plan.card) * per_node
    return Capacity(str(plan.gpus), gib * GIB, host * GIB, per_node, nodes, card)


def host_gib(card: str) -> int:
    """Host memory that is taken to be beside each GPU of this name."""
    return HOST_GIB_PER_GPU.get(card.upper(), OTHER_HOST_GIB)
