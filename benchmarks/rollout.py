"""Rollout tokens/s through the Ray actor against a bare ``vllm.LLM.generate``.

Both engines are up at once and sample the same requests in turn, with the same seeds and sampling
parameters. The bare one keeps vLLM's defaults; ours returns finished ``Rollout``s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import GIB, WORK, Figure, Options, interleaved, script, story_prompts
from rto.cluster.plan import GroupSpec, Plan
from rto.cluster.session import session
from rto.data.loaders.prompts import load_prompts
from rto.models.load import load_tokenizer
from rto.rollout.requests import Sampling
from rto.rollout.seeds import request_seed
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed
from rto.tracking.quiet import quiet
from rto.types import Prompt

ROUNDS = 5
NUM_PROMPTS, NEW_TOKENS, MAX_LEN, SEED = 32, 64, 128, 0
REST = 0.5
"""Seconds before each measurement, in which the other engine's threads fall asleep."""


def measure(options: Options) -> list[Figure]:
    quiet(WORK)
    path = options.model_path()
    count, rounds = (4, 1) if options.quick else (NUM_PROMPTS, ROUNDS)
    data = Data(
        prompt_dataset=[str(story_prompts())],
        input_key="prompt",
        apply_chat_template=True,
        max_len=MAX_LEN,
        max_samples=count,
    )
    prompts = load_prompts(
        data, load_tokenizer(str(path)), max_prompt_len=MAX_LEN - NEW_TOKENS, seed=SEED
    )
    config = RunConfig(data=data, ds=DeepSpeed(param_dtype="bf16"))
    spec = GroupSpec(1, 1.0, 0.0, "engine")
    plan = Plan({"engine": spec}, {"engine": [{"CPU": 1.0}]}, "cpu", colocated=False)
    with session(config, plan, logs=WORK) as actors:
        from rto.cluster.generator import EngineGenerator

        engines = actors.start_engines(str(path), "object_store")
        actors.wait()
        engines.accept(0)
        generator = EngineGenerator(engines, Sampling(NEW_TOKENS), 1, run_seed=SEED)

        def ours() -> int:
            (rollouts,) = generator.generate([prompts], 0, 0)
            return sum(len(rollout.token_ids) for rollout in rollouts)

        bare = bare_engine(path, prompts)
        ratio, mine, theirs = interleaved(lambda: rate(ours), lambda: rate(bare), rounds=rounds)
    detail = (
        f"{mine:.0f} against {theirs:.0f} tokens/s, {count} requests of up to {NEW_TOKENS} "
        f"tokens, {path.name} bf16, {rounds} rounds in turn"
    )
    return [Figure("rollout_tokens_ratio", ratio, detail)]


def bare_engine(path: Path, prompts: Sequence[Prompt]) -> Callable[[], int]:
    """A call that samples all prompts and returns the number of tokens."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        str(path),
        dtype="bfloat16",
        max_model_len=MAX_LEN,
        enforce_eager=True,
        kv_cache_memory_bytes=GIB,
    )
    inputs = [TokensPrompt(prompt_token_ids=list(prompt.token_ids)) for prompt in prompts]
    seeds = [request_seed(SEED, 0, prompt.id, 0) for prompt in prompts]
    params = [SamplingParams(max_tokens=NEW_TOKENS, seed=seed, logprobs=0) for seed in seeds]

    def generate() -> int:
        outputs = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


def rate(generate: Callable[[], int]) -> float:
    """Tokens per second of one call."""
    time.sleep(REST)
    start = time.perf_counter()
    tokens = generate()
    return tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    script(measure)
