"""Samples/s of whole critic-free iterations against TRL's GRPOTrainer, one after the other.

Both sample 32 responses of up to 64 tokens to 8 prompts, score them with a reward function and a
frozen reference, and take one optimizer step, in bf16. TRL samples with transformers; ours with
vLLM, which gets the new weights, with proof, in every iteration.
"""

from __future__ import annotations

import functools
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

from benchmarks.common import WORK, Figure, Options, peer, script, story_prompts
from rto.methods.settings.policy_gradient import GRPO
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt, DeepSpeed
from rto.sections.training import Actor, Adam, Reward, RolloutSection, Train
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import RunFolder

NUM_PROMPTS, GROUP_SIZE, NEW_TOKENS = 8, 4, 64
SAMPLES = NUM_PROMPTS * GROUP_SIZE
STEPS = 3
"""After one that warms up."""
LEARNING_RATE, KL_COEF = 1e-6, 0.04


def measure(options: Options) -> list[Figure]:
    path = options.model_path()
    steps = 1 if options.quick else STEPS
    ours, length = through_rto(path, steps)
    theirs, their_length = through_trl(path, steps)
    detail = (
        f"{SAMPLES / ours:.2f} against {SAMPLES / theirs:.2f} samples/s, mean length {length:.0f} "
        f"and {their_length:.0f} tokens, {path.name} bf16, median of {steps} iterations each"
    )
    return [Figure("grpo_like_samples_ratio", theirs / ours, detail)]


def through_rto(path: Path, steps: int) -> tuple[float, float]:
    """Seconds of an iteration and mean response length."""
    folder = WORK / "grpo-like"
    shutil.rmtree(folder, ignore_errors=True)
    config = RunConfig(
        algo=Algo("grpo", replace(GRPO, kl_coef=KL_COEF)),
        actor=Actor(
            model_name_or_path=str(path), adam=Adam(lr=LEARNING_RATE), lr_scheduler="constant"
        ),
        reward=Reward(func_path=str(Path(__file__).with_name("length_reward.py"))),
        rollout=RolloutSection(
            batch_size=NUM_PROMPTS,
            n_samples_per_prompt=GROUP_SIZE,
            max_new_tokens=NEW_TOKENS,
            max_tokens_per_gpu=2048,
        ),
        train=Train(
            batch_size=SAMPLES,
            max_tokens_per_gpu=1024,
            max_steps=1 + steps,
            device="cpu",
            self_check=False,
        ),
        data=Data(
            prompt_dataset=[str(story_prompts())],
            input_key="prompt",
            apply_chat_template=True,
            max_len=2 * NEW_TOKENS,
        ),
        ds=DeepSpeed(zero_stage=0, param_dtype="bf16"),
        ckpt=Ckpt(output_dir=str(folder)),
    )
    with RunFolder(folder) as run_folder:
        quiet(run_folder.logs)
        from rto.registry import build
        from rto.runs.online import run_online
        from rto.runs.prepare import prepare_online

        method = functools.partial(build, mode="online")
        run_online(prepare_online(config, method), run_folder, None)
        lines = run_folder.metrics.read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines][1:]
    seconds = statistics.median(line["time/iteration"] for line in metrics)
    return seconds, statistics.mean(line["response/length"] for line in metrics)


def through_trl(path: Path, steps: int) -> tuple[float, float]:
    """The same two figures, from a process of its own."""
    settings = {
        "model": str(path.absolute()),
        "prompts": str(story_prompts()),
        "steps": 1 + steps,
        "samples": SAMPLES,
        "group_size": GROUP_SIZE,
        "new_tokens": NEW_TOKENS,
        "learning_rate": LEARNING_RATE,
        "kl_coef": KL_COEF,
    }
    seen = peer("trl_grpo", settings)
    return statistics.median(seen["seconds"][1:]), statistics.mean(seen["lengths"][1:])


if __name__ == "__main__":
    script(measure)
