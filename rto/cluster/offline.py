"""The offline stages on Ray: SFT, reward model, preference training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from rto.cluster.actors import Kind, TrainerSpec
from rto.cluster.build import Actors, Models
from rto.cluster.groups import ActorGroup
from rto.cluster.keeper import RunKeeper
from rto.cluster.learner import ClusterLearner, UpdatePlan
from rto.cluster.plan import Plan
from rto.cluster.scorer import ClusterScorer
from rto.cluster.session import session
from rto.config import RunConfig
from rto.data.examples import Example, collate_groups
from rto.data.offline import OfflineBatches
from rto.loop import fit
from rto.models.load import write_reward_constants
from rto.protocols import Targets
from rto.tracking.console import LiveConsole
from rto.tracking.metrics import open_tracker
from rto.tracking.run_folder import RunFolder
from rto.tracking.timing import Timings
from rto.training.checkpoint import Checkpoint, CheckpointStore, Identity
from rto.types import Role, ScoredBatch

AnyMethod = TypeVar("AnyMethod", bound=Targets)


@dataclass(frozen=True)
class OfflineRun:
    """A checked offline stage: everything that is known before an actor starts."""

    config: RunConfig
    method: Targets
    kind: Kind
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Sequence[Example]]
    held_out: Sequence[Sequence[Example]]
    num_steps: int

    @property
    def models(self) -> Models:
        path = self.config.reference_path
        reads = Role.REFERENCE in self.method.roles
        return Models(paths={Role.REFERENCE: path}) if reads and path is not None else Models()


def run_offline(run: OfflineRun, folder: RunFolder, found: Checkpoint | None) -> dict[str, float]:
    """Train, from ``found`` where there is one, export and evaluate; returns held-out metrics."""
    config = run.config
    columns = {"loss": "actor/loss", "lr": "actor/lr", "update tok/s": "rate/update_tokens_per_s"}
    with (
        session(config, run.plan, logs=folder.logs) as actors,
        LiveConsole(
            run.method.card.name, total=run.num_steps, unit="step", columns=columns
        ) as console,
    ):
        policy, scorer = _start(run, actors)
        keeper = make_keeper(
            config, run.method, {"policy": policy}, folder, last_step=run.num_steps
        )
        method, first = start_point(keeper, run.method, found, console)
        timings = Timings(on_stage=console.stage)
        tracker = open_tracker(
            folder, config.logger, config={}, console=console, timings=timings,
            first_iteration=first,
        )  # fmt: skip
        learner = ClusterLearner(policy, None, _update_plan(config))
        batches = OfflineBatches(
            run.train,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            epochs=config.train.max_epochs,
            pad_token_id=pad_id(run.tokenizer),
            max_steps=config.train.max_steps,
            start_step=first,
            score=lambda tokens: scorer.score(tokens, [], run.method.roles),
        )
        console.begin()
        method = fit(
            method,
            batches=batches,
            learner=timings.learner(learner),
            tracker=tracker,
            keeper=keeper,
        )
        tracker.close()
        metrics = _evaluate(run, policy, scorer)
        if run.kind == "score" and metrics:
            write_reward_constants(folder.last, mean=metrics["eval/mean"], std=metrics["eval/std"])
        return metrics


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id


def _start(run: OfflineRun, actors: Actors) -> tuple[ActorGroup, ClusterScorer]:
    spec = TrainerSpec(run.kind, str(run.config.actor.model_name_or_path), run.num_steps)
    policy = actors.start_trainers("policy", spec)
    frozen = actors.start_scorers(run.models) if run.models else None
    actors.wait()
    return policy, ClusterScorer(policy=policy, critic=None, frozen=frozen)


def open_store(config: RunConfig, method: Targets, folder: RunFolder) -> CheckpointStore:
    identity = Identity(
        method=method.card.name,
        model=str(config.actor.model_name_or_path),
        zero_stage=config.ds.zero_stage,
        num_ranks=config.actor.num_ranks,
    )
    return CheckpointStore(folder.checkpoints, identity=identity, max_num=config.ckpt.max_num)


def find_checkpoint(config: RunConfig, method: Targets, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to go on from, where that is asked for.

    Raises:
        UserError: a checkpoint of another method, model or layout, or none intact.
    """
    return open_store(config, method, folder).latest() if config.ckpt.load_enable else None


def make_keeper(
    config: RunConfig,
    method: Targets,
    trained: Mapping[str, ActorGroup],
    folder: RunFolder,
    *,
    last_step: int,
    best_key: str = "",
) -> RunKeeper:
    return RunKeeper(
        store=open_store(config, method, folder),
        groups=trained,
        exports=folder.path,
        last_step=last_step,
        save_steps=config.ckpt.save_steps,
        best_key=config.ckpt.best_metric_key or best_key,
        save_value_network=config.critic.save_value_network,
    )


def start_point(
    keeper: RunKeeper, method: AnyMethod, found: Checkpoint | None, console: LiveConsole
) -> tuple[AnyMethod, int]:
    """The method and the step to begin with."""
    if found is None:
        return method, 0
    for warning in found.warnings:
        console.print(warning)
    console.print(f"going on at step {found.step + 1}")
    return keeper.resume(method, found), found.step + 1


def _update_plan(config: RunConfig) -> UpdatePlan:
    return UpdatePlan(
        batch_size=None,
        max_tokens=config.train.max_tokens_per_gpu,
        max_sequences=config.train.micro_batch_size,
        epochs=1,
        seed=config.train.seed,
    )


def _evaluate(run: OfflineRun, policy: ActorGroup, scorer: ClusterScorer) -> dict[str, float]:
    """What the stage is judged by on rows it did not train on."""
    if not run.held_out:
        return {}
    tokens = collate_groups(run.held_out, pad_token_id=pad_id(run.tokenizer))
    scored = scorer.score(tokens, [], run.method.roles | {Role.POLICY})
    return held_out_metrics(run.kind, scored)


def held_out_metrics(kind: Kind, scored: ScoredBatch) -> dict[str, float]:
    """Reward model: accuracy and score constants. Policy: log-prob per token, pair accuracy."""
    mask, policy = scored.tokens.response_mask, scored[Role.POLICY]
    if kind == "score":
        chosen, rejected = policy[0::2], policy[1::2]
        return {
            "eval/accuracy": float((chosen > rejected).float().mean()),
            "eval/mean": float(policy.mean()),
            "eval/std": float(policy.std(correction=0)),
        }
    metrics = {"eval/nll_per_token": float(-policy[mask].mean())}
    if Role.REFERENCE in scored.scores:
        ratio = (policy - scored[Role.REFERENCE]).masked_fill(~mask, 0).sum(-1)
        metrics["eval/accuracy"] = float((ratio[0::2] > ratio[1::2]).float().mean())
        metrics["eval/margin"] = float((ratio[0::2] - ratio[1::2]).mean())
    return metrics
