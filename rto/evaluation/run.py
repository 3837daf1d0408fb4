"""An evaluation from its plan to its files: answers, metrics, win rates."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from rto.builds import require_vllm
from rto.data.templates import Message
from rto.evaluation.endpoint import Endpoint
from rto.evaluation.formats import Answers, read_answers, write_answers
from rto.evaluation.judge import (
    JudgePrompt,
    WinRate,
    judge_pairs,
    load_judge_prompt,
    reward_win_rate,
    summarise,
)
from rto.evaluation.local_judge import ask_local
from rto.evaluation.plan import JudgeSpec, Options
from rto.evaluation.progress import EndpointProgress
from rto.evaluation.questions import Question, load_questions
from rto.evaluation.sample import EvaluatedPolicy, Sampled, load_policy, sample
from rto.evaluation.suite import Figures, measure, pairs, reward_scores
from rto.models.exported import model_path
from rto.rollout.requests import Sampling
from rto.sections.runtime import Decoding
from rto.tracking.run_folder import versions, write_atomic


@dataclass(frozen=True)
class Job:
    """What is evaluated: questions, and each policy to sample or its file of outputs."""

    options: Options
    questions: Sequence[Question]
    policies: Sequence[EvaluatedPolicy]
    outputs: Sequence[Answers]
    judge_prompt: JudgePrompt

    @property
    def names(self) -> list[str]:
        """The model, then the baseline."""
        sources = (self.options.model, self.options.baseline)
        return [source.name for source in sources if source is not None]


@dataclass(frozen=True)
class EvaluationResult:
    """All figures: of each policy, and the model's win rate over the baseline by each judge."""

    figures: Mapping[str, Figures]
    win_rates: Mapping[str, WinRate]


def evaluate(job: Job, root: Path, console: Console, arguments: str) -> EvaluationResult:
    """Sample, measure and judge; answers, judgements and figures are files in ``root``.

    ``arguments`` are those of the command, for the file of figures.
    """
    answers = answers_of(job, root)
    save_answers(job, answers, root)
    rewards = rewards_of(job, answers)
    figures = measure_all(job, answers, rewards)
    win_rates = judge_all(job, answers, rewards, root, console)
    save(root / "eval.json", job, figures, win_rates, arguments)
    return EvaluationResult(figures, win_rates)


def prepare(options: Options) -> Job:
    """Everything that can be checked before an engine starts.

    Raises:
        UserError: one line with the flag or the row, and the remedy.
    """
    questions = load_questions(
        options.prompts,
        split=options.split,
        prompt_key=options.prompt_key,
        reference_key=options.reference_key,
    )[: options.max_prompts]
    sources = [s for s in (options.model, options.baseline) if s is not None]
    outputs = [read_answers(s.path, questions, name=s.name) for s in sources if s.is_outputs]
    judge_prompt = load_judge_prompt(options.judge_prompt)
    for judge in options.judges:
        if judge.kind == "openai":
            endpoint_of(judge, options)
        else:
            model_path(judge.target)
        if judge.kind == "vllm":
            require_vllm(f"--judge {judge}")
    sampled = [s for s in sources if not s.is_outputs]
    policies: list[EvaluatedPolicy] = []
    if sampled:
        chosen = options.config.data.chat_template
        policies = [load_policy(s.name, model_path(s.path), chat_template=chosen) for s in sampled]
        for policy in policies:
            if policy.engine(options.config) == "vllm":
                Sampling.of(options.decoding).check_vllm()
    return Job(options, questions, policies, outputs, judge_prompt)


def plan_lines(job: Job) -> list[str]:
    """What will be done, in words."""
    options = job.options
    referenced = sum(question.reference is not None for question in job.questions)
    turns = sum(len(question.turns) for question in job.questions)
    lines = [f"{len(job.questions)} prompts, {turns} turns, {referenced} with a reference"]
    drawn = f"{described(options.decoding)}, seed {options.config.train.seed}"
    lines += [
        f"{policy.name}: sampled by {policy.engine(options.config)}, {drawn}"
        for policy in job.policies
    ]
    lines += [f"{answers.name}: read from a file" for answers in job.outputs]
    return lines + [f"judge {judge}: prompt {job.judge_prompt.name}" for judge in options.judges]


def described(decoding: Decoding) -> str:
    """Temperature, top_p and length, and what else is not off."""
    off = Decoding(stop=[])
    always = ("temperature", "top_p", "max_new_tokens")
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in asdict(decoding).items()
        if name in always or value != vars(off)[name]
    )


def answers_of(job: Job, root: Path) -> dict[str, Sampled]:
    """Each policy's answers, the model's first."""
    samples = {answers.name: Sampled(answers, None) for answers in job.outputs}
    if job.policies:
        options = job.options
        reference = None if options.reference is None else model_path(options.reference)
        config = options.config
        config = replace(
            config,
            ref=replace(config.ref, model_name_or_path=reference),
            rollout=replace(config.rollout, temperature=options.decoding.temperature or 1.0),
        )
        samples |= sample(
            job.policies,
            job.questions,
            config=config,
            sampling=Sampling.of(options.decoding),
            source=options.prompts,
            logs=root / "logs",
        )
    return {name: samples[name] for name in job.names}


def save_answers(job: Job, found: Mapping[str, Sampled], root: Path) -> None:
    for name, each in found.items():
        folder = root / re.sub(r"[^\w.-]", "-", name)
        write_answers(folder, job.questions, each.answers, tstamp=time.time())


def rewards_of(job: Job, found: Mapping[str, Sampled]) -> dict[str, dict[str, np.ndarray]]:
    """Scores [N] by reward model and policy; judges that are reward models are asked here, too."""
    judges = [judge.target for judge in job.options.judges if judge.kind == "reward"]
    paths = dict.fromkeys([*job.options.reward_models, *judges])
    options = job.options
    return {
        path: {
            name: reward_scores(
                model_path(path),
                job.questions,
                each.answers,
                source=options.prompts,
                chat_template=options.config.data.chat_template,
            )
            for name, each in found.items()
        }
        for path in paths
    }


def measure_all(
    job: Job, found: Mapping[str, Sampled], rewards: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    missing: dict[str, str] = {}
    for name, each in found.items():
        figures[name] = measure(
            job.questions,
            each.answers,
            job.options.metrics,
            models=job.options.metric_models,
            kl=each.kl,
            rewards={path: scores[name] for path, scores in rewards.items()},
            known_missing=missing,
        )
        missing |= figures[name].missing
    return figures


def judge_all(
    job: Job,
    found: Mapping[str, Sampled],
    rewards: Mapping[str, Mapping[str, np.ndarray]],
    root: Path,
    console: Console,
) -> dict[str, WinRate]:
    """The win rate of the model over the baseline by each judge; judgements go to a file."""
    rates: dict[str, WinRate] = {}
    lines: list[str] = []
    for judge in job.options.judges:
        model, baseline = job.names
        if judge.kind == "reward":
            scores = rewards[judge.target]
            rates[str(judge)] = reward_win_rate(scores[model], scores[baseline])
            continue
        asked = pairs(job.questions, found[model].answers, found[baseline].answers)
        judgements = judge_pairs(
            asked,
            job.judge_prompt,
            lambda talks, j=judge: _ask(j, talks, job.options, root, console),
        )
        rates[str(judge)] = summarise(judgements)
        lines += [json.dumps({"judge": str(judge), **asdict(each)}) + "\n" for each in judgements]
    if lines:
        write_atomic(root / "judgements.jsonl", "".join(lines))
    return rates


def _ask(
    judge: JudgeSpec,
    talks: Sequence[list[Message]],
    options: Options,
    root: Path,
    console: Console,
) -> Sequence[str]:
    if judge.kind == "vllm":
        path = model_path(judge.target)
        return ask_local(path, talks, options.config, max_new_tokens=options.judge_max_tokens)
    with EndpointProgress(str(judge), console, options.judge_prices) as progress:
        endpoint = endpoint_of(judge, options)
        texts, _ = endpoint.ask(talks, kept=root / "judge_answers.jsonl", progress=progress)
    return texts


def endpoint_of(judge: JudgeSpec, options: Options) -> Endpoint:
    """The endpoint that an ``openai:MODEL`` judge names."""
    return Endpoint(
        url=options.judge_url,
        model=judge.target,
        key=os.environ.get(options.judge_key_env),
        key_env=options.judge_key_env,
        options={
            "temperature": 0,
            "max_tokens": options.judge_max_tokens,
            **options.judge_options,
        },
        timeout=options.judge_timeout,
        concurrency=options.judge_concurrency,
    )


def save(
    path: Path,
    job: Job,
    figures: Mapping[str, Figures],
    win_rates: Mapping[str, WinRate],
    arguments: str,
) -> None:
    """All figures with what they were made by, as JSON."""
    options = job.options
    sampled = {policy.name: policy.path for policy in job.policies}
    decoding = {**asdict(options.decoding), "seed": options.config.train.seed}
    content = {
        "command": f"rto eval {arguments}",
        "prompts": {"source": options.prompts, "num": len(job.questions)},
        "sampled": sampled,
        "decoding": decoding if sampled else None,
        "kl_reference": options.reference,
        "figures": {name: asdict(each) for name, each in figures.items()},
        "win_rates": {name: asdict(each) for name, each in win_rates.items()},
        "judge_prompt": asdict(job.judge_prompt) if options.judges else None,
        "versions": versions(),
    }
    write_atomic(path, json.dumps(content, indent=2) + "\n")
