"""A configuration -> a checked run: data, tokenizers, method and plan, before an actor starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from rto.card import Feedback
from rto.cluster import launch
from rto.cluster.actors import Kind
from rto.cluster.build import Models
from rto.cluster.device import run_device
from rto.cluster.plan import check_overlap, plan_actors
from rto.data.accounting import (
    DISLIKED,
    EQUAL,
    HELD_OUT,
    NOT_REACHED,
    TOO_FEW,
    TOO_LONG,
    Loaded,
    RowCounts,
    merged_told,
    truncated_told,
)
from rto.data.batches import OfflineBatches
from rto.data.loaders.demonstrations import load_examples, load_texts
from rto.data.loaders.pairs import load_pairs
from rto.data.loaders.prompts import load_prompts
from rto.data.loaders.rated import load_rated, reward_scale
from rto.data.sampler import PromptSampler
from rto.data.storage.groups import Groups, split_by_prompt
from rto.data.templates import Template, load_template
from rto.errors import UserError
from rto.methods.reward_model import RewardModel
from rto.models.load import assert_same_tokenizer, load_tokenizer
from rto.observe import OBSERVED
from rto.protocols import Method, PolicyMethod
from rto.runs.check_models import check_models, with_engine
from rto.runs.held_out import best_held_out
from rto.runs.offline import OfflineRun, pad_id, reference_models
from rto.runs.online import OnlineRun
from rto.runs.rewards import reward_sources
from rto.sections.data import Data
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.training.pretrain_mix import PretrainMix
from rto.types import Role

UNITS: dict[Feedback, str] = {"demonstrations": "rows", "pairs": "pairs", "rewards": "prompts"}
MethodBuilder = Callable[[RunConfig, PreTrainedTokenizerBase], PolicyMethod]


def prepare_online(config: RunConfig, build: MethodBuilder) -> OnlineRun:
    """Everything `rto train` can check without an actor.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    config.check_actor()
    tokenizer, template = _template(config)
    method = build(config, tokenizer)
    roles = method.roles | OBSERVED
    config.check_online(
        needs_critic=Role.CRITIC in roles,
        needs_dpo=Role.DPO in roles,
        min_responses=method.min_responses,
    )
    models = frozen_models(config, roles)
    check_tokenizers(config, models, tokenizer)
    critic = config.critic_path if Role.CRITIC in roles else None
    check_models(config, tokenizer, models, critic=critic)
    config = with_engine(config, str(config.actor.model_name_or_path))
    prompts = load_prompts(
        config.data,
        tokenizer,
        max_prompt_len=config.max_prompt_len,
        seed=config.train.seed,
        encoder_decoder=template.encoder_decoder,
    )
    if prompts.num_merged:
        print(merged_told(prompts.num_merged))
    if prompts.num_cut:
        print(truncated_told(prompts.num_cut, "prompts"))
    sampler = PromptSampler(prompts, batch_size=config.rollout.batch_size, seed=config.train.seed)
    total = sampler.iterations_per_epoch * config.train.num_episodes
    iterations = min(total, config.train.max_steps or total)
    drawn = sampler.num_drawn(iterations)
    plan = plan_actors(
        config,
        device=run_device(config),
        num_cpus=available_cpus(config),
        online=True,
        critic=Role.CRITIC in roles,
        frozen=bool(models),
    )
    check_overlap(config, plan, frozen=bool(models))
    return OnlineRun(
        config=config,
        method=method,
        plan=plan,
        tokenizer=tokenizer,
        prompts=prompts,
        models=models,
        rewards=reward_sources(config, template),
        iterations=iterations,
        stops=template.stop_token_ids,
        ptx=pretrain_mix(config, template),
        row_counts=RowCounts(
            "prompts",
            len(prompts) + prompts.num_too_long,
            drawn,
            {TOO_LONG: prompts.num_too_long, NOT_REACHED: len(prompts) - drawn},
            prompts.num_merged,
            prompts.num_cut,
        ),
    )


def prepare_reward(config: RunConfig) -> OfflineRun:
    """`rto reward`: a scalar head instead of a language model."""
    config.check_actor()
    tokenizer, template = _template(config)
    require(
        not template.encoder_decoder,
        f"{config.actor.model_name_or_path}: an encoder-decoder model; a reward model starts from "
        "a decoder-only one",
    )
    check_models(config, tokenizer, Models(), kind="score")
    return _offline(config, RewardModel(), "score", tokenizer, _rows("pairs", config, template))


def prepare_fit(config: RunConfig, build: MethodBuilder) -> OfflineRun:
    """`rto fit`, and `rto sft` and `rto dpo`, which name their method.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    config.check_actor()
    tokenizer, template = _template(config)
    method = build(config, tokenizer)
    if Role.SAMPLER in method.roles:
        raise UserError(
            f"{method.card.name}: these settings read the sampler's log-probs, which stored "
            f"responses do not have: use `rto train --algo {method.card.name}`"
        )
    reference = reference_models(config, method.roles)
    check_tokenizers(config, reference, tokenizer)
    check_models(config, tokenizer, reference, critic=_offline_critic(config, method))
    load = _rows(method.card.feedback, config, template, min_responses=method.min_responses)
    return _offline(config, method, "policy", tokenizer, load)


def _offline_critic(config: RunConfig, method: Method) -> str | None:
    """Where the critic of an offline stage starts from: reward models are none of its models."""
    if Role.CRITIC not in method.roles:
        return None
    return config.critic.model_name_or_path or config.actor.model_name_or_path


def frozen_models(config: RunConfig, roles: frozenset[Role]) -> Models:
    """What the scorer actors load for the roles of a method."""
    dpo = config.dpo
    wanted = {
        Role.REFERENCE: config.reference_path,
        Role.DPO: dpo.model_name_or_path,
        Role.DPO_REFERENCE: dpo.ref_model_name_or_path,
    }
    paths = {role: path for role, path in wanted.items() if role in roles and path is not None}
    rewards = config.reward.model_name_or_path if Role.REWARD in roles else []
    return Models(paths=paths, rewards=rewards)


def check_tokenizers(config: RunConfig, models: Models, tokenizer: PreTrainedTokenizerBase) -> None:
    """All models read the policy's token ids, so their tokenizers must be equal."""
    paths = {*models.paths.values(), *models.rewards}
    if config.critic.model_name_or_path is not None:
        paths.add(config.critic.model_name_or_path)
    own = str(config.actor.model_name_or_path)
    others = {path: load_tokenizer(path) for path in sorted(paths - {own})}
    assert_same_tokenizer({own: tokenizer, **others}, ends_alike=set(models.paths.values()))


def pretrain_mix(config: RunConfig, template: Template) -> PretrainMix | None:
    """The text of ``data.pretrain_dataset`` for the ptx loss."""
    source = config.data.pretrain_dataset
    if source is None:
        return None
    plain = replace(template, input_template=None, apply_chat_template=False)
    rows = load_texts(source, config.data, plain)
    return PretrainMix(rows, config.algo.ptx_coef, pad_id(plain.tokenizer), config.train.seed)


def available_cpus(config: RunConfig) -> float:
    """Cores that the plan divides: as told, of a node of the cluster that is joined, or of the
    machine."""
    if config.ray.num_cpus is not None:
        return float(config.ray.num_cpus)
    address = launch.cluster_address(config.ray)
    if address is None or config.plan.gpus is not None:
        return float(os.cpu_count() or 1)
    return launch.joined_cpus(address)


def _template(config: RunConfig) -> tuple[PreTrainedTokenizerBase, Template]:
    """The policy's, with a line where its ends of a response are not one."""
    data = config.data
    template = load_template(
        str(config.actor.model_name_or_path), data, chat=data.apply_chat_template
    )
    if template.said_ends is not None:
        print(f"{config.actor.model_name_or_path}: {template.said_ends}")
    return template.tokenizer, template


def _rows(
    feedback: Feedback, config: RunConfig, template: Template, *, min_responses: int = 1
) -> Callable[[Data], Loaded]:
    """How the rows of one kind of feedback are read."""
    seed = config.train.seed
    match feedback:
        case "demonstrations":
            return lambda data: _demonstrations(data, template, seed)
        case "pairs":
            return lambda data: _pairs(data, template, seed)
        case "rewards":
            return lambda data: _rated(data, template, min_responses)


def _demonstrations(data: Data, template: Template, seed: int) -> Loaded:
    examples = load_examples(data, template, seed=seed)
    filtered = {TOO_LONG: examples.num_too_long}
    if examples.num_disliked:
        filtered[DISLIKED] = examples.num_disliked
        print(
            f"{examples.num_disliked} prompts whose every response has a bad verdict are left out, "
            f"{len(examples.examples)} remain"
        )
    return _told(Loaded(examples.examples, filtered, examples.num_merged), "rows")


def _pairs(data: Data, template: Template, seed: int) -> Loaded:
    pairs = load_pairs(data, template, seed=seed)
    if pairs.num_equal:
        print(
            f"{pairs.num_equal} pairs with equal chosen and rejected are left out, "
            f"{len(pairs.pairs)} remain"
        )
    filtered = {TOO_LONG: pairs.num_too_long, EQUAL: pairs.num_equal}
    return _told(Loaded(pairs.pairs, filtered, pairs.num_merged), "pairs")


def _rated(data: Data, template: Template, min_responses: int) -> Loaded:
    rated = load_rated(data, template, min_responses=min_responses)
    if rated.num_too_few:
        print(
            f"{rated.num_too_few} prompts with fewer than {min_responses} rated responses are "
            f"left out, {len(rated.groups)} remain"
        )
    filtered = {TOO_LONG: rated.num_too_long, TOO_FEW: rated.num_too_few}
    return _told(Loaded(rated.groups, filtered, rated.num_merged), "prompts")


def _told(loaded: Loaded, unit: str) -> Loaded:
    """The same with its cut prompts counted, and a line where responses were merged or prompts
    cut."""
    loaded = replace(loaded, truncated=loaded.rows.num_cut)
    if loaded.merged:
        print(merged_told(loaded.merged))
    if loaded.truncated:
        print(truncated_told(loaded.truncated, unit))
    return loaded


def _offline(
    config: RunConfig,
    method: Method,
    kind: Kind,
    tokenizer: PreTrainedTokenizerBase,
    load: Callable[[Data], Loaded],
) -> OfflineRun:
    # A setting of sampling: no offline loss, cached reference or held-out figure is at it.
    config = replace(config, rollout=replace(config.rollout, temperature=1.0))
    loaded = load(config.data)
    train, held_out, constants = _scaled(config, method, *_split(config, load, loaded))
    require(
        Role.UNRELATED not in method.roles or len(train) > 1,
        f"{method.card.name} compares with responses to another prompt, and there is {len(train)} "
        "prompt to train on: give rows of two prompts or more, or set algo.kto.variant to "
        "matched_mean",
    )
    batches = OfflineBatches(
        train,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        epochs=config.train.max_epochs,
        pad_token_id=0,
        max_steps=config.train.max_steps,
    )
    plan = plan_actors(
        config,
        device=run_device(config),
        num_cpus=available_cpus(config),
        online=False,
        critic=Role.CRITIC in method.roles,
        frozen=bool(reference_models(config, method.roles)),
    )
    return OfflineRun(
        config=config,
        method=method,
        kind=kind,
        plan=plan,
        tokenizer=tokenizer,
        train=train,
        held_out=held_out,
        num_steps=batches.num_steps,
        visited=batches.visited,
        constants=constants,
        best_key=best_held_out(kind, method.card.feedback, held_out, config),
        row_counts=RowCounts(
            UNITS[method.card.feedback],
            len(loaded.rows) + sum(loaded.filtered.values()),
            len(batches.visited),
            {
                **loaded.filtered,
                HELD_OUT: len(loaded.rows) - len(train),
                NOT_REACHED: len(train) - len(batches.visited),
            },
            loaded.merged,
            loaded.truncated,
        ),
    )


def _scaled(
    config: RunConfig, method: Method, train: Groups[Any], held_out: Groups[Any]
) -> tuple[Groups[Any], Groups[Any], dict[str, float]]:
    """Rewards on the scale that the method asks for; the constants come from the training rows."""
    if not isinstance(method, PolicyMethod) or method.card.feedback != "rewards":
        return train, held_out, {}
    asked = config.data.reward_scaling
    scale = reward_scale(train, method.reward_scaling if asked == "auto" else asked)
    constants = {"reward_mean": scale.mean, "reward_std": scale.std}
    return train.map(scale.apply), held_out.map(scale.apply), constants


def _split(
    config: RunConfig, load: Callable[[Data], Loaded], loaded: Loaded
) -> tuple[Groups[Any], Groups[Any]]:
    """Rows to train on and rows held out: a file of their own, or a share of the prompts."""
    data, rows = config.data, loaded.rows
    if not rows:
        raise UserError("the dataset has no usable row: check data.max_len and the columns")
    if data.eval_dataset is not None:
        return rows, load(replace(data, dataset=[data.eval_dataset], dataset_probs=None)).rows
    if data.eval_ratio == 0:
        return rows, rows.select([])
    return split_by_prompt(
        rows, ratio=data.eval_ratio, seed=config.train.seed, min_train=config.train.batch_size
    )
