"""Rollout tokens/s through the Ray actor against a bare ``vllm.LLM.generate``.

Both engines are up at once and sample the same requests in turn, with the same seeds and sampling
parameters; the bare one keeps vLLM's defaults, and what ours returns are finished ``Rollout``s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import WORK, Figure, Options, interleaved, script
from rto.cluster.plan import GroupSpec, Plan
from rto.cluster.session import session
from rto.config import RunConfig
from rto.rollout.requests import Sampling
from rto.rollout.seeds import request_seed
from rto.sections import Data
from rto.sections_runtime import VLLM, DeepSpeed
from rto.types import Prompt

ROUNDS = 5
NUM_PROMPTS, NEW_TOKENS, MAX_LEN = 32, 64, 128
REST = 0.5
"""Seconds before each measurement, for the other engine's threads to go to sleep."""

Rate = Callable[[], float]


def measure(options: Options) -> list[Figure]:
    path = str(options.model_path())
    count, rounds = (4, 1) if options.quick else (NUM_PROMPTS, ROUNDS)
    requests = make_prompts(path, count)
    config = RunConfig(
        data=Data(max_len=MAX_LEN),
        ds=DeepSpeed(param_dtype="bf16"),
        vllm=VLLM(cpu_kvcache_gib=1),
    )
    spec = GroupSpec(1, 1.0, 0.0, "engine")
    plan = Plan({"engine": spec}, {"engine": [{"CPU": 1.0}]}, "cpu", colocated=False)
    with session(config, plan, logs=WORK) as actors:
        ours = through_actor(actors, path, requests, seed=config.train.seed)
        bare = through_vllm(path, requests, seed=config.train.seed)
        ratio, mine, theirs = interleaved(ours, bare, rounds=rounds)
    detail = (
        f"{mine:.0f} against {theirs:.0f} tokens/s, {count} requests of up to {NEW_TOKENS} "
        f"tokens, {options.model_path().name} bf16, {rounds} rounds in turn"
    )
    return [Figure("rollout_tokens_ratio", ratio, detail)]


def make_prompts(path: str, count: int) -> list[Prompt]:
    from benchmarks.prompts import PROMPTS
    from rto.data.templates import Template
    from rto.models.load import load_tokenizer

    template = Template(load_tokenizer(path), None, True)
    texts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    ...
