"""What RTO's token reward buys over PPO where everything can be computed exactly.

    python -m benchmarks.studies.token_reward [--seeds N] [--out docs/results]

PPO, RTO and its variants on the tasks of ``tabular``, with the package's own ``RTO`` method: the
same reward model, critic, learning rate and rollouts for all. Two controls: ``shuffled`` pays each
response its own DPO terms at random places; ``ppo_from_dpo`` is PPO that starts at the DPO policy.
A score of 0 is the reference's expected true reward, 1 the best response's. Settings and seeds were
fixed before the first run of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.common import ROOT, versions
from benchmarks.studies.tabular import Responses, Task, fit_dpo, fit_reward, sample, sample_pairs
from rto.evaluation.statistics import bootstrap
from rto.methods.rto import RTO, Variant
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch

VARIANTS: Mapping[str, Variant] = {
    "rto": "token", "semi": "semi", "shaping": "shaping", "delayed": "delayed", "shuffled": "token",
}  # fmt: skip
ARMS = ("ppo", "ppo_from_dpo", *VARIANTS)
LAMBDAS = (0.95, 1.0)
SCALES = ((0.05, 0.05), (0.1, 0.0))
"""(dpo_reward_scale, dpo_reward_clip): the authors' script, and larger without a clip."""


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


def method(arm: str, lambd: float, scale: tuple[float, float], settings: Settings) -> RTO:
    plain = RTO(
        lambd=lambd,
        value_clip=0.2,
        kl_coef=settings.kl_coef,
        dpo_reward_scale=0.0,
        segment_end_ids=tuple(range(settings.vocabulary // 4)),
    )
    if arm not in VARIANTS:
        return plain
    return replace(
        plain,
        dpo_reward_scale=scale[0],
        dpo_reward_clip=scale[1],
        dpo_reward_variant=VARIANTS[arm],
    )


def train(
    arm: str, world: World, algorithm: RTO, settings: Settings, seed: int
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


Curves = Mapping[str, np.ndarray]
"""Arm -> [seeds, iterations + 1, 2]: score and KL."""


def run(settings: Settings, seeds: int) -> tuple[dict[str, Curves], list[float]]:
    """The curves of each block "lambda .. scale .. clip ..", and each seed's DPO correlation."""
    worlds = [World.make(settings, seed) for seed in track(range(seeds), "reward models and DPO")]
    blocks: dict[str, Curves] = {}
    runs = [(lambd, scale) for lambd in LAMBDAS for scale in SCALES]
    for lambd, scale in track(runs, "blocks"):
        name = f"lambda {lambd}, scale {scale[0]}, clip {scale[1] or 'off'}"
        blocks[name] = {
            arm: np.array(
                [
                    list(train(arm, w, method(arm, lambd, scale, settings), settings, seed))
                    for seed, w in enumerate(worlds)
                ]
            )
            for arm in ARMS
        }
    return blocks, [world.dpo_correlation for world in worlds]


def summary(curves: Curves, settings: Settings) -> list[dict[str, object]]:
    """A row per arm; ``reach`` counts rollouts until the seed-mean score is PPO's last one."""
    ppo = curves["ppo"][..., 0]
    goal = ppo.mean(0)[-1]
    rows: list[dict[str, object]] = []
    for arm, curve in curves.items():
        score, kl = curve[..., 0], curve[..., 1]
        quarter, half = settings.iterations // 4, settings.iterations // 2
        there = np.flatnonzero(score.mean(0) >= goal)
        gain, area = bootstrap(score[:, -1] - ppo[:, -1]), bootstrap((score - ppo).mean(1))
        rows.append(
            {
                "arm": arm,
                "25%": float(score[:, quarter].mean()),
                "50%": float(score[:, half].mean()),
                "final": float(score[:, -1].mean()),
                "final_sd": float(score[:, -1].std(ddof=1)) if len(score) > 1 else 0.0,
                "final_minus_ppo": [gain.mean, *gain.ci95],
                "area_minus_ppo": [area.mean, *area.ci95],
                "reach": int(there[0] * settings.rollouts) if len(there) else None,
                "kl": float(kl[:, -1].mean()),
            }
        )
    return rows


def page(tables: Mapping[str, Sequence[Mapping[str, object]]], *, lines: Sequence[str]) -> str:
    out = [*lines, ""]
    for name, rows in tables.items():
        out += [f"## {name}", "", *HEAD]
        for row in rows:
            gain, low, high = row["final_minus_ppo"]  # pyright: ignore[reportGeneralTypeIssues]
            area, area_low, area_high = row["area_minus_ppo"]  # pyright: ignore
            out.append(
                f"| {row['arm']} | {row['25%']:.3f} | {row['50%']:.3f} | {row['final']:.3f} "
                f"+- {row['final_sd']:.3f} | {gain:+.3f} [{low:+.3f}, {high:+.3f}] "
                f"| {area:+.3f} [{area_low:+.3f}, {area_high:+.3f}] "
                f"| {row['reach'] if row['reach'] is not None else 'not'} | {row['kl']:.0f} |"
            )
        out.append("")
    return "\n".join(out)


HEAD = (
    "| arm | 25% | 50% | final +- s.d. | final less PPO's | area less PPO's | reach | KL |",
    "|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only tests the program")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings()
    if arguments.quick:
        settings = replace(settings, length=6, pairs=200, fit_steps=5, iterations=4, rollouts=16)
    blocks, correlations = run(settings, arguments.seeds)
    tables = {name: summary(curves, settings) for name, curves in blocks.items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {
        "settings": vars(settings),
        "seeds": arguments.seeds,
        "versions": versions(),
        "dpo_correlation": correlations,
        "blocks": tables,
    }
    (arguments.out / "token_reward.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    lines = [
        "# RTO's token reward against PPO, in tables",
        "",
        f"`python -m benchmarks.studies.token_reward --seeds {arguments.seeds}` writes this page: "
        f"responses of {settings.length} tokens over {settings.vocabulary}, no prompt, no EoS, "
        f"{settings.pairs:,} pairs, {settings.iterations} iterations of {settings.rollouts} "
        "rollouts. Score 0 is the reference, 1 the best response. The intervals are of paired "
        "differences over seeds; `reach` is the number of rollouts until the mean score is what "
        "PPO ends with. The sum of DPO's log-ratios correlates with the true reward by "
        f"{np.mean(correlations):.2f} on the reference's responses.",
    ]
    text = page(tables, lines=lines)
    (arguments.out / "token_reward.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
