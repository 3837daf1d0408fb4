"""What RTO's token reward buys over PPO where everything can be computed exactly.

    python -m benchmarks.studies.token_reward [--seeds N] [--out docs/results]

PPO, RTO and its variants on the tasks of ``tabular``, with the package's own ``RTO`` method: the
same reward model, critic, learning rate and rollouts for all (arms: see ``arms``). A score of 0 is
the reference's expected true reward, 1 the best response's. Settings and seeds were fixed before
the first run of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.studies.arms import (
    ARMS,
    LAMBDAS,
    SCALES,
    Curves,
    block_name,
    method,
    summary,
    table,
)
from benchmarks.studies.results import arguments, write
from benchmarks.studies.tabular import Responses, Task, fit_dpo, fit_reward, sample, sample_pairs
from rto.methods.ppo import PPO
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch


@dataclass(frozen=True)
class Settings:
    length: int = 48
    vocabulary: int = 8
    pairs: int = 20_000
    dpo_beta: float = 0.1
    fit_steps: int = 150
    fit_lr: float = 0.05
    iterations: int = 60
    rollouts: int = 256
    minibatches: int = 4
    lr: float = 0.1
    kl_coef: float = 0.01


@dataclass(frozen=True)
class World:
    """What all arms of one seed share."""

    task: Task
    dpo: Tensor
    reward: Tensor
    """Of the reward model, per (token before, token), scaled to unit deviation on the reference."""
    offset: float
    dpo_correlation: float
    """Between the sum of DPO's log-ratios and the true reward, over the reference's responses."""

    @classmethod
    def make(cls, settings: Settings, seed: int) -> World:
        task = Task.make(length=settings.length, vocabulary=settings.vocabulary, seed=seed)
        rng = torch.Generator().manual_seed(seed)
        pairs = sample_pairs(task, settings.pairs, rng)
        dpo = fit_dpo(
            task, pairs, beta=settings.dpo_beta, steps=settings.fit_steps, lr=settings.fit_lr
        )
        reward = fit_reward(task, pairs, steps=settings.fit_steps, lr=settings.fit_lr)
        drawn = sample(task.reference, 4096, rng)
        score = reward[drawn.before, drawn.ids].sum(-1)
        terms = (drawn.look_up(dpo) - drawn.look_up(task.reference)).sum(-1)
        stacked = torch.stack([terms, drawn.true_reward(task)])
        return cls(
            task=task,
            dpo=dpo,
            reward=reward / score.std(),
            offset=float(score.mean() / score.std()),
            dpo_correlation=float(torch.corrcoef(stacked)[0, 1]),
        )

    def score(self, policy: Tensor) -> tuple[float, float]:
        """Score and KL of log-probs [H, V + 1, V]."""
        start, _ = self.task.value(self.task.reference)
        reward, kl = self.task.value(policy)
        return (reward - start) / (self.task.best() - start), kl


def train(
    arm: str, world: World, algorithm: PPO, settings: Settings, seed: int
) -> Iterator[tuple[float, float]]:
    """Score and KL before the first and after each iteration."""
    rng = torch.Generator().manual_seed(1000 + seed)
    start = world.dpo if arm == "ppo_from_dpo" else world.task.reference
    logits = start.clone().requires_grad_()
    values = torch.zeros(start.shape[:2]).requires_grad_()
    optimizer = torch.optim.Adam([logits, values], lr=settings.lr)
    yield world.score(start)
    for _ in range(settings.iterations):
        drawn = sample(logits.detach().log_softmax(-1), settings.rollouts, rng)
        batch, _ = algorithm.targets(scored(arm, world, logits, values, drawn, rng))
        for rows in torch.randperm(settings.rollouts, generator=rng).chunk(settings.minibatches):
            part = Responses(drawn.ids[rows], drawn.before[rows])
            norm = LossNorm(tokens=part.ids.numel(), sequences=len(rows), groups=len(rows))
            output = PolicyOutput(part.look_up(logits.log_softmax(-1)))
            loss = algorithm.loss(output, batch.take(rows), norm).loss
            loss = loss + algorithm.value_loss(part.look_up(values), batch.take(rows), norm).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield world.score(logits.detach().log_softmax(-1))


@torch.no_grad()
def scored(
    arm: str, world: World, logits: Tensor, values: Tensor, drawn: Responses, rng: torch.Generator
) -> ScoredBatch:
    policy, ref = drawn.look_up(logits.log_softmax(-1)), drawn.look_up(world.task.reference)
    terms = drawn.look_up(world.dpo) - ref
    if arm == "shuffled":
        terms = terms.gather(1, torch.rand(terms.shape, generator=rng).argsort(1))
    reward = world.reward[drawn.before, drawn.ids].sum(-1) - world.offset
    return ScoredBatch(
        drawn.tokens(policy),
        {
            Role.POLICY: policy,
            Role.REFERENCE: ref,
            Role.DPO: ref + terms,
            Role.REWARD: reward,
            Role.CRITIC: drawn.look_up(values),
        },
    )


def run(settings: Settings, seeds: int) -> tuple[dict[str, Curves], list[float]]:
    """The curves of each block "lambda .. scale .. clip ..", and each seed's DPO correlation."""
    worlds = [World.make(settings, seed) for seed in track(range(seeds), "reward models and DPO")]
    blocks: dict[str, Curves] = {}
    runs = [(lambd, scale) for lambd in LAMBDAS for scale in SCALES]
    for lambd, scale in track(runs, "blocks"):
        curves: dict[str, np.ndarray] = {}
        for arm in ARMS:
            algorithm = method(
                arm,
                lambd=lambd,
                scale=scale,
                kl_coef=settings.kl_coef,
                segment_end_ids=tuple(range(settings.vocabulary // 4)),
            )
            runs_of = [train(arm, w, algorithm, settings, i) for i, w in enumerate(worlds)]
            curves[arm] = np.array([list(points) for points in runs_of])
        blocks[block_name(lambd, scale)] = curves
    return blocks, [world.dpo_correlation for world in worlds]


def main() -> None:
    given = arguments(seeds=10)
    settings = Settings()
    if given.quick:
        settings = replace(settings, length=6, pairs=200, fit_steps=5, iterations=4, rollouts=16)
    blocks, correlations = run(settings, given.seeds)
    tables = {name: summary(curves, rollouts=settings.rollouts) for name, curves in blocks.items()}
    lines = [
        "# RTO's token reward against PPO, in tables",
        "",
        "This page compares RTO's token reward with PPO on a task so small that policy and reward "
        "are tables. "
        f"`python -m benchmarks.studies.token_reward --seeds {given.seeds}` writes it. Responses "
        f"have {settings.length} tokens out of a vocabulary of {settings.vocabulary}; there is no "
        f"prompt and no EoS. There are {settings.pairs:,} pairs and {settings.iterations} "
        f"iterations of {settings.rollouts} rollouts.",
        "",
        "Score 0 is the reference and score 1 is the best response. The intervals are of paired "
        "differences over seeds. `reach` is the number of rollouts until the mean score is what "
        "PPO ends with. On the reference's responses the sum of DPO's log-ratios correlates with "
        f"the true reward by {np.mean(correlations):.2f}.",
    ]
    for name, rows in tables.items():
        lines += ["", f"## {name}", "", *table(rows)]
    found = {"settings": vars(settings), "dpo_correlation": correlations, "blocks": tables}
    write(given, "token_reward", found=found, page="\n".join(lines))


if __name__ == "__main__":
    main()
