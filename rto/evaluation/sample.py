"""Responses of several policies to the same questions, with one decoding and the same seeds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from rto.data.templates import Template
from rto.errors import UserError, foreign
from rto.evaluation.formats import Answers
from rto.evaluation.questions import Question, rendered
from rto.models.load import assert_same_tokenizer, generation_stops, load_config, load_tokenizer
from rto.models.rope import max_positions
from rto.rollout.requests import Sampling
from rto.runs.check_models import with_engine
from rto.runs.evaluate import PolicyEvaluator, evaluator
from rto.sections.run_config import RunConfig
from rto.types import Prompt

NOT_ARCHITECTURE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True)
class EvaluatedPolicy:
    """A model directory, its tokenizer and how many tokens it reads."""

    name: str
    path: str
    tokenizer: PreTrainedTokenizerBase
    context: int | None
    architecture: Mapping[str, object]
    stops: tuple[int, ...] = ()

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.architecture.get("is_encoder_decoder"))

    def engine(self, config: RunConfig) -> str:
        """Which library samples from it: "vllm" or "transformers"."""
        return with_engine(config, self.path).vllm.engine

    @functools.cached_property
    def template(self) -> Template:
        """Its chat template is applied where it has one."""
        return Template(
            self.tokenizer,
            None,
            bool(self.tokenizer.chat_template),
            encoder_decoder=self.encoder_decoder,
            stops=self.stops,
        )

    def shares_engine(self, other: EvaluatedPolicy) -> bool:
        """One engine can take the weights of both and reads the same token ids."""
        same_ids = self.tokenizer.get_vocab() == other.tokenizer.get_vocab()
        return same_ids and self.architecture == other.architecture


@dataclass(frozen=True)
class Sampled:
    """One policy's answers; ``kl`` [N] is log(pi / pi_ref) of each, in nats, where a reference was
    given."""

    answers: Answers
    kl: np.ndarray | None


def load_policy(name: str, path: str, *, chat_template: str | None = None) -> EvaluatedPolicy:
    """What can be checked of a policy before an engine starts; a hub id is fetched.

    ``chat_template`` chooses one where its tokenizer has several (see ``load_tokenizer``).

    Raises:
        UserError: no model, or one without safetensors.
    """
    config = load_config(path)
    settings = config.to_dict()
    folder = _local(path)
    if not any(Path(folder).glob("*.safetensors")):
        raise UserError(f"{path}: no *.safetensors in it: save the model with save_pretrained")
    policy = EvaluatedPolicy(
        name=name,
        path=folder,
        tokenizer=load_tokenizer(path, chat_template=chat_template),
        context=max_positions(config),
        architecture={k: v for k, v in settings.items() if k not in NOT_ARCHITECTURE},
        stops=generation_stops(path),
    )
    # Several templates without a choice are refused here.
    assert policy.template.tokenizer is policy.tokenizer
    return policy


def sample(
    policies: Sequence[EvaluatedPolicy],
    questions: Sequence[Question],
    *,
    config: RunConfig,
    sampling: Sampling,
    source: str,
    logs: Path,
) -> dict[str, Sampled]:
    """Every policy's answers by name. Policies that share an architecture share an engine.

    ``config.ref`` names the KL reference, or none.
    """
    if config.reference_path is not None:
        for policy in policies:
            reference = load_tokenizer(config.reference_path)
            both = {policy.path: policy.tokenizer, config.reference_path: reference}
            assert_same_tokenizer(both, ends_alike=[config.reference_path])
    sampled: dict[str, Sampled] = {}
    for group in _groups(policies):
        prompts = {p.name: _prompts(p, questions, [()] * len(questions), source) for p in group}
        max_len = _max_len(group[0], prompts, questions, sampling)
        sized = replace(config, data=replace(config.data, max_len=max_len))
        with evaluator(group[0].path, config=sized, sampling=sampling, logs=logs) as held:
            for policy in group:
                held.load(policy.path)
                sampled[policy.name] = _converse(
                    held, policy, questions, prompts[policy.name], max_len, source
                )
    return sampled


def _converse(
    held: PolicyEvaluator,
    policy: EvaluatedPolicy,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    max_len: int,
    source: str,
) -> Sampled:
    """All first turns, then the second turns of the questions that have one, and so on."""
    turns: list[tuple[str, ...]] = [()] * len(questions)
    finished = [True] * len(questions)
    kl = np.zeros(len(questions))
    pad = int(str(policy.tokenizer.pad_token_id))
    while prompts:
        _check_room(prompts, questions, min(max_len, policy.context or max_len), source)
        result = held.answer(prompts, pad_token_id=pad, stops=policy.template.stop_token_ids)
        for rollout in result.rollouts:
            turns[rollout.prompt.id] += (rollout.text,)
            finished[rollout.prompt.id] = rollout.finished
        if held.roles:
            kl[[rollout.prompt.id for rollout in result.rollouts]] += result.kl.numpy()
        prompts = _prompts(policy, questions, turns, source)
    answers = Answers(policy.name, turns, finished)
    return Sampled(answers, kl if held.roles else None)


def _prompts(
    policy: EvaluatedPolicy,
    questions: Sequence[Question],
    answered: Sequence[tuple[str, ...]],
    source: str,
) -> list[Prompt]:
    """The next turn of every question that has one left; ids are the questions' places."""
    template = policy.template
    texts = {
        i: rendered(question, turns, template, source)
        for i, (question, turns) in enumerate(zip(questions, answered, strict=True))
        if len(turns) < len(question.turns)
    }
    return [
        Prompt(id=i, token_ids=template.prompt_ids(text), text=text, source=source)
        for i, text in texts.items()
    ]


def _groups(policies: Sequence[EvaluatedPolicy]) -> list[list[EvaluatedPolicy]]:
    groups: list[list[EvaluatedPolicy]] = []
    for policy in policies:
        group = next((each for each in groups if each[0].shares_engine(policy)), None)
        if group is None:
            groups.append([policy])
        else:
            group.append(policy)
    return groups


def _max_len(
    policy: EvaluatedPolicy,
    prompts: Mapping[str, Sequence[Prompt]],
    questions: Sequence[Question],
    sampling: Sampling,
) -> int:
    """What the longest conversation can need, within the model's context, which an encoder and its
    decoder have each for itself."""
    longest = max(len(prompt.token_ids) for prompt in itertools.chain(*prompts.values()))
    rounds = max(len(question.turns) for question in questions)
    needed = rounds * (longest + sampling.max_new_tokens)
    context = policy.context or needed
    return min(needed, 2 * context if policy.encoder_decoder else context)


def _check_room(
    prompts: Sequence[Prompt], questions: Sequence[Question], max_len: int, source: str
) -> None:
    worst = max(prompts, key=lambda prompt: len(prompt.token_ids))
    if len(worst.token_ids) >= max_len:
        where = questions[worst.id].where(source)
        raise where.error(
            f"has {len(worst.token_ids)} tokens, which fill the model's context of {max_len}: "
            "drop it, or take a model with a longer context"
        )


def _local(path: str) -> str:
    if Path(path).is_dir():
        return path
    files = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
    with foreign(f"{path}: cannot be fetched from the hub", "give a directory"):
        return snapshot_download(path, allow_patterns=files)
