"""Offline training on Ray: stored rows in place of rollout and reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from rto.card import Feedback
from rto.cluster.actors import Kind, TrainerSpec
from rto.cluster.build import Actors, Models
from rto.cluster.calls import Trainers
from rto.cluster.learner import ClusterLearner, UpdatePlan
from rto.cluster.node_checks import NodeNeeds
from rto.cluster.plan import Plan
from rto.cluster.scorer import ClusterScorer
from rto.cluster.session import session
from rto.data.accounting import RowCounts
from rto.data.batches import OfflineBatches
from rto.data.examples import Example, collate_groups
from rto.data.storage.groups import Groups
from rto.loop import fit
from rto.models.load import write_reward_constants
from rto.protocols import Method, Output, PolicyMethod
from rto.runs.best import Best, lower_is_better
from rto.runs.checkpointing import Complete, RunCheckpointer, nothing_more
from rto.runs.held_out import (
    HeldOut,
    Judge,
    add_reward_constants,
    held_out_metrics,
)
from rto.runs.stored_scores import Reference, StoredScores, store
from rto.sections.names import canonical
from rto.sections.run_config import RunConfig
from rto.tracking.console import LiveConsole, figure, where_to_look
from rto.tracking.metrics import open_tracker
from rto.tracking.run_folder import RunFolder
from rto.tracking.timing import Timings
from rto.training.checkpoint import Checkpoint, CheckpointStore
from rto.training.identity import identity_of
from rto.types import Role

AnyMethod = TypeVar("AnyMethod", bound=Method)


@dataclass(frozen=True)
class OfflineRun:
    """A checked offline stage: everything that is known before an actor starts."""

    config: RunConfig
    method: Method
    kind: Kind
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    train: Groups[Sequence[Example]]
    held_out: Groups[Sequence[Example]]
    num_steps: int
    visited: np.ndarray
    """The numbers of the groups of ``train`` that some step holds."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Of the training set; a checkpoint made with others is not gone on from."""
    row_counts: RowCounts = RowCounts()
    best_key: str = ""
    """The metric of held-out rows that chooses `best`; empty where none does."""

    @property
    def models(self) -> Models:
        """A reference that the policy does not start from."""
        return reference_models(self.config, self.method.roles)


def run_offline(run: OfflineRun, folder: RunFolder, found: Checkpoint | None) -> dict[str, float]:
    """Train, from ``found`` where there is one, export and evaluate; returns held-out metrics."""
    config = run.config
    columns = {
        "loss": loss_metric(run),
        "log ratio": "policy/log_ratio",
        "correlation": "reward/correlation",
        "held out": run.best_key,
        "update tok/s": "rate/update_tokens_per_s",
    }
    with (
        LiveConsole(
            run.method.card.name, total=run.num_steps, unit="step", columns=columns
        ) as console,
        session(config, run.plan, logs=folder.logs, needs=_needs(run, folder)) as actors,
    ):
        learner = _start(run, actors)
        scorer = ClusterScorer(policy=learner.policy, critic=learner.critic)
        stores = _stores(run, actors, scorer, console)
        checkpointer = make_checkpointer(
            config,
            run.method,
            learner.groups,
            folder,
            last_step=run.num_steps,
            best_key=run.best_key,
            constants=run.constants,
            complete=add_reward_constants if run.kind == "score" else nothing_more,
        )
        method, first = start_point(checkpointer, run.method, found, console)
        learner.go_on(first)
        timings = Timings(on_stage=console.stage)
        tracker = open_tracker(
            folder, config.logger, console=console, timings=timings,
            first_iteration=first,
        )  # fmt: skip
        batches = OfflineBatches(
            run.train,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            epochs=config.train.max_epochs,
            pad_token_id=pad_id(run.tokenizer),
            max_steps=config.train.max_steps,
            start_step=run.num_steps if checkpointer.stopped else first,
            score=stores[0],
        )
        held_out = HeldOut(
            judge=_judge(run, stores[1]),
            every=config.eval.steps,
            last_step=run.num_steps,
            timings=timings,
        )
        console.print(where_to_look(folder.path, tensorboard=config.logger.tensorboard))
        console.begin(first)
        try:
            method = checkpointer.saving_on_signals()(fit)(
                method,
                batches=batches,
                learner=timings.learner(learner),
                evaluator=held_out,
                tracker=tracker,
                checkpointer=checkpointer,
            )
        finally:
            tracker.close()
        metrics = held_out.final()
        if run.kind == "score":
            metrics = {**metrics, **_leave_constants(run, metrics, scorer, folder, console)}
        tell_best(checkpointer, console)
        return metrics


def loss_metric(run: OfflineRun) -> str:
    """The name under which the method logs its loss."""
    if run.kind == "score":
        return "reward_model/loss"
    area = {"demonstrations": "sft", "pairs": "preference"}
    return f"{area.get(run.method.card.feedback, run.method.card.name)}/loss"


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id


def reference_models(config: RunConfig, roles: frozenset[Role]) -> Models:
    """What must be loaded to score stored rows under the reference: nothing where the policy
    starts from it, for its ranks can do that before their first step."""
    reads = bool(roles & {Role.REFERENCE, Role.UNRELATED})
    path = config.reference_path
    if not reads or path is None or path == config.actor.model_name_or_path:
        return Models()
    return Models(paths={Role.REFERENCE: path})


def _needs(run: OfflineRun, folder: RunFolder) -> NodeNeeds:
    policy = str(run.config.actor.model_name_or_path)
    return NodeNeeds(
        {
            "policy": [policy],
            "critic": [run.config.critic.model_name_or_path or policy],
            "scorer": list(run.models.paths.values()),
        },
        folder.path,
    )


def _start(run: OfflineRun, actors: Actors) -> ClusterLearner:
    config, outputs = run.config, _outputs(run.method)
    path = str(config.actor.model_name_or_path)
    policy = actors.start_trainers(
        "policy", TrainerSpec(run.kind, path, run.num_steps, extras=outputs)
    )
    critic = None
    if Role.CRITIC in run.method.roles:
        spec = TrainerSpec("critic", config.critic.model_name_or_path or path, run.num_steps)
        critic = actors.start_trainers("critic", spec)
    return ClusterLearner(policy, critic, _update_plan(config, run.method.card.feedback))


def _outputs(method: Method) -> frozenset[Output]:
    return method.outputs if isinstance(method, PolicyMethod) else frozenset()


def _stores(
    run: OfflineRun, actors: Actors, scorer: ClusterScorer, console: LiveConsole
) -> tuple[StoredScores, StoredScores | None]:
    """Scores of the rows to train on and of those held out; waits for the actors to be ready.

    Where the reference is not what the policy starts from, its actor lives until it has scored
    all rows.
    """
    frozen = actors.start_scorers(run.models) if run.models else None
    actors.wait(console.stage)
    reference = Reference(
        config=run.config,
        scorer=scorer if frozen is None else ClusterScorer(frozen=frozen),
        role=Role.POLICY if frozen is None else Role.REFERENCE,
        pad_token_id=pad_id(run.tokenizer),
        progress=console.progress,
    )
    roles = run.method.roles
    train = store(run.train, roles, scorer=scorer, reference=reference, visited=run.visited)
    # Held-out figures need the policy's log-probs, and no rows that belong to no one.
    judged = (roles | {Role.POLICY}) - {Role.CRITIC, Role.UNRELATED}
    if Role.UNRELATED in roles:
        judged |= {Role.REFERENCE}
    held_out = None
    if run.held_out:
        held_out = store(
            run.held_out,
            judged,
            scorer=scorer,
            reference=reference,
            visited=np.arange(len(run.held_out)),
        )
    if frozen is not None:
        actors.stop("scorer")
    return train, held_out


def open_store(config: RunConfig, method: Method, root: Path) -> CheckpointStore:
    return CheckpointStore(
        root,
        identity=identity_of(config, method.card.name),
        max_num=config.ckpt.max_num,
        allow=[canonical(name, method.card.name) or name for name in config.ckpt.allow],
    )


def find_checkpoint(config: RunConfig, method: Method, root: Path) -> Checkpoint | None:
    """The checkpoint under ``root`` to go on from, where that is asked for.

    Raises:
        UserError: a checkpoint of another method, model or layout, or none intact.
    """
    return open_store(config, method, root).latest() if config.ckpt.load_enable else None


def make_checkpointer(
    config: RunConfig,
    method: Method,
    trained: Mapping[str, Trainers],
    folder: RunFolder,
    *,
    last_step: int,
    best_key: str = "",
    constants: Mapping[str, float] = MappingProxyType({}),
    complete: Complete = nothing_more,
) -> RunCheckpointer:
    key = config.ckpt.best_metric_key or best_key
    lower = lower_is_better(key, config.ckpt.best_metric_mode)
    return RunCheckpointer(
        store=open_store(config, method, folder.checkpoints),
        built=method,
        groups=trained,
        exports=folder.path,
        last_step=last_step,
        save_steps=config.ckpt.save_steps,
        behind=config.ckpt.async_write,
        best=Best(key, lower, patience=config.eval.patience),
        save_value_network=config.critic.save_value_network,
        # Frozen, the policy logs nothing of its own yet.
        key_known=config.critic.freezing_steps > 0,
        constants=constants,
        complete=complete,
        grace=config.ckpt.grace,
    )


def start_point(
    checkpointer: RunCheckpointer, method: AnyMethod, found: Checkpoint | None, console: LiveConsole
) -> tuple[AnyMethod, int]:
    """The method and the step to begin with."""
    if found is None:
        return method, 0
    for warning in found.warnings:
        console.print(warning)
    console.print(f"going on at step {found.step + 1}")
    return checkpointer.resume(method, found), found.step + 1


def _update_plan(config: RunConfig, feedback: Feedback) -> UpdatePlan:
    return UpdatePlan(
        batch_size=None,
        max_tokens=config.train.max_tokens_per_gpu,
        max_sequences=config.train.micro_batch_size,
        epochs=1,
        seed=config.train.seed,
        single_step=feedback == "rewards",
    )


def _judge(run: OfflineRun, held_out: StoredScores | None) -> Judge | None:
    """What the run is judged by on rows it did not train on, if there are any."""
    if held_out is None:
        return None

    def judge() -> dict[str, float]:
        tokens = collate_groups(run.held_out, pad_token_id=pad_id(run.tokenizer))
        scored = held_out(tokens, range(len(run.held_out)))
        return held_out_metrics(run.kind, run.method.card.feedback, scored)

    return judge


def tell_best(checkpointer: RunCheckpointer, console: LiveConsole) -> None:
    """Which step `best` holds, and whether the run ended there for want of a better one."""
    best = checkpointer.best
    if best.value is None:
        return
    console.print(f"best: step {best.step + 1}, {best.key} {figure(best.value)}")
    if checkpointer.stopped:
        console.print(f"stopped early: {best.waited} evaluations in a row were no better")


MOST_CONSTANT_PAIRS = 1000
"""Training pairs whose scores give a reward model's constants, where no pairs are held out."""


def _leave_constants(
    run: OfflineRun,
    metrics: Mapping[str, float],
    scorer: ClusterScorer,
    folder: RunFolder,
    console: LiveConsole,
) -> dict[str, float]:
    """Write the mean and the standard deviation that ``reward.normalize_enable`` reads: of the
    scores of held-out pairs, else of training pairs. Returns the figures that are new."""
    new: dict[str, float] = {}
    if run.held_out:
        source = f"{len(run.held_out)} held-out pairs"
        mean, std = metrics["eval/mean"], metrics["eval/std"]
    else:
        part = run.train.select(np.arange(min(len(run.train), MOST_CONSTANT_PAIRS)))
        source = f"{len(part)} training pairs: none are held out"
        tokens = collate_groups(part, pad_token_id=pad_id(run.tokenizer))
        scored = scorer.score(tokens, [], frozenset({Role.POLICY}))
        figures = held_out_metrics("score", "pairs", scored)
        new = {name.replace("eval/", "train/"): value for name, value in figures.items()}
        mean, std = new["train/mean"], new["train/std"]
    write_reward_constants(folder.last, mean=mean, std=std)
    console.print(f"reward constants (mean {mean:.4g}, std {std:.4g}) of {source}")
    return new
