"""The cards that a plan knows, by their vendor's data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuCard:
    """One GPU, in the form that servers have it in (SXM where there is one)."""

    name: str
    gib: int
    """Memory as it is sold, the number behind the name."""
    usable_gib: float
    """What torch reports as its capacity: ECC and the driver keep the rest."""
    tflops: float
    """Peak of dense bf16 products with fp32 sums, 1e12 operations a second."""
    hbm: float
    """Bandwidth of its memory, GB/s."""
    nvlink: float
    """To the other GPUs of its node, GB/s per direction; over PCIe where it has no NVLink."""
    pcie: float
    """To the host, GB/s per direction."""
    per_node: int
    """GPUs of a usual node."""
    network: float
    """To other nodes, GB/s per GPU and direction: one adapter per GPU in the DGX systems, one
    of 100 Gb/s per node for cards without NVLink."""


# Peaks are without sparsity (data sheets give both). Usable memory is the "total capacity" of
# torch's out-of-memory messages.
CARDS = (
    # NVIDIA A100 data sheet (SXM); DGX A100: eight ConnectX-6 of 200 Gb/s.
    GpuCard("A100", 40, 39.4, 312, 1555, 300, 31.5, 8, 25),
    GpuCard("A100", 80, 79.1, 312, 2039, 300, 31.5, 8, 25),
    # NVIDIA H100 data sheet (SXM); DGX H100: eight ConnectX-7 of 400 Gb/s.
    GpuCard("H100", 80, 79.1, 989, 3350, 450, 63, 8, 50),
    # NVIDIA H200 data sheet (SXM); DGX H200, as the H100's.
    GpuCard("H200", 141, 139.8, 989, 4800, 450, 63, 8, 50),
    # DGX B200 data sheet: 1,440 GB and 64 TB/s for eight, 2.25 PFLOP/s dense bf16 each.
    GpuCard("B200", 180, 178.4, 2250, 8000, 900, 63, 8, 50),
    # NVIDIA L40S data sheet: no NVLink.
    GpuCard("L40S", 48, 44.4, 362, 864, 31.5, 31.5, 8, 12.5 / 8),
    # NVIDIA Ada architecture paper, appendix: fp16 and bf16 with fp32 sums; no NVLink.
    GpuCard("RTX4090", 24, 23.6, 165.2, 1008, 31.5, 31.5, 8, 12.5 / 8),
)


def find_card(name: str, gib: int | None = None) -> GpuCard | None:
    """The card of this name, in any case; of several sizes the largest, where none is given.

    Returns None for one that the table has not.
    """
    named = [card for card in CARDS if card.name.lower() == name.lower().replace(" ", "")]
    fitting = [card for card in named if gib in (None, card.gib)]
    return max(fitting, key=lambda card: card.gib, default=None)


def known_cards() -> str:
    """Their names as a message lists them."""
    return ", ".join(f"{card.name}-{card.gib}" for card in CARDS)


@dataclass(frozen=True)
class Machine:
    """Nodes of equal GPUs."""

    card: GpuCard
    per_node: int
    nodes: int = 1

    @property
    def gpus(self) -> int:
        return self.per_node * self.nodes

    def nodes_of(self, ranks: int) -> int:
        """The nodes that so many ranks fill, one on each GPU."""
        return -(-ranks // self.per_node)
