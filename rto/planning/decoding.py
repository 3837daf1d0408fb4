"""Seconds that engines take to sample: prompts at once, then a step for each token."""

from __future__ import annotations

import math

from rto.planning.engine import GIB, LARGE_SEQUENCES, SEQUENCES
from rto.planning.job import StageTime, Workload, add, forward_flops, matrix_params
from rto.planning.memory import engine_of
from rto.planning.rates import Rates
from rto.planning.shape import ModelShape

SLICES = 64
"""Of a response's length, where the number of running sequences is taken as constant."""


def generate(job: Workload, rates: Rates) -> StageTime:
    """Every engine reads its prompts, then steps until the longest response ends.

    A step reads the weights once and the cache of each running sequence, or takes as long as its
    products where that is more. Lengths have the distribution of which the share longer than t is
    (1 - t/longest)^k; k follows from the mean. Where an engine has more sequences than it can run
    at once, it is full until the last of them have begun.
    """
    card, shape, vllm = job.machine.card, job.setup.policy.shape, job.config.vllm
    width = vllm.tensor_parallel_size
    count = math.ceil(job.sequences / vllm.num_engines)
    prompts = math.ceil(job.config.rollout.batch_size / vllm.num_engines)
    peak, bandwidth = width * job.peak * rates.scoring, width * card.hbm * 1e9 * rates.hbm
    # The last prompt token is a step's; with prefix caching a group's prompt is read once.
    read = prompts if vllm.enable_prefix_caching else count
    parts = {
        "reading prompts": forward_flops(shape, read * job.prompt_tokens, job.prompt_tokens / 2)
        / peak
    }
    mean, longest = min(job.response_tokens, job.longest), job.longest
    k = longest / mean - 1
    running = min(count, max_running(job))
    full = (running, (count - running) * mean / running, job.prompt_tokens + longest / (k + 2))
    slices: list[tuple[float, float, float]] = [full]
    for i in range(SLICES):
        at = (i + 0.5) / SLICES
        active = max(1.0, running * (1 - at) ** k)
        slices.append((active, longest / SLICES, job.prompt_tokens + at * longest))
    for active, steps, context in slices:
        add(parts, _decode(job, rates, active, steps, context, peak, bandwidth))
    return StageTime("generate", parts)


def _decode(
    job: Workload,
    rates: Rates,
    active: float,
    steps: float,
    context: float,
    peak: float,
    bandwidth: float,
) -> dict[str, float]:
    """``steps`` steps of one engine with ``active`` sequences of ``context`` tokens each."""
    shape, width = job.setup.policy.shape, job.config.vllm.tensor_parallel_size
    weights = matrix_params(shape) * job.width / bandwidth
    cache = active * context * cache_bytes(shape, job.width) / bandwidth
    products = forward_flops(shape, active, context) / peak
    parts = {"engine's own work": rates.decode_step + rates.decode_sequence * active}
    if products > weights + cache:
        parts["products of steps"] = products
    else:
        parts |= {"reading weights": weights, "reading the cache": cache}
    if width > 1:
        parts["between an engine's GPUs"] = shape.layers * rates.tp_layer
    return {name: steps * value for name, value in parts.items()}


def cache_bytes(shape: ModelShape, width: int) -> int:
    """Keys and values of one token."""
    return 2 * shape.layers * shape.kv_width * width


def max_running(job: Workload) -> int:
    """Sequences that one engine runs at once: vLLM's own limit, or what its cache holds."""
    large = engine_of(job.setup, job.machine.card.usable_gib * GIB).large
    held = int(job.cache_tokens / (job.prompt_tokens + job.response_tokens))
    return max(1, min(LARGE_SEQUENCES if large else SEQUENCES, held))
