"""RTO's token reward against PPO in a tiny transformer whose responses end where they like.

    python -m benchmarks.studies.token_reward_transformer [--seeds N] [--out docs/results]

The arms of ``arms`` on the task of ``transformer``: the same DPO policy, reward model, critic,
learning rate and rollouts for all. ``rto_alone`` is RTO without the sentence reward, with nothing
but the DPO term and the KL. The learning rate is the one with which PPO (lambda 0.95) ends best on
a seed outside of the study; settings and seeds were fixed before the first full run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

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
from benchmarks.studies.results import arguments, best_rate, write
from benchmarks.studies.transformer import TINY, Sizes, minibatches, step
from benchmarks.studies.transformer_world import Feedback, World
from rto.methods.ppo import PPO
from rto.models.causal import CausalPolicy
from rto.models.heads import TokenValue
from rto.types import Role, ScoredBatch, TokenBatch

WITH_ALONE = (*ARMS, "rto_alone")
UNSEEN = 1000
"""Seed of the world on which the learning rate is chosen."""


@dataclass(frozen=True)
class Settings:
    sizes: Sizes = Sizes()
    feedback: Feedback = Feedback()
    iterations: int = 24
    rollouts: int = 128
    minibatches: int = 4
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    kl_coef: float = 0.01
    last_sample: int = 1024


Point = tuple[float, float, float, float]
"""Score, KL per response, length, and DPO's log-ratio per token: a policy's own responses'."""


def train(
    arm: str, world: World, algorithm: PPO, settings: Settings, *, seed: int, lr: float
) -> Iterator[Point]:
    """A point for the policy that each iteration starts from, and one for the last."""
    rng = torch.Generator().manual_seed(1000 + seed)
    places = torch.Generator().manual_seed(2000 + seed)
    start = world.dpo if arm == "ppo_from_dpo" else world.base.reference
    policy = copy.deepcopy(start).requires_grad_()
    head = copy.deepcopy(world.reward.model).requires_grad_()
    critic = TokenValue(head, constants=world.constants)
    actor = torch.optim.Adam(policy.parameters(), lr=lr)
    values = torch.optim.Adam(critic.parameters(), lr=lr)
    for _ in range(settings.iterations):
        drawn = world.base.sample(policy, settings.rollouts, rng)
        scores = scored(world, policy, critic, drawn)
        yield point(world, scores)
        batch, _ = algorithm.targets(shuffled(scores, places) if arm == "shuffled" else scores)
        size = settings.rollouts // settings.minibatches
        for part, norm in minibatches(batch, size=size, rng=rng):
            step(actor, algorithm.loss(policy(part.tokens), part, norm).loss)
            step(values, algorithm.value_loss(critic(part.tokens), part, norm).loss)
    last = world.base.sample(policy, settings.last_sample, rng)
    yield point(world, scored(world, policy, critic, last))


@torch.no_grad()
def scored(
    world: World, policy: CausalPolicy, critic: TokenValue, tokens: TokenBatch
) -> ScoredBatch:
    mean, std = world.constants
    return ScoredBatch(
        tokens,
        {
            Role.POLICY: policy(tokens).logprobs,
            Role.REFERENCE: world.base.reference(tokens).logprobs,
            Role.DPO: world.dpo(tokens).logprobs,
            Role.REWARD: (world.reward(tokens) - mean) / std,
            Role.CRITIC: critic(tokens),
        },
    )


def shuffled(batch: ScoredBatch, rng: torch.Generator) -> ScoredBatch:
    """Each response's DPO terms at random places of the same response."""
    mask = batch.tokens.response_mask
    places = torch.rand(mask.shape, generator=rng).masked_fill(~mask, 2).argsort(1)
    terms = batch[Role.DPO] - batch[Role.REFERENCE]
    return batch.with_scores({Role.DPO: batch[Role.REFERENCE] + terms.gather(1, places)})


def point(world: World, batch: ScoredBatch) -> Point:
    mask = batch.tokens.response_mask
    terms = batch[Role.DPO] - batch[Role.REFERENCE]
    return (
        world.base.score(world.base.task.true_reward(batch.tokens)),
        float((batch[Role.POLICY] - batch[Role.REFERENCE]).sum(-1).mean()),
        float(mask.sum(-1).float().mean()),
        float(terms.sum() / mask.sum()),
    )


def algorithm(arm: str, lambd: float, settings: Settings) -> PPO:
    """With EoS and the first quarter of the words as ends of the segments of ``semi``."""
    found = method(
        "rto" if arm == "rto_alone" else arm,
        lambd=lambd,
        scale=SCALES[0],
        kl_coef=settings.kl_coef,
        segment_end_ids=tuple(range(1 + settings.sizes.words // 4)),
    )
    return replace(found, reward_coef=0.0) if arm == "rto_alone" else found


def ppo_by_rate(settings: Settings) -> Mapping[float, float]:
    world = World.make(settings.sizes, settings.feedback, UNSEEN)
    ppo = algorithm("ppo", LAMBDAS[0], settings)

    def final(rate: float) -> float:
        *_, last = train("ppo", world, ppo, settings, seed=UNSEEN, lr=rate)
        return last[0]

    return best_rate(settings.rates, final)


def run(settings: Settings, seeds: int, lr: float) -> tuple[dict[str, Curves], Tensor]:
    """The curves of each lambda, and the worlds' correlations [seeds, 2]."""
    worlds = [
        World.make(settings.sizes, settings.feedback, seed)
        for seed in track(range(seeds), "reward models and DPO")
    ]
    blocks: dict[str, Curves] = {}
    for lambd in LAMBDAS:
        curves: dict[str, np.ndarray] = {}
        for arm in track(WITH_ALONE, f"lambda {lambd}"):
            rto = algorithm(arm, lambd, settings)
            runs = [train(arm, w, rto, settings, seed=i, lr=lr) for i, w in enumerate(worlds)]
            curves[arm] = np.array([list(points) for points in runs])
        blocks[block_name(lambd, SCALES[0])] = curves
    return blocks, torch.tensor([world.correlations for world in worlds])


def lengths(curves: Curves) -> dict[str, list[list[float]]]:
    """Arm -> [length, DPO's log-ratio per token] at 0, 25, 50 and 100% of the rollouts."""
    last = next(iter(curves.values())).shape[1] - 1
    places = [0, last // 4, last // 2, last]
    return {arm: curve[:, places, 2:].mean(0).tolist() for arm, curve in curves.items()}


def length_table(found: Mapping[str, list[list[float]]]) -> list[str]:
    out = ["| arm | start | 25% | 50% | final |", "|---|---|---|---|---|"]
    for arm, points in found.items():
        cells = " | ".join(f"{length:.1f}, {term:+.2f}" for length, term in points)
        out.append(f"| {arm} | {cells} |")
    return out


def page(
    settings: Settings, seeds: int, rates: Mapping[float, float], correlations: Tensor
) -> list[str]:
    lr, sizes = next(iter(rates)), settings.sizes
    of_dpo, of_model = correlations.mean(0).tolist()
    return [
        "# RTO's token reward against PPO, in a tiny transformer with EoS",
        "",
        "This page compares RTO's token reward with PPO in a tiny transformer. "
        f"`python -m benchmarks.studies.token_reward_transformer --seeds {seeds}` writes it. The "
        f"model is a GPT-2 of two layers, {sizes.width} wide, over {sizes.words} words and EoS. "
        f"Responses have at most {sizes.max_length} tokens. There are {settings.feedback.pairs:,} "
        f"pairs and {settings.iterations} iterations of {settings.rollouts} rollouts. A word's "
        "true reward depends on the prompt, on the token before it and on its position: each word "
        "has a price, which grows with the position.",
        "",
        "Score 0 is the reference's mean true reward and score 1 that of the best responses. All "
        "scores except the last are those of the rollouts themselves. The intervals are of paired "
        "differences over seeds. `reach` is the number of rollouts until the mean score is what "
        "PPO ends with.",
        "",
        f"All arms have the learning rate {lr:g}: on a seed outside of the study PPO (lambda "
        f"{LAMBDAS[0]}) ended at "
        + ", ".join(f"{end:.3f} with {rate:g}" for rate, end in sorted(rates.items()))
        + f". On the reference's responses the true reward correlates by {of_dpo:.2f} with the sum "
        f"of DPO's log-ratios and by {of_model:.2f} with the reward model.",
    ]


def main() -> None:
    given = arguments(seeds=3)
    settings = Settings()
    if given.quick:
        settings = replace(
            settings, sizes=TINY, feedback=Feedback(pairs=64, passes=1), iterations=2, rollouts=16,
            minibatches=2, rates=(1e-3,), last_sample=16,
        )  # fmt: skip
    rates = ppo_by_rate(settings)
    blocks, correlations = run(settings, given.seeds, next(iter(rates)))
    tables = {name: summary(curves, rollouts=settings.rollouts) for name, curves in blocks.items()}
    sizes = {name: lengths(curves) for name, curves in blocks.items()}
    lines = page(settings, given.seeds, rates, correlations)
    for name, rows in tables.items():
        lines += ["", f"## {name}", "", *table(rows)]
        lines += ["", "Mean length, and DPO's log-ratio per token, of the policy's own responses:"]
        lines += ["", *length_table(sizes[name])]
    found = {
        "settings": asdict(settings),
        "ppo_by_learning_rate": rates,
        "correlations": correlations.tolist(),
        "blocks": tables,
        "lengths": sizes,
    }
    write(given, "token_reward_transformer", found=found, page="\n".join(lines))


if __name__ == "__main__":
    main()
