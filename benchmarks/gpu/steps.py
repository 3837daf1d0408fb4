"""What the GPU check consists of: its steps, and the cases of each, which run in processes of
their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One process. It may take ``limit`` seconds, and is skipped on a card of less than ``gib``
    GiB, or without CUDA where ``cuda``."""

    name: str
    limit: int
    gib: int = 0
    cuda: bool = False


@dataclass(frozen=True)
class Step:
    """A module of this folder, and what its table says."""

    name: str
    title: str
    about: str
    cases: tuple[Case, ...]


STEPS = (
    Step(
        "card",
        "The card",
        "The other figures are held against these: a product of two large matrices in bf16, a "
        "copy within the card's memory (bytes read and written), and copies between host and "
        "card, from pageable and from pinned memory.",
        (Case("card", 120),),
    ),
    Step(
        "packed",
        "Packed rows against padded ones",
        "A model of the shape of Llama-3.2-1B reads 16,384 tokens in rows whose lengths vary "
        "as in chat data. `mean gap` is how far the log-prob of a response token is, on "
        "average, from that of the same model in fp32 that reads one row at a time. `gradient "
        "error` is the same for the gradients of some weights, as a share of their norm. "
        "`over packed` is the time of forward and backward as a multiple of that of packed "
        "rows. `varlen` is `torch.nn.attention.varlen` on the same packed tokens; it cannot "
        "share a prompt among rows. The step fails if packed rows are less exact than padded "
        "ones.",
        (Case("own-prompts", 300, gib=38), Case("shared-prompts", 300, gib=38)),
    ),
    Step(
        "logprobs",
        "Log-probs at a vocabulary of 128k",
        "Forward and backward of 16,384 response tokens through a head of 128,256 x 4,096. A "
        "chunk is the number of tokens whose logits exist at one time. `extra GiB` is memory "
        "beyond inputs and weights; it includes the head's gradient. `gradient error` "
        "compares that gradient with one that is computed in fp32 throughout.",
        (Case("chunks", 180, gib=22), Case("whole-logits", 120, gib=46)),
    ),
    Step(
        "update",
        "Updates of one rank",
        "SFT steps on 32 rows of 1,024 tokens by the trainer of a run, in micro-batches of "
        "8,192 tokens. `1b` is trained whole; `8b` is the shape of Llama-3-8B under adapters "
        "of rank 64, with gradient checkpointing. The floating-point operations are those "
        "that the weights and the causal attention need: of three forwards, or of two where "
        "the base is frozen. What is computed again does not count. `of matmul` is the share "
        "of the first table's product, `mfu` the share of the rate in the vendor's data "
        "sheet. `held GiB` is what stays between updates and `peak GiB` the most of one; "
        "`planned GiB` and `planned peak GiB` are what the plan says of them. "
        "The step fails if the loss does not fall.",
        (
            Case("1b-zero0", 240, gib=70),
            Case("1b-zero2", 240, gib=46),
            Case("1b-zero3", 240, gib=46),
            Case("1b-zero2-offload", 300, gib=38, cuda=True),
            Case("8b-lora-zero0", 480, gib=46),
            Case("8b-lora-zero2", 480, gib=46),
            Case("8b-lora-zero3", 480, gib=46),
            Case("8b-lora-zero2-offload", 480, gib=46, cuda=True),
        ),
    ),
    Step(
        "engine",
        "An engine beside a trainer",
        "The order of a colocated run: the engine starts alone on the card and sleeps, then "
        "the trainer starts, and the first push wakes the engine. `cache tokens` is the KV "
        "cache that the engine has given itself. `card GiB` is what all processes hold of the "
        "card.",
        (Case("1b", 420, gib=38), Case("8b-lora", 600, gib=76)),
    ),
    Step(
        "push",
        "Weights into an engine, with proof",
        "Pushes as after each update of a colocated run: transfer, digests, coverage and "
        "probe. The transfer includes the digests. `wide` has an embedding above 1 GiB.",
        (Case("1b", 420, gib=38), Case("wide", 420, gib=38), Case("8b-lora", 600, gib=76)),
    ),
    Step(
        "train",
        "RTO from the command line",
        "`rto train` on SmolLM2-135M for ten iterations in bf16, self-check included. Seconds "
        "are medians over the iterations after the first.",
        (Case("smollm2", 900, gib=22),),
    ),
)


def chosen(names: Sequence[str]) -> list[tuple[Step, Case]]:
    """The cases of the named steps, in this module's order; all of them where none is named.

    A name is that of a step, or STEP:CASE.

    Raises:
        ValueError: names what is not there.
    """
    known = {f"{step.name}:{case.name}": (step, case) for step in STEPS for case in step.cases}
    wanted: set[str] = set()
    for name in names or [step.name for step in STEPS]:
        found = {full for full in known if name in (full, full.partition(":")[0])}
        if not found:
            raise ValueError(f"unknown step {name!r}: one of {', '.join(known)}")
        wanted |= found
    return [both for full, both in known.items() if full in wanted]
