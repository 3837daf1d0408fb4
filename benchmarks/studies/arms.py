"""The arms of the studies of RTO's token reward, and the table that compares them with PPO.

Two controls: ``shuffled`` pays each response its own DPO terms at random places; ``ppo_from_dpo``
is PPO that starts at the DPO policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rto.evaluation.statistics import bootstrap
from rto.methods.ppo import PPO
from rto.methods.rto import DpoTokenReward, Variant
from rto.methods.settings.policy_gradient import RTOSettings

VARIANTS: Mapping[str, Variant] = {
    "rto": "token", "semi": "semi", "shaping": "shaping", "delayed": "delayed", "shuffled": "token",
}  # fmt: skip
ARMS = ("ppo", "ppo_from_dpo", *VARIANTS)
LAMBDAS = (0.95, 1.0)
SCALES = ((0.05, 0.05), (0.1, 0.0))
"""(dpo_reward_scale, dpo_reward_clip): the authors' script, and larger without a clip."""

Curves = Mapping[str, np.ndarray]
"""Arm -> [seeds, iterations + 1, 2 or more]: score, KL, and what a study adds."""


def method(
    arm: str,
    *,
    lambd: float,
    scale: tuple[float, float],
    kl_coef: float,
    segment_end_ids: tuple[int, ...],
) -> PPO:
    plain = PPO(card=RTOSettings().card, lambd=lambd, value_clip=0.2, kl_coef=kl_coef)
    if arm not in VARIANTS:
        return plain
    reward = DpoTokenReward(
        scale=scale[0],
        clip=scale[1],
        variant=VARIANTS[arm],
        segment_end_ids=segment_end_ids,
    )
    return replace(plain, token_rewards=(reward,))


def block_name(lambd: float, scale: tuple[float, float]) -> str:
    return f"lambda {lambd}, scale {scale[0]}, clip {scale[1] or 'off'}"


def summary(curves: Curves, *, rollouts: int) -> list[dict[str, object]]:
    """A row per arm; ``reach`` counts rollouts until the seed-mean score is PPO's last one.

    ``rollouts`` are those between two points of a curve.
    """
    ppo = curves["ppo"][..., 0]
    goal = ppo.mean(0)[-1]
    rows: list[dict[str, object]] = []
    for arm, curve in curves.items():
        score, kl = curve[..., 0], curve[..., 1]
        quarter, half = (score.shape[1] - 1) // 4, (score.shape[1] - 1) // 2
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
                "reach": int(there[0] * rollouts) if len(there) else None,
                "kl": float(kl[:, -1].mean()),
            }
        )
    return rows


HEAD = (
    "| arm | 25% | 50% | final +- s.d. | final minus PPO's | area minus PPO's | reach | KL |",
    "|---|---|---|---|---|---|---|---|",
)


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    out = [*HEAD]
    for row in rows:
        gain, low, high = row["final_minus_ppo"]  # pyright: ignore[reportGeneralTypeIssues]
        area, area_low, area_high = row["area_minus_ppo"]  # pyright: ignore
        out.append(
            f"| {row['arm']} | {row['25%']:.3f} | {row['50%']:.3f} | {row['final']:.3f} "
            f"+- {row['final_sd']:.3f} | {gain:+.3f} [{low:+.3f}, {high:+.3f}] "
            f"| {area:+.3f} [{area_low:+.3f}, {area_high:+.3f}] "
            f"| {row['reach'] if row['reach'] is not None else 'not'} | {row['kl']:.0f} |"
        )
    return out
