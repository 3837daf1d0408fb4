"""Online runs on actors of this process: sampled, scored, trained, proven, and gone on from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_group import BigramEngine, bigram
from local_run import LocalSession, cpu_plan, local_actors
from tiny_tokenizers import tiny_tokenizer

from rto.cluster.build import Models
from rto.cluster.plan import Plan, takes_turns
from rto.cluster.scorer import RewardSources
from rto.errors import ProofError, Terminated
from rto.methods.ppo import PPO
from rto.runs import online
from rto.runs.checkpointing import RunCheckpointer
from rto.runs.offline import find_checkpoint
from rto.runs.online import OnlineRun, build_pipeline, run_online, tolerance
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Ckpt, DeepSpeed, Logger
from rto.sections.training import Actor, Critic, Reward, RolloutSection, Train
from rto.tracking import rollout_write
from rto.tracking.run_folder import RunFolder
from rto.tracking.signals import end_on_signals
from rto.training.checkpoint import CheckpointStore
from rto.types import Prompt, Role

EOS = 5
PROMPTS = [Prompt(i, (0, 1 + i % 3), f"p{i} ") for i in range(4)]


class Fours:
    """How many tokens of the response are 4."""

    def __str__(self) -> str:
        return "the fours"

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        texts = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
        return [float(text.split("</s>")[0].split().count("4")) for text in texts]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> LocalSession:
    """The reference is the policy that the run starts from."""
    local = LocalSession({"frozen": {Role.REFERENCE: bigram()}})
    monkeypatch.setattr(online, "session", local)
    return local


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


def planned(model: str, *, iterations: int = 3, **changes: Any) -> OnlineRun:
    """Two prompts an iteration with two responses each, in one optimizer step."""
    common: dict[str, Any] = {
        "actor": Actor(model_name_or_path=model),
        "data": Data(max_len=16),
        "train": Train(batch_size=4, device="cpu"),
        "rollout": RolloutSection(batch_size=2, n_samples_per_prompt=2, max_new_tokens=5),
        "ckpt": Ckpt(save_steps=2),
        "ds": DeepSpeed(param_dtype="fp32"),
        "vllm": VLLM(engine="transformers"),
        "logger": Logger(tensorboard=False),
    }
    fields = {name: changes.pop(name) for name in [*changes] if name not in common | {"critic": 0}}
    config = RunConfig(**{**common, **changes})
    run = OnlineRun(
        config=config,
        method=PPO(),
        plan=cpu_plan(config),
        tokenizer=tiny_tokenizer(),
        prompts=PROMPTS,
        models=Models({Role.REFERENCE: model}),
        rewards=RewardSources(texts=[("fours.py", Fours())], weights=[1.0], ends={EOS: "</s>"}),
        iterations=iterations,
        stops=(EOS,),
    )
    return replace(run, **fields)


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_a_run_ends_with_the_figures_of_its_last_iteration_and_what_it_proved(
    session: LocalSession, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder(tmp_path / "run") as folder:
        figures = run_online(planned(model), folder, None)
        rows = logged(folder)
        rollouts = sorted(path.name for path in folder.rollouts.iterdir())
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert figures == {name: rows[-1][name] for name in online.CLOSING}
    assert rollouts == [f"iter_00000{i}.parquet" for i in range(3)]
    said = capsys.readouterr().out
    assert "reward source: the fours" in said
    (needs,) = session.needs
    assert (needs.folder, needs.models["policy"]) == (folder.path, [model])
    for shown in online.PROVEN.values():
        assert said.count(shown) == 1
    for name in online.PROVEN:
        assert rows[-1][name] < 1e-6


def test_each_rollout_is_of_the_weights_that_the_last_update_left(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    """The check before the first update pushes once, and its version counts for nothing."""
    with RunFolder(tmp_path / "run") as folder:
        run_online(planned(model), folder, None)
        table = torch.load(folder.last / "table", weights_only=True)
    (actors,) = session.opened
    engine = actors.engine_of
    kept = [note for note in engine.notes if note[0] in ("accept", "generate")]
    assert kept == [
        ("accept", 0), ("generate", 4 * 2, 0),
        ("accept", 0), ("generate", 4, 0),
        ("accept", 1), ("generate", 4, 1),
        ("accept", 2), ("generate", 4, 2),
        ("accept", 3),
    ]  # fmt: skip
    assert torch.equal(engine.table, table)
    assert not torch.equal(table, bigram())


@pytest.mark.parametrize("async_write", [False, True])
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(
    session: LocalSession, model: str, tmp_path: Path, async_write: bool
) -> None:
    kept = Ckpt(save_steps=2, load_enable=True, async_write=async_write)

    def run(folder: RunFolder, iterations: int) -> None:
        made = planned(model, iterations=iterations, ckpt=kept)
        run_online(made, folder, find_checkpoint(made.config, made.method, folder.checkpoints))

    with RunFolder(tmp_path / "whole") as whole:
        run(whole, 4)
    with RunFolder(tmp_path / "parts") as parts:
        run(parts, 2)
        run(parts, 4)
    for actors in session.opened:
        assert set(actors.ranks["policy"].saved_behind) == {async_write}
    for folder in (whole, parts):
        steps = sorted(path.name for path in folder.checkpoints.iterdir())
        assert steps == ["step_00000001", "step_00000003"]
    ends = [torch.load(folder.last / "table", weights_only=True) for folder in (whole, parts)]
    assert torch.equal(*ends)
    critics = [each.ranks["critic"].table for each in session.opened]
    assert torch.equal(critics[0], critics[2])
    assert [row["reward/mean"] for row in logged(whole)] == [
        row["reward/mean"] for row in logged(parts)
    ]
    assert [note for note in session.opened[2].engine_of.notes if note[0] == "accept"] == [
        ("accept", 2), ("accept", 3), ("accept", 4),
    ]  # fmt: skip


class Interrupted(Fours):
    """Fails with the third batch of responses."""

    calls = 0

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("power cut")
        return super().__call__(queries, prompts, labels)


def lagging(lag: int, **changes: Any) -> dict[str, Any]:
    train = Train(batch_size=4, device="cpu", async_lag=lag, self_check=False)
    return {"train": train, "iterations": 5, "ckpt": Ckpt(save_steps=2, load_enable=True)} | changes


def run_whole(folder: RunFolder, made: OnlineRun) -> None:
    run_online(made, folder, find_checkpoint(made.config, made.method, folder.checkpoints))


def untimed(folder: RunFolder) -> list[dict[str, Any]]:
    return [
        {name: x for name, x in row.items() if not name.startswith(("time", "rate/"))}
        for row in logged(folder)
    ]


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_run_is_the_same_run_however_far_the_policy_is_ahead(
    lag: int, session: LocalSession, model: str, tmp_path: Path
) -> None:
    """Twice, and once more interrupted after its checkpoint: figures and weights are equal."""
    folders = [RunFolder(tmp_path / name) for name in ("first", "second", "third")]
    for folder in folders[:2]:
        with folder:
            run_whole(folder, planned(model, **lagging(lag)))
    with folders[2] as folder:
        sources = [("fours.py", Interrupted())]
        rewards = RewardSources(texts=sources, weights=[1.0], ends={EOS: "</s>"})
        with pytest.raises(RuntimeError, match="power cut"):
            run_whole(folder, planned(model, **lagging(lag, rewards=rewards)))
        assert [row["iteration"] for row in logged(folder)] == [0, 1]
        run_whole(folder, planned(model, **lagging(lag)))
    first, second, third = (untimed(folder) for folder in folders)
    assert first == second == third
    ends = [torch.load(folder.last / "table", weights_only=True) for folder in folders]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert [row["sampler/lag"] for row in first] == [min(i, lag) for i in range(5)]


class Counted(Fours):
    """Notes about how many responses it was asked, call by call."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        self.asked.append(len(queries))
        return super().__call__(queries, prompts, labels)


def paid(source: Fours) -> RewardSources:
    return RewardSources(texts=[("fours.py", source)], weights=[1.0], ends={EOS: "</s>"})


def in_parts(parts: int | None) -> RolloutSection:
    return RolloutSection(
        batch_size=2, n_samples_per_prompt=2, max_new_tokens=5, scoring_parts=parts
    )


@pytest.mark.parametrize("lag", [0, 2])
def test_a_run_that_is_scored_in_parts_is_the_same_run(
    lag: int, session: LocalSession, model: str, tmp_path: Path
) -> None:
    ends, rows, sources = list[torch.Tensor](), list[Any](), [Counted(), Counted()]
    for parts, source in zip((1, 2), sources, strict=True):
        made = planned(model, **lagging(lag, rewards=paid(source), rollout=in_parts(parts)))
        with RunFolder(tmp_path / f"{parts}") as folder:
            run_whole(folder, made)
        ends.append(torch.load(folder.last / "table", weights_only=True))
        rows.append(untimed(folder))
    assert torch.equal(*ends)
    assert rows[0] == rows[1]
    assert [source.asked for source in sources] == [[4] * 5, [2] * 10]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("lag", "left"), [(0, 2), (1, 1), (2, 0)])
@pytest.mark.parametrize("journal", [True, False])
def test_a_run_that_goes_on_repeats_nothing_that_its_journal_has(
    journal: bool,
    lag: int,
    left: int,
    parts: int,
    session: LocalSession,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends behind iteration 2, and its newest checkpoint is of iteration 1. ``left`` iterations
    had not been sampled by then; a checkpoint holds what was drawn ahead of it."""

    def made(source: Fours) -> OnlineRun:
        ckpt = Ckpt(save_steps=2, load_enable=True, journal=journal)
        vllm = VLLM(engine="vllm")
        parts_of = {"rollout": in_parts(parts), "rewards": paid(source), "ckpt": ckpt, "vllm": vllm}
        return planned(model, **lagging(lag, **parts_of))

    after, source = RunCheckpointer.after, Counted()

    def cut_off(checkpointer: RunCheckpointer, iteration: int, *given: Any) -> None:
        after(checkpointer, iteration, *given)
        if iteration == 2:
            raise RuntimeError("power cut")

    with RunFolder(tmp_path / "whole") as whole:
        run_whole(whole, made(Fours()))
    with RunFolder(tmp_path / "again") as again:
        monkeypatch.setattr(RunCheckpointer, "after", cut_off)
        with pytest.raises(RuntimeError, match="power cut"):
            run_whole(again, made(Fours()))
        monkeypatch.setattr(RunCheckpointer, "after", after)
        run_whole(again, made(source))
    assert untimed(whole) == untimed(again)
    ends = [torch.load(folder.last / "table", weights_only=True) for folder in (whole, again)]
    assert torch.equal(*ends)
    notes = session.opened[-1].engine_of.notes
    sampled = sum(note[1] for note in notes if note[0] == "generate")
    assert sampled == 4 * (left if journal else 3 - lag)
    # Of what was drawn ahead of iteration 2, some may have been rewarded before the end.
    assert sum(source.asked) == 12 if not journal else 4 * (2 - lag) <= sum(source.asked) <= 8
    assert again.journal.exists() is journal


@pytest.mark.parametrize(("policy", "sampled"), [(0, [0, 0]), (5, [4, 4])])
def test_another_policy_is_not_trained_on_the_responses_of_the_one_before(
    policy: int, sampled: list[int], session: LocalSession, model: str, tmp_path: Path
) -> None:
    """A run in whose folder lies the journal of another one, all settings of which are its own."""
    made = planned(model, **lagging(0, iterations=2, vllm=VLLM(engine="vllm")))
    with RunFolder(tmp_path / "first") as first:
        run_whole(first, made)
    session.parts = {**session.parts, "policy": bigram(policy)}
    with RunFolder(tmp_path / "second") as second:
        shutil.copytree(first.journal, second.journal)
        run_whole(second, made)
    notes = session.opened[-1].engine_of.notes
    assert [note[1] for note in notes if note[0] == "generate"] == sampled


class Signalled(Fours):
    """Has this process asked to end with the third batch of responses."""

    calls = 0

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(queries, prompts, labels)


@pytest.fixture
def listening() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    end_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_signal_ends_a_run_with_a_checkpoint_of_its_last_iteration(
    lag: int, session: LocalSession, model: str, tmp_path: Path
) -> None:
    """None was due; the run that goes on from it is the run that was not asked to end."""
    never = {"ckpt": Ckpt(load_enable=True)}
    folders = [RunFolder(tmp_path / name) for name in ("whole", "parts")]
    with folders[0] as folder:
        run_whole(folder, planned(model, **lagging(lag, **never)))
    with folders[1] as folder:
        sources = [("fours.py", Signalled())]
        rewards = RewardSources(texts=sources, weights=[1.0], ends={EOS: "</s>"})
        with pytest.raises(Terminated, match="^ended by SIGTERM$"):
            run_whole(folder, planned(model, **lagging(lag, rewards=rewards, **never)))
        done = [row["iteration"] for row in logged(folder)]
        assert len(done) < 4
        kept = sorted(path.name for path in folder.checkpoints.iterdir())
        assert kept == [f"step_{step:08d}" for step in done[-1:]]
        run_whole(folder, planned(model, **lagging(lag, **never)))
    whole, parts = (untimed(folder) for folder in folders)
    assert whole == parts
    ends = [torch.load(folder.last / "table", weights_only=True) for folder in folders]
    assert torch.equal(*ends)


def test_engines_that_sleep_in_between_cannot_be_ahead(model: str) -> None:
    asleep = planned(model, vllm=VLLM(engine="transformers", enable_sleep=True)).config
    shared = Plan({}, {}, "cuda", colocated=True)
    assert takes_turns(asleep, shared)
    assert not takes_turns(asleep, replace(shared, colocated=False))
    awake = replace(asleep, vllm=VLLM(engine="transformers", enable_sleep=False))
    assert not takes_turns(awake, shared)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    write = rollout_write.write_rollouts

    def slowly(path: Path, columns: rollout_write.RolloutColumns) -> None:
        time.sleep(0.2)
        write(path, columns)

    monkeypatch.setattr(rollout_write, "write_rollouts", slowly)


@pytest.mark.usefixtures("slow_disk")
def test_a_checkpoint_is_there_once_the_rollouts_until_it_are(
    session: LocalSession, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, seen = CheckpointStore.commit, list[list[str]]()

    def noting(store: CheckpointStore, step: int, state: Mapping[str, object]) -> Path:
        seen.append(sorted(path.name for path in (tmp_path / "run" / "rollouts").iterdir()))
        return commit(store, step, state)

    monkeypatch.setattr(CheckpointStore, "commit", noting)
    with RunFolder(tmp_path / "run") as folder:
        run_online(planned(model, iterations=2, ckpt=Ckpt(save_steps=1)), folder, None)
    assert seen == [["iter_000000.parquet"], ["iter_000000.parquet", "iter_000001.parquet"]]


@pytest.mark.usefixtures("slow_disk")
def test_a_run_that_fails_leaves_the_rollouts_that_it_drew(
    session: LocalSession, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr(RunCheckpointer, "after", fail)
    with RunFolder(tmp_path / "run") as folder:
        with pytest.raises(RuntimeError, match="no more"):
            run_online(planned(model), folder, None)
        assert [path.name for path in folder.rollouts.iterdir()] == ["iter_000000.parquet"]


@pytest.mark.parametrize("asked", [True, False])
def test_the_pipeline_is_checked_before_the_first_update_where_that_is_asked(
    asked: bool, session: LocalSession, model: str, tmp_path: Path
) -> None:
    train = Train(batch_size=4, device="cpu", self_check=asked)
    with RunFolder(tmp_path / "run") as folder:
        run_online(planned(model, iterations=1, train=train), folder, None)
        kept = folder.logs / "self_check.json"
        assert kept.exists() is asked
        if asked:
            assert json.loads(kept.read_text())["check/reference_abs_diff"] == 0.0


def test_a_reference_of_other_weights_than_the_policys_fails_the_check(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    """The settings say that both start from one model."""
    session.parts = {"frozen": {Role.REFERENCE: bigram(3)}}
    with (
        RunFolder(tmp_path / "run") as folder,
        pytest.raises(ProofError, match="policy equals reference"),
    ):
        run_online(planned(model), folder, None)


class Deaf(BigramEngine):
    """Receives weights and says so, and goes on with its own."""

    def load_weights(self, weights: Any) -> None:
        own = self.table
        super().load_weights(weights)
        self.table = own


def test_an_engine_that_keeps_its_own_weights_ends_the_run(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    session.parts = {**session.parts, "engine_of": Deaf(bigram(9))}
    with (
        RunFolder(tmp_path / "run") as folder,
        pytest.raises(ProofError, match="computes other log-probs"),
    ):
        run_online(planned(model), folder, None)


GPUS = Plan({}, {}, "cuda", colocated=True)


@pytest.mark.parametrize(
    ("colocated", "width", "transport", "transfers", "sleeps"),
    [(True, 2, "ipc", [("ipc", 2)], True), (False, 1, "nccl", [("nccl", 1)], False)],
)
def test_on_gpus_the_ranks_join_the_engines_transfer(
    colocated: bool, width: int, transport: str, transfers: list[Any], sleeps: bool, model: str
) -> None:
    vllm = VLLM(engine="vllm", tensor_parallel_size=width, enable_sleep=True)
    run = planned(model, vllm=vllm, plan=replace(GPUS, colocated=colocated))
    actors = local_actors(run.config, frozen={Role.REFERENCE: bigram()})
    pipeline = build_pipeline(run, actors)
    assert actors.transport == pipeline.sync.transport == transport
    assert actors.ranks["policy"].transfers == transfers
    assert pipeline.generator.sleep_after is sleeps


@dataclass
class Sleeper(BigramEngine):
    """Says when it falls asleep."""

    order: list[str] = field(default_factory=list)

    def sleep(self) -> None:
        self.order.append("sleep")


@pytest.mark.parametrize(
    ("device", "colocated", "sleep", "expected"),
    [
        ("cuda", True, True, "engine ready sleep policy critic scorer ready"),
        ("cuda", True, False, "engine ready policy critic scorer ready"),
        ("cuda", False, True, "policy critic scorer engine ready"),
        ("cpu", False, True, "policy critic scorer engine ready"),
    ],
)
def test_engines_on_the_ranks_gpus_are_ready_and_asleep_before_a_rank_starts(
    device: Any, colocated: bool, sleep: bool, expected: str, model: str
) -> None:
    plan = replace(GPUS, device=device, colocated=colocated)
    run = planned(model, vllm=VLLM(engine="transformers", enable_sleep=sleep), plan=plan)
    engine = Sleeper(bigram())
    actors = local_actors(run.config, frozen={Role.REFERENCE: bigram()}, engine_of=engine)
    engine.order = actors.order
    build_pipeline(run, actors)
    assert actors.order == expected.split()


def test_the_parts_of_a_pipeline_follow_the_settings(model: str) -> None:
    rollout = RolloutSection(
        batch_size=4, n_samples_per_prompt=2, max_new_tokens=5, temperature=0.5
    )
    train = Train(batch_size=4, max_epochs=3, seed=7, device="cpu", micro_batch_size=2)
    run = planned(model, iterations=5, rollout=rollout, train=train)
    actors = local_actors(run.config, frozen={Role.REFERENCE: bigram()})
    pipeline = build_pipeline(run, actors)
    # 8 responses in steps of 4, three times over.
    assert {name: rank.spec.total_steps for name, rank in actors.ranks.items() if rank.spec} == {
        "policy": 5 * 6,
        "critic": 5 * 6,
    }
    assert (pipeline.generator.samples_per_prompt, pipeline.generator.run_seed) == (2, 7)
    sampling = pipeline.generator.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.stop_token_ids) == (
        5,
        0.5,
        (EOS,),
    )
    plan = pipeline.learner.plan
    assert (plan.batch_size, plan.max_sequences, plan.epochs, plan.seed) == (4, 2, 3, 7)
    assert not plan.single_step
    one = planned(model)
    assert build_pipeline(one, local_actors(one.config)).learner.plan.single_step


@pytest.mark.parametrize(
    ("critic", "expected"),
    [(None, ("r", (2.0, 4.0))), ("c", ("c", (0.0, 1.0)))],
)
def test_a_critic_that_starts_from_the_reward_model_predicts_in_its_scale(
    critic: str | None, expected: tuple[str, tuple[float, float]], model: str
) -> None:
    run = planned(model, critic=Critic(model_name_or_path=critic))
    run = replace(
        run,
        config=replace(run.config, reward=Reward(model_name_or_path=["r", "s"])),
        models=Models({}, ["r", "s"]),
        rewards=RewardSources(normalise=[(2.0, 4.0), (0.0, 1.0)], weights=[1.0, 1.0]),
    )
    actors = local_actors(run.config)
    build_pipeline(run, actors)
    spec = actors.ranks["critic"].spec
    assert spec is not None
    assert (spec.model_path, spec.value_constants) == expected


def test_what_passes_as_rounding_follows_the_precision_unless_it_is_given() -> None:
    def of(dtype: Any, given: float | None) -> float:
        return tolerance(
            RunConfig(ds=DeepSpeed(param_dtype=dtype), vllm=VLLM(logprob_tolerance=given))
        )

    assert of("fp32", None) < of("bf16", None)
    assert of("bf16", 0.25) == 0.25
