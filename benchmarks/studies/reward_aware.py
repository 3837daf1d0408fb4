"""Reward-aware Preference Optimization against DPO on stored responses and RLOO on sampled ones.

    python -m benchmarks.studies.reward_aware [--seeds N] [--out docs/results]

The three distances of the package's ``RewardAware`` on the task of ``transformer``; rewards are the
true ones, over the standard deviation of the stored ones within a prompt. Offline, an arm with K
reads the same number of stored responses of the reference as any other, K to a prompt, and DPO the
best and the worst of each K. Online, K are sampled from the policy for each prompt of a step. With
eta = 1, beta is the temperature of the optimum pi_ref exp(r / beta); RLOO's KL coefficient is the
same temperature, DPO's beta takes the same values. The learning rate offline is that with which DPO
(the middle K and beta) ends best on a seed outside of the study, online the same for RLOO; settings
and seeds were fixed before the first full run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.studies.results import arguments, best_rate, write
from benchmarks.studies.transformer import TINY, Base, Sizes, fit_policy, minibatches, step
from rpo_ext.methods.reward_aware import RewardAware
from rpo_ext.settings import Distance
from rto.evaluation.statistics import bootstrap
from rto.methods.critic_free import CriticFree
from rto.methods.preference import DPO
from rto.methods.settings.policy_gradient import RLOO
from rto.models.causal import CausalPolicy
from rto.protocols import PolicyMethod
from rto.types import Role, ScoredBatch, TokenBatch

DISTANCES: Mapping[str, Distance] = {
    "kl_target_policy": "kl_target_policy",
    "kl_policy_target": "kl_policy_target",
    "sqloo": "sqloo",
}
UNSEEN = 1000
"""Seed of the world on which the learning rates are chosen."""


@dataclass(frozen=True)
class Settings:
    sizes: Sizes = Sizes()
    responses: int = 2048
    """Stored, in all; also what a pass reads."""
    per_prompt: tuple[int, ...] = (2, 4, 8)
    online_per_prompt: int = 4
    betas: tuple[float, ...] = (1.0, 0.3, 0.1)
    passes: int = 1
    rows: int = 64
    """Responses of an optimizer step."""
    iterations: int = 32
    """Online, one optimizer step each: as many responses as offline."""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    judged: int = 512


@dataclass(frozen=True)
class Stored:
    """The reference's responses of one world, K to a prompt, with true rewards [B]."""

    base: Base
    by_size: Mapping[int, ScoredBatch]
    scale: float
    """Standard deviation of the rewards less their prompt's mean, by which all are divided."""

    @classmethod
    def make(cls, settings: Settings, seed: int) -> Stored:
        base = Base.make(settings.sizes, seed)
        rng = torch.Generator().manual_seed(seed)
        largest = max(settings.per_prompt)
        drawn = base.sample(base.reference, settings.responses, rng, each=largest)
        reward = base.task.true_reward(drawn).view(-1, largest)
        scale = float((reward - reward.mean(-1, keepdim=True)).std(correction=0))
        stored = scored(base, base.reference, drawn, scale)
        rows = torch.arange(settings.responses)
        by_size = {
            size: ScoredBatch(replace(drawn, group=rows // size), stored.scores)
            for size in settings.per_prompt
        }
        return cls(base, by_size, scale)


@torch.no_grad()
def scored(base: Base, policy: CausalPolicy, tokens: TokenBatch, scale: float) -> ScoredBatch:
    scores = {
        Role.POLICY: policy(tokens).logprobs,
        Role.REFERENCE: base.reference(tokens).logprobs,
        Role.REWARD: base.task.true_reward(tokens) / scale,
    }
    return ScoredBatch(tokens, scores)


def best_and_worst(batch: ScoredBatch) -> ScoredBatch:
    """Two rows of each prompt, the best first; of prompts whose rewards are all equal, none."""
    each = int((batch.tokens.group == batch.tokens.group[0]).sum())
    reward = batch[Role.REWARD].view(-1, each)
    picked = torch.stack([reward.argmax(-1), reward.argmin(-1)], -1)
    rows = picked + each * torch.arange(len(reward)).unsqueeze(-1)
    return batch.take(rows[reward.amax(-1) > reward.amin(-1)].flatten())


Ending = tuple[float, float, float]
"""Score, KL per response, length."""


def ending(stored: Stored, policy: CausalPolicy, settings: Settings, seed: int) -> Ending:
    base, rng = stored.base, torch.Generator().manual_seed(3000 + seed)
    batch = scored(base, policy, base.sample(policy, settings.judged, rng), stored.scale)
    return (
        base.score(base.task.true_reward(batch.tokens)),
        float((batch[Role.POLICY] - batch[Role.REFERENCE]).sum(-1).mean()),
        float(batch.tokens.lengths.float().mean()) - 1,
    )


def offline(
    method: PolicyMethod, stored: Stored, size: int, settings: Settings, *, seed: int, lr: float
) -> Ending:
    """As many optimizer steps for DPO, whose steps have two rows of each prompt."""
    policy = copy.deepcopy(stored.base.reference).requires_grad_()
    data, rows = stored.by_size[size], settings.rows
    if isinstance(method, DPO):
        data, rows = best_and_worst(data), 2 * rows // size
    rng = torch.Generator().manual_seed(1000 + seed)
    fit_policy(policy, method, data, passes=settings.passes, size=rows, lr=lr, rng=rng)
    return ending(stored, policy, settings, seed)


def online(
    method: PolicyMethod, stored: Stored, settings: Settings, *, seed: int, lr: float
) -> Ending:
    base, rng = stored.base, torch.Generator().manual_seed(1000 + seed)
    policy = copy.deepcopy(base.reference).requires_grad_()
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    for _ in range(settings.iterations):
        drawn = base.sample(policy, settings.rows, rng, each=settings.online_per_prompt)
        batch, _ = method.targets(scored(base, policy, drawn, stored.scale))
        for part, norm in minibatches(batch, size=settings.rows, rng=rng):
            step(optimizer, method.loss(policy(part.tokens), part, norm).loss)
    return ending(stored, policy, settings, seed)


def arm(name: str, beta: float) -> PolicyMethod:
    match name:
        case "dpo":
            return DPO(beta=beta)
        case "rloo":
            return RLOO.into(CriticFree, kl_coef=beta, reward_clip_range=None)
        case _:
            return RewardAware(distance=DISTANCES[name], beta=beta)


def best_rates(settings: Settings) -> tuple[Mapping[float, float], Mapping[float, float]]:
    """Of DPO offline and of RLOO online: see ``best_rate``."""
    world, beta = Stored.make(settings, UNSEEN), settings.betas[len(settings.betas) // 2]
    size = settings.online_per_prompt

    def dpo(lr: float) -> float:
        return offline(arm("dpo", beta), world, size, settings, seed=UNSEEN, lr=lr)[0]

    def rloo(lr: float) -> float:
        return online(arm("rloo", beta), world, settings, seed=UNSEEN, lr=lr)[0]

    return best_rate(settings.rates, dpo), best_rate(settings.rates, rloo)


Block = Mapping[str, np.ndarray]
"""Arm -> [seeds, betas, 3] of ``Ending``; the baseline is the first."""


def run(settings: Settings, seeds: int, *, offline_lr: float, online_lr: float) -> dict[str, Block]:
    worlds = [Stored.make(settings, seed) for seed in track(range(seeds), "references")]

    def block(title: str, baseline: str, end: Callable[[PolicyMethod, int], Ending]) -> Block:
        return {
            name: np.array(
                [[end(arm(name, beta), i) for beta in settings.betas] for i in range(seeds)]
            )
            for name in track((baseline, *DISTANCES), title)
        }

    def stored(size: int) -> Callable[[PolicyMethod, int], Ending]:
        return lambda method, seed: offline(
            method, worlds[seed], size, settings, seed=seed, lr=offline_lr
        )

    blocks = {
        title: block(title, "dpo", stored(size))
        for size in settings.per_prompt
        for title in [f"offline, K = {size}"]
    }
    title = f"online, K = {settings.online_per_prompt}"
    blocks[title] = block(
        title,
        "rloo",
        lambda method, seed: online(method, worlds[seed], settings, seed=seed, lr=online_lr),
    )
    return blocks


def at_kl(points: np.ndarray, kl: float) -> np.ndarray:
    """Scores [seeds] at a KL, on the lines through the start and the endings [seeds, betas, 3].

    A seed whose KL stays below it counts with the score at its largest.
    """
    found = []
    for seed in points:
        scores, kls = [np.append(0.0, seed[:, column]) for column in (0, 1)]
        order = kls.argsort()
        found.append(np.interp(kl, kls[order], scores[order]))
    return np.array(found)


def summary(block: Block) -> tuple[float, list[dict[str, object]]]:
    """A KL that every arm reaches with one beta or another, and a row per arm."""
    matched = min(float(points[..., 1].max(1).mean()) for points in block.values())
    baseline = at_kl(next(iter(block.values())), matched)
    rows: list[dict[str, object]] = []
    for name, points in block.items():
        score = at_kl(points, matched)
        gain = bootstrap(score - baseline)
        rows.append(
            {
                "arm": name,
                "endings": points.mean(0).tolist(),
                "final_sd": points[..., 0].std(0, ddof=1).tolist() if len(points) > 1 else None,
                "at_matched_kl": float(score.mean()),
                "less_baseline": [gain.mean, *gain.ci95],
            }
        )
    return matched, rows


def table(betas: Sequence[float], matched: float, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    out = [
        "| arm | "
        + " | ".join(f"beta {beta:g}: score, KL, length" for beta in betas)
        + f" | score at KL {matched:.1f} | minus {rows[0]['arm']}'s |",
        "|---" * (len(betas) + 3) + "|",
    ]
    for row in rows:
        cells = [f"{score:.3f}, {kl:.1f}, {length:.1f}" for score, kl, length in row["endings"]]
        gain, low, high = row["less_baseline"]
        cells += [f"{row['at_matched_kl']:.3f}", f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"]
        out.append(f"| {row['arm']} | " + " | ".join(cells) + " |")
    return out


def page(
    settings: Settings, seeds: int, dpo: Mapping[float, float], rloo: Mapping[float, float]
) -> list[str]:
    return [
        "# Reward-aware Preference Optimization, online and offline, in a tiny transformer",
        "",
        "This page compares the three distances of reward-aware preference optimisation with DPO "
        "offline and with RLOO online. "
        f"`python -m benchmarks.studies.reward_aware --seeds {seeds}` writes it. Model and task "
        "are those of [token_reward_transformer](token_reward_transformer.md), and the methods "
        "learn from the true reward.",
        "",
        f"Offline every arm reads {settings.responses:,} stored responses of the reference "
        f"{settings.passes} time(s), K to a prompt; DPO reads the best and the worst of each K. "
        f"Online there are {settings.iterations} steps of {settings.rows} sampled responses, "
        f"{settings.online_per_prompt} to a prompt. eta is 1, so beta is the temperature of the "
        "optimum. It is also RLOO's KL coefficient and DPO's beta.",
        "",
        "Score 0 is the reference's mean true reward and score 1 that of the best responses. The "
        "scores at one KL are interpolated between the start and the three endings of an arm. The "
        "intervals are of paired differences over seeds.",
        "",
        "The learning rates are those that suited the baselines best. On a seed outside of the "
        f"study these ended at: DPO {_by_rate(dpo)}; RLOO {_by_rate(rloo)}.",
    ]


def _by_rate(ends: Mapping[float, float]) -> str:
    told = [f"{end:.3f} with {rate:g}" for rate, end in sorted(ends.items())]
    return ", ".join(told) + f" (so {next(iter(ends)):g})"


def main() -> None:
    given = arguments(seeds=3)
    settings = Settings()
    if given.quick:
        settings = replace(
            settings, sizes=TINY, responses=32, betas=(0.3,), rows=16, iterations=2, rates=(1e-3,),
            judged=16,
        )  # fmt: skip
    dpo, rloo = best_rates(settings)
    blocks = run(settings, given.seeds, offline_lr=next(iter(dpo)), online_lr=next(iter(rloo)))
    lines = page(settings, given.seeds, dpo, rloo)
    tables: dict[str, object] = {}
    for name, block in blocks.items():
        matched, rows = summary(block)
        lines += ["", f"## {name}", "", *table(settings.betas, matched, rows)]
        tables[name] = {"matched_kl": matched, "arms": rows}
    found = {
        "settings": asdict(settings),
        "by_learning_rate": {"dpo": dpo, "rloo": rloo},
        "blocks": tables,
    }
    write(given, "reward_aware", found=found, page="\n".join(lines))


if __name__ == "__main__":
    main()
