"""Online training on Ray: every part of the iteration built, checked and handed to the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rto.cluster.actors import TrainerSpec
from rto.cluster.build import Actors, Models, Progress, silent
from rto.cluster.calls import Engines, Trainers
from rto.cluster.generator import EngineGenerator
from rto.cluster.learner import ClusterLearner, UpdatePlan
from rto.cluster.node_checks import NodeNeeds
from rto.cluster.plan import Plan, choose_transport, scoring_parts, takes_turns
from rto.cluster.scorer import ClusterScorer, RewardSources
from rto.cluster.session import session
from rto.cluster.weight_sync import ClusterWeightSync, make_probe
from rto.data.accounting import RowCounts
from rto.data.sampler import PromptSampler
from rto.loop import train
from rto.observe import OBSERVED
from rto.protocols import PolicyMethod
from rto.rollout.engine import Transport
from rto.rollout.requests import Sampling
from rto.runs.drawn import read_drawn
from rto.runs.offline import make_checkpointer, pad_id, start_point
from rto.runs.replay import replayed
from rto.runs.self_check import CHECKS, few, self_check
from rto.sections.run_config import RunConfig
from rto.sections.runtime import LOGPROB_TOLERANCE
from rto.tracking.console import ONLINE, LiveConsole, where_to_look
from rto.tracking.metrics import open_tracker
from rto.tracking.run_folder import RunFolder, write_atomic
from rto.tracking.timing import Timings
from rto.training.checkpoint import Checkpoint
from rto.training.pretrain_mix import PretrainMix
from rto.types import Prompt, Role

CLOSING = (
    "reward/mean",
    "kl/mean",
    "kl/sequence",
    "response/length",
)
"""Metrics of the last iteration that a run ends with."""

PROVEN = {
    "sampler/abs_diff_mean": "sampled with the log-probs that were trained on",
    "sync/probe_mean_abs_diff": "engines hold the trained weights",
}
"""Metrics that each iteration checks -> what that shows; their values are in metrics.jsonl."""


@dataclass(frozen=True)
class OnlineRun:
    """A checked online run: everything that is known before an actor starts."""

    config: RunConfig
    method: PolicyMethod
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    models: Models
    rewards: RewardSources
    iterations: int
    stops: tuple[int, ...] = ()
    """Tokens that end a response."""
    ptx: PretrainMix | None = None
    row_counts: RowCounts = RowCounts()


@dataclass(frozen=True)
class Pipeline:
    """The parts of the loop on their actors."""

    policy: Trainers
    critic: Trainers | None
    generator: EngineGenerator
    scorer: ClusterScorer
    learner: ClusterLearner
    sync: ClusterWeightSync


def run_online(run: OnlineRun, folder: RunFolder, found: Checkpoint | None) -> dict[str, float]:
    """Train to the end, from ``found`` where there is one.

    Returns the closing figures of the last iteration.
    """
    config = run.config
    with (
        LiveConsole(run.method.card.name, total=run.iterations, columns=ONLINE) as console,
        session(config, run.plan, logs=folder.logs, needs=_needs(run, folder)) as actors,
    ):
        for _, source in run.rewards.texts:
            console.print(f"reward source: {source}")
        pipeline = build_pipeline(run, actors, console.stage)
        checkpointer = make_checkpointer(
            config,
            run.method,
            pipeline.learner.groups,
            folder,
            last_step=run.iterations,
            best_key="reward/mean",
        )
        method, first = start_point(checkpointer, run.method, found, console)
        pipeline.learner.go_on(first)
        if config.train.self_check and not first:
            _self_check(run, pipeline, console, folder)
        timings = Timings(on_stage=console.stage)
        tracker = open_tracker(
            folder,
            config.logger,
            console=console,
            timings=timings,
            gauges=lambda: pipeline.sync.figures,
            first_iteration=first,
        )
        checkpointer.settle = tracker.flush
        sampler = PromptSampler(
            run.prompts, batch_size=config.rollout.batch_size, seed=config.train.seed
        )
        pipeline.sync.go_on(first)
        console.print(where_to_look(folder.path, tensorboard=config.logger.tensorboard))
        console.begin(first)
        recall = replayed(
            config,
            folder,
            pipeline.generator,
            pipeline.scorer,
            first=first,
            weights=lambda: pipeline.sync.digest,
            checkpoints=checkpointer.store.steps,
            tell=console.print,
        )
        try:
            with recall as (generator, scorer):
                checkpointer.saving_on_signals()(train)(
                    method,
                    prompts=timings.prompts(sampler),
                    generator=timings.generator(generator),
                    scorer=timings.scorer(scorer),
                    learner=timings.learner(pipeline.learner),
                    sync=timings.sync(pipeline.sync),
                    tracker=tracker,
                    checkpointer=checkpointer,
                    iterations=range(first, run.iterations),
                    pad_token_id=pad_id(run.tokenizer),
                    lag=config.train.async_lag,
                    scoring_parts=scoring_parts(config, run.plan, frozen=bool(run.models)),
                    ahead=[] if found is None else read_drawn(found.path),
                )
        finally:
            # The folder is given free when this returns, and nothing may be written to it then.
            tracker.close()
        return closing(tracker.latest, console)


def _needs(run: OnlineRun, folder: RunFolder) -> NodeNeeds:
    policy, models = str(run.config.actor.model_name_or_path), run.models
    return NodeNeeds(
        {
            "policy": [policy],
            "engine": [policy],
            "critic": list(filter(None, [run.config.critic_path])),
            "scorer": [*models.paths.values(), *models.rewards],
        },
        folder.path,
    )


def build_pipeline(run: OnlineRun, actors: Actors, progress: Progress = silent) -> Pipeline:
    """All actors, ready: started at once, but engines first where they share GPUs with ranks."""
    config, path = run.config, str(run.config.actor.model_name_or_path)
    steps = run.iterations * config.steps_per_iteration
    transport = choose_transport(config, device=run.plan.device, colocated=run.plan.colocated)
    engines = None
    if run.plan.colocated:
        engines = _engines_alone(run, actors, transport, progress)
    policy = actors.start_trainers(
        "policy", TrainerSpec("policy", path, steps, extras=run.method.outputs)
    )
    critic = _start_critic(run, actors, steps)
    frozen = actors.start_scorers(run.models) if run.models else None
    if engines is None:
        engines = actors.start_engines(path, transport)
    actors.wait(progress)
    if transport != "object_store":
        workers = len(engines) * config.vllm.tensor_parallel_size
        policy.init_weight_transfer(engines, transport, workers)
    return Pipeline(
        policy=policy,
        critic=critic,
        generator=EngineGenerator(
            engines=engines,
            sampling=Sampling(
                config.max_new_tokens,
                config.rollout.temperature,
                config.rollout.top_p,
                stop_token_ids=run.stops,
            ),
            samples_per_prompt=config.rollout.n_samples_per_prompt,
            run_seed=config.train.seed,
            sleep_after=takes_turns(config, run.plan),
        ),
        scorer=ClusterScorer(policy=policy, critic=critic, frozen=frozen, rewards=run.rewards),
        learner=ClusterLearner(
            policy, critic, _update_plan(config), config.critic.freezing_steps, run.ptx
        ),
        sync=_sync(run, policy, engines, transport),
    )


def _engines_alone(
    run: OnlineRun, actors: Actors, transport: Transport, progress: Progress
) -> Engines:
    """Engines that nothing else on their GPUs disturbs while they start; then they sleep until the
    first push. vLLM sizes its cache by how the GPU's free memory changes in that time, so a trainer
    that loads beside it would be counted as the engine's own use."""
    engines = actors.start_engines(str(run.config.actor.model_name_or_path), transport)
    actors.wait(progress)
    if takes_turns(run.config, run.plan):
        engines.sleep()
    return engines


def _start_critic(run: OnlineRun, actors: Actors, steps: int) -> Trainers | None:
    path = run.config.critic_path
    if Role.CRITIC not in run.method.roles or path is None:
        return None
    constants = (0.0, 1.0)
    if run.rewards.normalise and path == run.models.rewards[0]:
        constants = run.rewards.normalise[0]
    return actors.start_trainers("critic", TrainerSpec("critic", path, steps, constants))


def _update_plan(config: RunConfig) -> UpdatePlan:
    return UpdatePlan(
        batch_size=config.train.batch_size,
        max_tokens=config.train.max_tokens_per_gpu,
        max_sequences=config.train.micro_batch_size,
        epochs=config.train.max_epochs,
        seed=config.train.seed,
        single_step=config.steps_per_iteration == 1,
    )


def tolerance(config: RunConfig) -> float:
    """Largest mean |engine - trainer| log-prob per token that passes as rounding."""
    given = config.vllm.logprob_tolerance
    return LOGPROB_TOLERANCE[config.ds.dtype] if given is None else given


def _sync(
    run: OnlineRun, policy: Trainers, engines: Engines, transport: Transport
) -> ClusterWeightSync:
    probe = make_probe(
        [prompt.token_ids for prompt in run.prompts[:256]], tolerance=tolerance(run.config)
    )
    return ClusterWeightSync(policy=policy, engines=engines, probe=probe, transport=transport)


def closing(latest: Mapping[str, float], console: LiveConsole) -> dict[str, float]:
    """The closing figures of the last iteration, and a tick for each thing that it proved."""
    for name, shown in PROVEN.items():
        if name in latest:
            console.tick(shown)
    return {name: latest[name] for name in CLOSING if name in latest}


def _self_check(
    run: OnlineRun, pipeline: Pipeline, console: LiveConsole, folder: RunFolder
) -> None:
    """A tick per check on the screen, its figures in the run's logs."""
    config = run.config
    console.stage("self-check")
    figures = self_check(
        prompts=few(run.prompts),
        generator=pipeline.generator,
        scorer=pipeline.scorer,
        version=pipeline.sync.push(),
        roles=run.method.roles | OBSERVED,
        tolerance=tolerance(config),
        same_reference=config.reference_path == config.actor.model_name_or_path,
        pad_token_id=pad_id(run.tokenizer),
    )
    write_atomic(folder.logs / "self_check.json", json.dumps(figures, indent=2) + "\n")
    for name in figures:
        console.tick(CHECKS[name])
