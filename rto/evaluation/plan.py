"""What `rto eval` is asked for: the policies, the prompts, the metrics and the judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rto.evaluation.measured import MetricModels
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Decoding

JudgeKind = Literal["reward", "vllm", "openai"]


@dataclass(frozen=True)
class AnswerSource:
    """A policy: a run, directory or hub id to sample from, or a file of its outputs."""

    name: str
    path: str
    is_outputs: bool


@dataclass(frozen=True)
class JudgeSpec:
    """``reward:DIR``, ``vllm:MODEL`` or ``openai:MODEL``."""

    kind: JudgeKind
    target: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


@dataclass(frozen=True)
class Options:
    """The checked flags; ``rto.cli.eval_flags`` says what they mean."""

    model: AnswerSource
    baseline: AnswerSource | None
    prompts: str
    split: str
    prompt_key: str | None
    reference_key: str | None
    max_prompts: int | None
    reference: str | None
    reward_models: Sequence[str]
    metrics: Sequence[str] | None
    metric_models: MetricModels
    decoding: Decoding
    judges: Sequence[JudgeSpec]
    judge_prompt: str
    judge_url: str
    judge_key_env: str
    judge_options: Mapping[str, object]
    judge_max_tokens: int
    judge_timeout: float
    judge_concurrency: int
    judge_prices: tuple[float, float] | None
    output_dir: str | None
    config: RunConfig
    dry_run: bool
