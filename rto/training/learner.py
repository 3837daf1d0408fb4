"""One rank's part of an update: its micro-batches forward and backward, its share of the sums.

The driver plans (``rto.batching.optimizer_steps``), ships each rank its rows, and calls all ranks
at once.
"""

from __future__ import annotations

import dataclasses
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from rto.batching.microbatch import plan_microbatches
from rto.errors import UserError
from rto.functional.logprobs import head_chunk
from rto.protocols import CriticMethod, PolicyMethod, ScoreMethod
from rto.training.writer import HostFile
from rto.types import (
    LossNorm,
    LossOutput,
    PolicyOutput,
    SkippedStep,
    StepStats,
    TokenBatch,
    TrainBatch,
)

if TYPE_CHECKING:
    from rto.models.policy import Policy
    from rto.training.deepspeed import ZeroEngine

EMA_FILE = "ema.safetensors"
Batch = TypeVar("Batch", bound=TrainBatch)
Trains = TypeVar("Trains")
"""The kind of method that a trainer takes its loss from."""
Gives = TypeVar("Gives")
"""What the trained module's forward gives."""


@dataclass(frozen=True)
class Objective(Generic[Trains]):
    """A method's loss on a batch, cut into this rank's micro-batches.

    ``steps[i][j]`` lists the rows of ``batch`` in micro-batch j of optimizer step i; ``norms[i]``
    counts the whole step. ``coef`` weighs the loss against other objectives of the same update.
    """

    method: Trains
    batch: TrainBatch
    steps: Sequence[Sequence[Sequence[int]]]
    norms: Sequence[LossNorm]
    temperature: float = 1.0
    coef: float = 1.0


@dataclass(frozen=True)
class Pass:
    """What this rank's micro-batches of one optimizer step gave.

    ``finite`` has the rows of each micro-batch, and whether their loss is finite.
    """

    sums: dict[str, Tensor]
    finite: list[tuple[Sequence[int], Tensor]]

    def bad_rows(self) -> list[int]:
        return [row for rows, finite in self.finite if not finite for row in rows]


class RankTrainer(ABC, Generic[Trains, Gives]):
    """Trains one engine; subclasses say which forward and which loss of the method."""

    area: ClassVar[str]

    def __init__(
        self,
        engine: ZeroEngine[Gives],
        *,
        ema_beta: float | None = None,
        packs: bool = False,
        shared_by: int = 1,
        max_skipped: int = 0,
    ) -> None:
        """``packs``: the model reads rows without padding. Each row is read by ``shared_by``
        neighbouring ranks, which compute the same loss of it; one of them counts. ``max_skipped``:
        see `train.max_skipped_steps`."""
        self.engine = engine
        self.packs = packs
        self._ema_beta = ema_beta
        self._ema: dict[str, Tensor] = {}
        self._is_first = dist.get_rank() == 0
        self._counts = dist.get_rank() % shared_by == 0
        self._max_skipped = max_skipped
        self._skipped_in_a_row = 0
        if ema_beta is not None:
            for name, weight in engine.named_full_parameters():
                if self._is_first:
                    self._ema[name] = weight.detach().to("cpu", torch.float32, copy=True)

    @abstractmethod
    def forward(
        self, tokens: TokenBatch, *, temperature: float, method: Trains | None = None
    ) -> Gives:
        """What ``loss`` reads of the model."""

    @abstractmethod
    def loss(
        self, method: Trains, output: Gives, batch: TrainBatch, norm: LossNorm
    ) -> LossOutput: ...

    def scores(self, output: Gives) -> Tensor:
        """The tensor of ``output`` that other processes ask for: all of it, where it is one."""
        assert isinstance(output, Tensor)
        return output

    def update(self, *objectives: Objective[Trains], single_step: bool = False) -> StepStats:
        """Every optimizer step of the plan; step i descends the weighted sum of the losses.

        Metrics are means over the optimizer steps, the same on every rank, without those that were
        left out because their loss or their gradient is not finite. Of a ``single_step`` the
        policy's log-probs of the first objective's rows, from before it, come along.
        """
        self.engine.train()
        sums: dict[str, Tensor] = {}
        first, count = objectives[0], len(objectives[0].steps)
        outputs = torch.zeros(first.batch.tokens.response_mask.shape) if single_step else None
        skipped: list[SkippedStep] = []
        applied, norm, rate = 0, 0.0, 0.0
        for step in range(count):
            passes = [
                self._accumulate(objective, step, outputs if objective is first else None)
                for objective in objectives
            ]
            rate = self.engine.learning_rate
            outcome = self.engine.step()
            for each in passes:
                _add(sums, each.sums, outcome.applied)
            if outcome.applied:
                applied += 1
                norm += outcome.norm
                self._skipped_in_a_row = 0
                self._update_ema()
                continue
            self._skipped_in_a_row += 1
            rows = passes[0].bad_rows() if not math.isfinite(outcome.loss) else _rows(first, step)
            skipped.append(SkippedStep(self.area, step, outcome.problem, tuple(sorted(set(rows)))))
            if self._skipped_in_a_row > self._max_skipped:
                break
        totals = self._all_reduced(sums)
        tokens = round(totals.pop("tokens"))
        metrics = {name: value / applied for name, value in totals.items()}
        if applied:
            metrics[f"{self.area}/grad_norm"] = norm / applied
        metrics |= {f"{self.area}/lr": rate, f"{self.area}/skipped_steps": len(skipped)}
        return StepStats(
            metrics=metrics,
            optimizer_steps=count,
            tokens=tokens,
            policy_logprobs=outputs,
            skipped=tuple(skipped),
            diverged=self._skipped_in_a_row > self._max_skipped,
        )

    @torch.no_grad()
    def score(
        self,
        tokens: TokenBatch,
        *,
        max_tokens: int,
        max_sequences: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probs or values [B, T], or scores [B], of this rank's rows: fp32 on the CPU.

        All ranks call it, each with at least one row: a rank that is done early repeats its
        first micro-batch, for ZeRO-3 gathers weights inside the forward.
        """
        self.engine.eval()
        lengths = tokens.lengths.tolist()
        plan = plan_microbatches(
            lengths,
            max_tokens=max_tokens,
            max_sequences=max_sequences,
            packs=self.packs,
            groups=tokens.group.tolist(),
        )
        most = torch.tensor(len(plan), device=self.engine.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        outputs: list[Tensor] = []
        for index in range(int(most)):
            micro = tokens.take(plan[index] if index < len(plan) else plan[0]).trim()
            output = self.forward(micro.to(self.engine.device), temperature=temperature)
            outputs.append(self.scores(output).float().cpu())
        shape = tokens.response_mask.shape[: outputs[0].ndim]
        result = torch.zeros(shape)
        for rows, output in zip(plan, outputs, strict=False):
            result[(rows, *(slice(n) for n in output.shape[1:]))] = output
        return result

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """What an export holds: the moving average where one is kept (on rank 0 alone), else the
        weights themselves (on every rank)."""
        if self._ema_beta is None:
            yield from self.engine.named_full_parameters()
        else:
            yield from self._ema.items()

    def save(self, directory: Path, tag: str) -> None:
        self.engine.save(directory, tag)
        if self._ema:
            safetensors.torch.save_file(self._ema, directory / tag / EMA_FILE)

    def snapshot(self, directory: Path, tag: str) -> list[HostFile]:
        """What ``save`` writes, in host memory."""
        files = self.engine.snapshot(directory, tag)
        if self._ema:
            content = io.BytesIO(safetensors.torch.save(self._ema))
            files.append(HostFile(directory / tag / EMA_FILE, content))
        return files

    def load(self, directory: Path, tag: str) -> None:
        self.engine.load(directory, tag)
        if self._ema:
            if not (directory / tag / EMA_FILE).is_file():
                raise UserError(
                    f"{directory / tag} has no {EMA_FILE}: it was saved without train.enable_ema, "
                    "switch that off to go on from it"
                )
            self._ema = safetensors.torch.load_file(directory / tag / EMA_FILE)

    def _accumulate(self, objective: Objective[Trains], step: int, outputs: Tensor | None) -> Pass:
        """Gradients and metrics of this rank's micro-batches of one optimizer step; what the model
        gave of their rows goes into ``outputs`` [B, T]."""
        sums: dict[str, Tensor] = {}
        finite: list[tuple[Sequence[int], Tensor]] = []
        micros = objective.steps[step]
        stand_in = next(micro for micro in micros if micro)
        for micro in micros:
            batch = trim_batch(objective.batch.take(micro or stand_in)).to(self.engine.device)
            output = self.forward(
                batch.tokens, temperature=objective.temperature, method=objective.method
            )
            result = self.loss(objective.method, output, batch, objective.norms[step])
            # The norm counts the whole step, over micro-batches and ranks: each loss is a share of
            # one mean, and a plain sum of the shares is that mean, however the rows were cut.
            # Micro-batches hold unequal numbers of tokens, so a mean of their means would not be.
            # A rank that has none left goes through another's forward and backward with weight 0:
            # the collectives inside need all ranks.
            is_finite = self.engine.backward(result.loss * (objective.coef if micro else 0.0))
            finite.append((micro or stand_in, is_finite))
            if micro and outputs is not None:
                scores = self.scores(output).detach().float().cpu()
                outputs[micro, : scores.shape[1]] = scores
            if micro:
                _add(sums, {**result.metrics, "tokens": batch.tokens.lengths.sum()})
        return Pass(sums, finite)

    def _all_reduced(self, sums: dict[str, Tensor]) -> dict[str, float]:
        names = sorted(sums)
        values = torch.stack([sums[name] for name in names])
        if not self._counts:
            values = torch.zeros_like(values)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def _update_ema(self) -> None:
        if self._ema_beta is None:
            return
        for name, weight in self.engine.named_full_parameters():
            if self._is_first:
                self._ema[name].lerp_(weight.detach().to("cpu", torch.float32), 1 - self._ema_beta)


class PolicyTrainer(RankTrainer[PolicyMethod, PolicyOutput]):
    area = "policy"

    def __init__(
        self,
        engine: ZeroEngine[PolicyOutput],
        *,
        ema_beta: float | None = None,
        packs: bool = False,
        shared_by: int = 1,
        max_skipped: int = 0,
        reference: Policy | None = None,
    ) -> None:
        """``reference``: frozen, on the engine's device; or the policy itself, whose adapters are
        then off (see ``Policy.forward``)."""
        super().__init__(
            engine, ema_beta=ema_beta, packs=packs, shared_by=shared_by, max_skipped=max_skipped
        )
        self._reference = reference

    def forward(
        self, tokens: TokenBatch, *, temperature: float, method: PolicyMethod | None = None
    ) -> PolicyOutput:
        outputs = frozenset() if method is None else method.outputs
        with_kl = "reference_kl" in outputs
        if with_kl and self._reference is None:
            raise ValueError("the method reads reference_kl and this trainer has no reference")
        return self.engine(
            tokens,
            temperature=temperature,
            with_entropy="entropy" in outputs,
            with_value="value" in outputs,
            reference=self._reference if with_kl else None,
            num_chunks=self._num_chunks(tokens) if self.engine.zero_stage == 3 else None,
        )

    def _num_chunks(self, tokens: TokenBatch) -> int:
        """Calls of the head that all ranks make: ZeRO-3 gathers its weight in each of them."""
        size = head_chunk(tokens.response_mask.device)
        count = (tokens.response_mask.sum() + size - 1) // size
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return max(1, int(count))

    def loss(
        self, method: PolicyMethod, output: PolicyOutput, batch: TrainBatch, norm: LossNorm
    ) -> LossOutput:
        return method.loss(output, batch, norm)

    def scores(self, output: PolicyOutput) -> Tensor:
        return output.logprobs


class CriticTrainer(RankTrainer[CriticMethod, Tensor]):
    area = "critic"

    def forward(
        self, tokens: TokenBatch, *, temperature: float, method: CriticMethod | None = None
    ) -> Tensor:
        return self.engine(tokens)

    def loss(
        self, method: CriticMethod, output: Tensor, batch: TrainBatch, norm: LossNorm
    ) -> LossOutput:
        return method.value_loss(output, batch, norm)


class ScoreTrainer(RankTrainer[ScoreMethod, Tensor]):
    area = "reward_model"

    def forward(
        self, tokens: TokenBatch, *, temperature: float, method: ScoreMethod | None = None
    ) -> Tensor:
        return self.engine(tokens)

    def loss(
        self, method: ScoreMethod, output: Tensor, batch: TrainBatch, norm: LossNorm
    ) -> LossOutput:
        return method.score_loss(output, batch, norm)


def _add(sums: dict[str, Tensor], more: Mapping[str, Tensor], applied: bool = True) -> None:
    """Of a step that was not applied, its tokens alone: its metrics may be NaN."""
    for name, value in more.items():
        if applied or name == "tokens":
            sums[name] = sums.get(name, 0) + value.detach().double()


def _rows(objective: Objective[Trains], step: int) -> list[int]:
    """This rank's, of one optimizer step."""
    return [row for micro in objective.steps[step] for row in micro]


def trim_batch(batch: Batch) -> Batch:
    """The same rows without the columns that are padding in every row.

    Every tensor of the batch with a second axis is [B, T], but the prompts.
    """
    tokens = batch.tokens.trim()
    width, kept = batch.tokens.response_ids.shape[1], tokens.response_ids.shape[1]

    def cut(x: Tensor) -> Tensor:
        return x[:, :kept] if x.ndim > 1 and x.shape[1] == width else x

    return dataclasses.replace(batch.map(cut), tokens=tokens)
