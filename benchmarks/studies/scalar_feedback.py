"""Reward Partitioning against DRO, KTO and SFT on the best answer, with two tiny models.

    python -m benchmarks.studies.scalar_feedback [--seeds N] [--parts decoder t5]

Each seed is a world of its own: a reward, a reference trained from scratch by SFT, and its rated
answers. Every arm is one of the package's methods, trained from the reference in the same loop.
What is compared is the reward at the same KL to the reference. Settings, seeds and the rule for the
learning rates were fixed before the first run of it.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast, get_args

from transformers.utils import logging

from benchmarks.studies.results import arguments, write
from benchmarks.studies.scalar.page import Results, as_json, tables
from benchmarks.studies.scalar.runs import TUNING_KL, SeedResult, all_runs, tune
from benchmarks.studies.scalar.world import Architecture, Settings, make_world

TUNING_SEED = 1000


def study(
    architecture: Architecture, settings: Settings, seeds: int
) -> tuple[dict[str, float], list[SeedResult]]:
    """The learning rate of each arm, and what each seed found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        world = make_world(architecture, settings, seed=TUNING_SEED, path=path / "tuning")
        lrs = tune(world, settings, seed=TUNING_SEED)
        results: list[SeedResult] = []
        for seed in range(seeds):
            world = make_world(architecture, settings, seed=seed, path=path / str(seed))
            results.append(all_runs(world, settings, lrs=lrs, seed=seed))
    return lrs, results


def page(
    results: Mapping[str, Results], lrs: Mapping[str, Mapping[str, float]], settings: Settings
) -> str:
    lines = [_set_up(settings, seeds=len(next(iter(results.values()))))]
    for architecture, found in results.items():
        chosen = ", ".join(f"{arm} {lr:g}" for arm, lr in lrs[architecture].items())
        lines += ["", f"## {architecture}", "", f"Learning rates: {chosen}."]
        lines += tables(found, settings)
    return "\n".join(lines) + "\n"


def _set_up(settings: Settings, *, seeds: int) -> str:
    lrs = " and ".join(f"{lr:g}" for lr in settings.lrs)
    paragraphs = f"""# Reward Partitioning against DRO, KTO and SFT on the best answer

This page compares methods that learn from one number per answer, at equal KL and on the same data.
`python -m benchmarks.studies.scalar_feedback --seeds {seeds}` writes it.

A prompt of four tokens names a class of words, a length and two topics. An answer of at most 12
tokens is paid for words of the class, for the length and for avoiding unwanted words. The pair of
topics adds an offset to all answers of a prompt. Each seed has its own offsets, its own reference
and {settings.train_prompts} prompts. The reference has {settings.layers} layers (T5: as many in
encoder and decoder) and width {settings.width}, and SFT trained it from scratch. Each prompt has
{settings.responses} of the reference's answers, unless a table says otherwise. Rewards are in
standard deviations over the reference's answers. They are measured on
{settings.test_prompts * settings.test_samples} answers to {settings.test_prompts} held-out
prompts, sampled at temperature 1.

All arms train with AdamW for {settings.updates} updates of {settings.rows} rows (warm-up, then
linear decay), without dropout and without clipping. Each arm has the learning rate, out of {lrs},
that reached the most reward within KL {TUNING_KL:g} at strength 1 in one more world, which gives
none of the numbers below.

The frontier of an arm is the concave hull of its points and of the reference, because a mixture of
two policies is a policy too. Below the arm's nearest point the frontier is a straight line to the
reference, which is a lower bound. `-` means that some seed has no point as far away. Intervals are
95% bootstrap intervals over {seeds} seeds; with so few seeds they are hardly more than the range.

SNR is the squared norm of the mean mini-batch gradient over the trace of the covariance, at fixed
parameters. If all rows pull in one direction, that counts as signal, whether it comes from the
reward or not. The V error is the root mean square against V* at tau = 1, which is computed from
{settings.value_samples} answers to each of {settings.value_prompts} training prompts. `ms` is CPU
time per update."""
    return "\n\n".join(
        textwrap.fill(paragraph, 100, break_on_hyphens=False)
        for paragraph in paragraphs.split("\n\n")
    )


def tiny(settings: Settings) -> Settings:
    return replace(
        settings,
        width=16,
        layers=1,
        train_prompts=16,
        test_prompts=4,
        test_samples=1,
        value_prompts=4,
        value_samples=4,
        sft_updates=2,
        sft_rows=8,
        lrs=(1e-3,),
        updates=2,
        rows=16,
        gradients=2,
        grid=(1.0,),
        shares=(1.0,),
    )


def main() -> None:
    given = arguments(seeds=3, parts=get_args(Architecture))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = tiny(Settings()) if given.quick else Settings()
    results: dict[str, Results] = {}
    lrs: dict[str, Mapping[str, float]] = {}
    for part in given.parts:
        lrs[part], results[part] = study(cast(Architecture, part), settings, given.seeds)
        found = {"settings": asdict(settings), "learning_rates": lrs}
        found |= as_json(results, settings)
        write(given, "scalar_feedback", found=found, page=page(results, lrs, settings))


if __name__ == "__main__":
    main()
