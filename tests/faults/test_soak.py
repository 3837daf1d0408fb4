"""R13: the loop for thousands of iterations, on real Ray actors whose work is tiny.

All that a driver does is real; the models are tables of bigrams.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import ray
from fault_runs import tries
from local_group import BigramEngine, FrozenReplica, bigram
from local_run import LearningRank
from ray.actor import ActorHandle
from tiny_tokenizers import tiny_tokenizer

from rto.cluster import launch
from rto.cluster.calls import Engines, Scorers, Trainers
from rto.cluster.generator import EngineGenerator
from rto.cluster.groups import ActorGroup, Watch
from rto.cluster.learner import ClusterLearner, UpdatePlan
from rto.cluster.scorer import ClusterScorer, RewardSources
from rto.cluster.stall import Processes
from rto.cluster.weight_sync import ClusterWeightSync, make_probe
from rto.data.sampler import PromptSampler
from rto.loop import train
from rto.methods.ppo import PPO
from rto.rollout.requests import Sampling
from rto.runs.checkpointing import RunCheckpointer
from rto.sections.runtime import Cluster
from rto.tracking.metrics import RunTracker
from rto.tracking.run_folder import RunFolder
from rto.training.checkpoint import CheckpointStore
from rto.training.identity import Identity
from rto.types import Prompt, Role

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
MOST_GROWTH = 1.0
"""MiB of a process per 1,000 iterations."""
SAMPLES = 40
EOS = 5
PROMPTS = [Prompt(i, (0, 1 + i % 3), f"p{i} ") for i in range(8)]


def count_words(queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
    return [float(len(query)) for query in queries]


@pytest.fixture
def own_ray(tmp_path: Path) -> Iterator[None]:
    assert launch.start(Cluster(num_cpus=2, object_store_gib=0.2), num_actors=5, log_dir=tmp_path)
    yield
    launch.stop()


class Sampler(RunTracker):
    """Notes memory, descriptors and threads of each process every so many iterations."""

    def __init__(self, folder: RunFolder, pids: Mapping[str, int], every: int) -> None:
        super().__init__(folder)
        self.seen: dict[str, list[tuple[int, float, int, int]]] = {name: [] for name in pids}
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._every = every

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        super().log(iteration, metrics)
        if (iteration + 1) % self._every:
            return
        gc.collect()
        for name, process in self._processes.items():
            memory = process.memory_full_info().uss / 2**20
            row = iteration, memory, process.num_fds(), process.num_threads()
            self.seen[name].append(row)


def group(name: str, watch: Watch, kind: type[Any], *models: Any) -> ActorGroup:
    """An actor of this class for each of the models."""
    made = [cast(ActorHandle, ray.remote(num_cpus=0)(kind).remote(model)) for model in models]
    for index, actor in enumerate(made):
        watch.add(f"{name}[{index}]", actor)
    return ActorGroup(name, made, 300.0, watch)


@pytest.mark.goal(
    "R13", "a process over 2,000 iterations: at most 1 MiB per 1,000, descriptors, threads flat"
)
@pytest.mark.usefixtures("own_ray")
def test_no_process_grows(tally: Any, tmp_path: Path) -> None:
    iterations = 100 * tries(20)
    watch = Watch(processes=Processes(tmp_path))
    policy = Trainers(group("policy", watch, LearningRank, bigram()))
    critic = Trainers(group("critic", watch, LearningRank, bigram(7)))
    frozen = Scorers(group("scorer", watch, FrozenReplica, {Role.REFERENCE: bigram()}))
    engines = Engines(group("engine", watch, BigramEngine, bigram(9), bigram(9)))
    generator = EngineGenerator(
        engines, Sampling(5, 1.0, 1.0, stop_token_ids=(EOS,)), samples_per_prompt=2, run_seed=1
    )
    rewards = RewardSources(texts=[("words", count_words)], weights=[1.0], ends={EOS: "</s>"})
    learner = ClusterLearner(policy, critic, UpdatePlan(4, 64, None, 1, 0, single_step=True))
    probe = make_probe([prompt.token_ids for prompt in PROMPTS], tolerance=1e-3)
    handles = watch.actors
    table = {actor: row["Pid"] for actor, row in ray._private.state.actors().items()}  # pyright: ignore
    pids = {name: table[handle._actor_id.hex()] for name, handle in handles.items()}
    pids["driver"] = psutil.Process().pid
    children = psutil.Process().children(recursive=True)
    pids |= {each.name(): each.pid for each in children if each.name() in ("gcs_server", "raylet")}
    with RunFolder(tmp_path / "run") as folder:
        tracker = Sampler(folder, pids, max(1, iterations // SAMPLES))
        train(
            PPO(),
            prompts=PromptSampler(PROMPTS, batch_size=2, seed=1),
            generator=generator,
            scorer=ClusterScorer(policy=policy, critic=critic, frozen=frozen, rewards=rewards),
            learner=learner,
            sync=ClusterWeightSync(policy, engines, probe, "object_store"),
            tracker=tracker,
            checkpointer=RunCheckpointer(
                store=CheckpointStore(
                    folder.checkpoints, identity=Identity("ppo", {}, {}), max_num=1
                ),
                built=PPO(),
                groups={"policy": policy, "critic": critic},
                exports=folder.path,
                last_step=iterations,
                save_steps=-1,
            ),
            iterations=range(iterations),
            pad_token_id=int(cast(int, tiny_tokenizer().pad_token_id)),
        )
        tracker.close()
    for name, rows in tracker.seen.items():
        late = np.array(rows[len(rows) // 2 :])  # The first half warms up.
        slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 1000
        files, threads = (int(np.ptp(late[:, column])) for column in (2, 3))
        print(
            f"{name}: {late[-1, 1]:.1f} MiB, {slope:+.2f} MiB per 1,000 iterations, "
            f"descriptors +-{files}, threads +-{threads}"
        )
        tally.count(slope <= MOST_GROWTH and files <= 2 and threads <= 2)
