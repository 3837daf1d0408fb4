"""Policy weights -> engines, and the proof that they are the ones in use.

Three transports: Ray's object store (on CPU, and for encoder-decoder models anywhere), vLLM's
weight transfer over NCCL (separate GPUs) and over CUDA IPC (shared GPUs). After every push,
whatever the transport,

1. the digest of each tensor that an engine received equals the trainer's,
2. every parameter of the engine was assigned,
3. the engine's log-probs on a fixed probe batch equal the trainer's within a tolerance,

and only then does an engine accept the new version. A policy that was not updated in between, as
after the self-check, is not sent again. vLLM repacks weights on CPU, so they cannot
be read back: there the probe is the proof of what the engine computes with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rto.cluster.calls import Engines, Trainers
from rto.errors import ProofError
from rto.rollout.engine import Transport
from rto.types import TokenBatch, pad
from rto.weights.digest import TensorDigests, WeightReceipt, fingerprint, first_difference


@dataclass(frozen=True)
class Probe:
    """A fixed batch whose log-probs trainer and engines compare after every push."""

    tokens: TokenBatch
    tolerance: float

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """Prompt and response of each row as token ids."""
        t = self.tokens
        return [
            (t.prompt_ids[i][t.prompt_mask[i]].tolist(), t.response_ids[i][mask].tolist())
            for i, mask in enumerate(t.response_mask)
        ]

    def compare(self, trainer: torch.Tensor, engine: Sequence[Sequence[float]]) -> ProbeFigures:
        """``trainer`` [B, T] against the engine's log-probs of each response."""
        gaps: list[torch.Tensor] = []
        for row, logprobs in enumerate(engine):
            count = int(self.tokens.response_mask[row].sum())
            gaps.append((torch.tensor(logprobs) - trainer[row, :count]).abs())
        gap = torch.cat(gaps)
        return ProbeFigures(mean=float(gap.mean()), largest=float(gap.max()))


@dataclass(frozen=True)
class ProbeFigures:
    mean: float
    largest: float


def make_probe(prompts: Sequence[Sequence[int]], *, tolerance: float, max_len: int = 64) -> Probe:
    """A probe from real prompts: the second half of each plays the response."""
    longest = sorted(prompts, key=len, reverse=True)[:4]
    cut = [ids[:max_len] for ids in longest if len(ids) >= 2]
    if not cut:
        raise ValueError("weight-sync probe: needs a prompt of at least two tokens")
    halves = [max(1, len(ids) // 2) for ids in cut]
    prompt_ids, prompt_mask = pad(
        [ids[:h] for ids, h in zip(cut, halves, strict=True)], 0, left=True
    )
    ids, mask = pad([ids[h:] for ids, h in zip(cut, halves, strict=True)], 0, left=False)
    tokens = TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=ids,
        response_mask=mask,
        sampler_logprobs=torch.zeros(ids.shape),
        finished=torch.zeros(len(cut), dtype=torch.bool),
        group=torch.arange(len(cut)),
    )
    return Probe(tokens=tokens, tolerance=tolerance)


@dataclass
class ClusterWeightSync:
    """Implements ``WeightSync``. ``figures`` holds the last push's probe, for the metrics."""

    policy: Trainers
    engines: Engines
    probe: Probe
    transport: Transport
    version: int = -1
    figures: dict[str, float] = field(default_factory=dict)
    digest: str = field(default="", init=False)
    """Of the weights that were pushed last."""
    _pushed: tuple[int, int] | None = field(default=None, init=False)
    """The trainer's revision that the engines have proven last, and the version it was."""

    def go_on(self, pushes: int) -> None:
        """As the sync of a run that has pushed so often: its next version is of that number."""
        self.version = pushes - 1

    def push(self) -> int:
        """As ``WeightSync`` says. Weights that have not changed since the last push, and that every
        engine holds still, are not sent again: their digests and coverage are proven."""
        version, revision = self.version + 1, self.policy.revision
        held = self._is_held(revision)
        self._pushed = None
        self.engines.wake("weights")
        sent = {} if held else self._transfer()
        self.engines.wake("kv_cache")
        if not held:
            for engine, receipt in enumerate(self.engines.receipts()):
                check_receipt(sent, receipt, engine=engine)
            self.digest = fingerprint(sent)
        self._check_behaviour()
        self.engines.accept(version)
        self.version, self._pushed = version, (revision, version)
        return version

    def _is_held(self, revision: int) -> bool:
        if self._pushed is None or self._pushed[0] != revision:
            return False
        return self.engines.keep(self._pushed[1])

    def _transfer(self) -> TensorDigests:
        """Move the weights through the transport; returns the trainer's digests by tensor name."""
        if self.transport == "object_store":
            self.engines.load_weights(self.policy.export_weights().refs[0])
        else:
            self.policy.send_weights()
        return self.policy.sent_digests()

    def _check_behaviour(self) -> None:
        pending = self.engines.response_logprobs(self.probe.pairs)
        trainer = self.policy.score_alike(self.probe.tokens, temperature=1.0)[0]
        for rank, logprobs in enumerate(pending.get()):
            figures = self.probe.compare(trainer, logprobs)
            if not figures.mean <= self.probe.tolerance:
                raise ProofError(
                    f"weight sync: engine {rank} computes other log-probs than the trainer on the "
                    f"probe batch: mean |difference| {figures.mean:.3g}, largest "
                    f"{figures.largest:.3g}, tolerance {self.probe.tolerance:.3g}"
                )
            self.figures = {
                "sync/probe_mean_abs_diff": figures.mean,
                "sync/probe_max_abs_diff": figures.largest,
            }


def check_receipt(sent: TensorDigests, receipt: WeightReceipt, *, engine: int) -> None:
    """Compare what was sent with what an engine received and assigned.

    Raises:
        ProofError: names the first differing tensor, or the parameters that got no value.
    """
    difference = first_difference(sent, receipt.digests)
    if difference is not None:
        raise ProofError(f"weight sync: engine {engine} received other weights: {difference}")
    if receipt.unassigned:
        listed = ", ".join(sorted(receipt.unassigned)[:5])
        raise ProofError(
            f"weight sync: engine {engine} left {len(receipt.unassigned)} parameters unassigned: "
            f"{listed}"
        )
