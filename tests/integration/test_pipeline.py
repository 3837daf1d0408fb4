"""The whole pipeline on real Ray, vLLM and DeepSpeed: a tiny Llama, two policy ranks, one CPU.

One local Ray serves all runs but those that are killed. Models are trained once; the tests read
what the runs left behind.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import platform
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import uvicorn
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rto.cluster.calls import Engines, Weights
from rto.cluster.session import session
from rto.cluster.weight_sync import ClusterWeightSync
from rto.data.sampler import PromptSampler
from rto.errors import ProofError, UserError
from rto.loop import train
from rto.methods.ppo import PPO
from rto.models.load import load_tokenizer
from rto.quickstart.data import ToyPaths, write_task
from rto.quickstart.tokenizer import build_base_model
from rto.registry import build
from rto.runs.execute import execute
from rto.runs.online import OnlineRun, Pipeline, build_pipeline
from rto.runs.prepare import prepare_online
from rto.scoring.desk import Desk
from rto.scoring.server import build_app
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig
from rto.tracking.rollout_read import find_rollouts, read_rollouts
from rto.types import Prompt, Role, Rollout, ScoredBatch
from rto.weights.digest import DigestRecorder, WeightReceipt

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ITERATIONS = 3
LR = 3e-4
WEIGHTS = (1.0, 0.5, 0.25)
COMMON = {
    "train.device": "cpu", "ds.param_dtype": "fp32", "data.max_len": "96",
    "data.apply_chat_template": "true", "ckpt.save_steps": "1", "logger.tensorboard": "false",
    "train.max_steps": "2", "train.batch_size": "4",
}  # fmt: skip
REWARD_FUNC = """
def reward_func(queries, prompts, labels):
    return [float(query.split().count("the")) for query in queries]
"""


def lengths(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> list[float]:
    return [len(query.split()) / 10 for query in queries]


def arguments(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in {**COMMON, **flags}.items()]


def configured(command: str, flags: Mapping[str, object]) -> RunConfig:
    return parse_run(command, arguments(flags)).config


def run(command: str, folder: Path, flags: Mapping[str, object]) -> Path:
    return execute(command, configured(command, {**flags, "ckpt.output_dir": folder})).folder


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollouts_of(folder: Path, iteration: int) -> list[dict[str, Any]]:
    return list(read_rollouts(find_rollouts(folder)[iteration]))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last" / "model.safetensors")


@contextmanager
def served_reward() -> Iterator[str]:
    app = build_app(Desk([lengths]), token=None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@dataclass(frozen=True)
class Trained:
    """What the offline stages left: run folders, and the toy's files."""

    root: Path
    data: ToyPaths
    base: Path
    sft: Path
    reward: Path
    dpo: Path

    def online(self, **changes: object) -> dict[str, object]:
        """Flags of an RTO run: two policy ranks, one optimizer step on each half of a batch."""
        flags = {
            "algo": "rto",
            "actor.model_name_or_path": self.sft / "last",
            "actor.num_gpus_per_node": 2,
            "actor.adam.lr": LR,
            "critic.model_name_or_path": self.reward / "last",
            "critic.adam.lr": 1e-3,
            "dpo.model_name_or_path": self.dpo / "last",
            "algo.dpo_reward_scale": 0.5,
            "algo.dpo_reward_clip": 0,
            "reward.func_path": self.root / "reward.py",
            "data.prompt_dataset": self.data.prompts,
            "data.input_key": "prompt",
            "rollout.batch_size": 4,
            "rollout.n_samples_per_prompt": 2,
            "rollout.max_new_tokens": 24,
            "train.max_steps": ITERATIONS,
            "train.num_episodes": 2,
        }
        return {**flags, **{name.replace("__", "."): value for name, value in changes.items()}}

    def paid_by_three(self, url: str) -> dict[str, object]:
        """An RTO run with a reward model, a function file and the server at ``url``."""
        return self.online(
            reward__model_name_or_path=self.reward / "last",
            reward__remote_url=url,
            reward__weights=",".join(map(str, WEIGHTS)),
        )


MALLINFO = [
    (name, ctypes.c_size_t)
    for name in (
        *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
        *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )
]


@pytest.fixture(scope="module")
def trained(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    base = root / "base"
    build_base_model(base, seed=0)
    data = write_task(root / "data", seed=0, num_sft=12, num_pairs=12, num_prompts=8, num_eval=1)
    (root / "reward.py").write_text(REWARD_FUNC)
    sft = run("sft", root / "sft", {
        "actor.model_name_or_path": base, "actor.num_gpus_per_node": 2, "actor.adam.lr": 1e-3,
        "data.dataset": data.sft, "data.input_key": "prompt", "data.output_key": "response",
    })  # fmt: skip
    pairs = {
        "actor.model_name_or_path": sft / "last", "actor.adam.lr": 1e-3,
        "data.dataset": data.pairs, "data.prompt_key": "prompt", "data.eval_ratio": 0.25,
        "eval.steps": 1, "eval.patience": 9,
    }  # fmt: skip
    reward = run("reward", root / "reward", pairs)
    return Trained(root, data, base, sft, reward, run("dpo", root / "dpo", pairs))


@pytest.fixture(scope="module")
def staged(trained: Trained) -> dict[int, Path]:
    """RTO under ZeRO 0, 2 and 3, paid by a model, a function file and a server."""
    with served_reward() as url:
        flags = trained.paid_by_three(url)
        return {
            stage: run("train", trained.root / f"zero{stage}", {**flags, "ds.zero_stage": stage})
            for stage in (0, 2, 3)
        }


@dataclass(frozen=True)
class Live:
    """A pipeline whose actors stay up between tests."""

    run: OnlineRun
    parts: Pipeline


@pytest.fixture(scope="module")
def live(trained: Trained) -> Iterator[Live]:
    config = configured("train", trained.online(actor__num_gpus_per_node=1))
    prepared = prepare_online(config, partial(build, mode="online"))
    with session(config, prepared.plan, logs=trained.root) as actors:
        yield Live(prepared, build_pipeline(prepared, actors))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_actors_on_a_cpu_keep_the_memory_that_they_free(cluster: None) -> None:
    size = 2**27

    @ray.remote(num_cpus=0)
    def free_bytes() -> int:
        """In the heap, after a tensor of ``size`` bytes is gone."""
        info = type("mallinfo2", (ctypes.Structure,), {"_fields_": MALLINFO})
        torch.ones(size, dtype=torch.uint8)
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = info
        return libc.mallinfo2().fordblks

    assert ray.get(free_bytes.remote()) >= size


def test_sft_moves_the_weights_and_leaves_a_model(trained: Trained) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained.sft / "last")
    before = load_file(trained.base / "model.safetensors")
    assert sorted(model.state_dict()) == sorted(before)
    assert any(not torch.equal(before[name], w) for name, w in model.state_dict().items())
    assert [row["iteration"] for row in metrics_of(trained.sft)] == [0, 1]


def test_a_reward_model_has_a_score_head_and_its_constants(trained: Trained) -> None:
    folder = trained.reward / "last"
    config = json.loads((folder / "config.json").read_text())
    assert config["std"] > 0
    assert isinstance(config["mean"], float)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    assert torch.equal(model.score.weight, weights_of(trained.reward)["score.weight"])


def test_a_stage_is_judged_while_it_trains_and_leaves_its_best(trained: Trained) -> None:
    """The reward model's best carries the constants of its own step."""
    for folder in (trained.reward, trained.dpo):
        accuracy = [row["eval/accuracy"] for row in metrics_of(folder)]
        assert len(accuracy) == 2
        assert (
            json.loads((folder / "run.json").read_text())["results"]["eval/accuracy"]
            == (accuracy[-1])
        )
        state = folder / "checkpoints" / "step_00000001" / "state.json"
        best = json.loads(state.read_text())["state"]["best_so_far"]
        assert (best["value"], best["step"]) == (max(accuracy), best_step(folder))
        assert load_file(folder / "best" / "model.safetensors").keys() == weights_of(folder).keys()
    row = metrics_of(trained.reward)[best_step(trained.reward)]
    config = json.loads((trained.reward / "best" / "config.json").read_text())
    assert (config["mean"], config["std"]) == (row["eval/mean"], row["eval/std"])


def best_step(folder: Path) -> int:
    accuracy = [row["eval/accuracy"] for row in metrics_of(folder)]
    return accuracy.index(max(accuracy))


FEEDBACK = {
    "prompt": "say a word",
    "responses": [{"text": "good words", "reward": 1}, {"text": "bad", "reward": 0}],
}


def test_the_example_in_python_runs(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feedback = tmp_path / "feedback.jsonl"
    rows = [{**FEEDBACK, "prompt": "say" + " a word" * (i + 1)} for i in range(8)]
    feedback.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = Path(__file__).resolve().parents[2] / "examples" / "python" / "sft_and_dpo.py"
    example = runpy.run_path(str(path))
    example["main"](str(trained.base), str(feedback), str(tmp_path / "runs"))
    said = capsys.readouterr().out
    for text in ("preference/loss", "eval/accuracy", "finished: {", "runs/dpo/best"):
        assert text in said


def test_an_offline_stage_goes_on_to_the_same_figures_and_weights(trained: Trained) -> None:
    whole, folder = trained.dpo, trained.root / "dpo_resumed"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "step_00000001")
    shutil.rmtree(folder / "last")
    flags = {"config": whole / "config.yaml", "ckpt.output_dir": folder, "ckpt.load_enable": True}
    execute("dpo", configured("dpo", flags))
    timed = ("time", "rate")
    kept, gone_on = (
        [{k: v for k, v in row.items() if not k.startswith(timed)} for row in metrics_of(each)]
        for each in (whole, folder)
    )
    assert gone_on == kept
    want = weights_of(whole)
    assert all(torch.equal(weight, want[name]) for name, weight in weights_of(folder).items())
    states = [
        json.loads((each / "checkpoints" / "step_00000001" / "state.json").read_text())["state"]
        for each in (whole, folder)
    ]
    assert states[0] == states[1]


def test_dpo_leaves_the_reference_behind(trained: Trained) -> None:
    after, before = weights_of(trained.dpo), weights_of(trained.sft)
    assert sorted(after) == sorted(before)
    assert any(not torch.equal(before[name], w) for name, w in after.items())


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_stages_sample_the_same_and_train_the_same(
    staged: dict[int, Path], stage: int
) -> None:
    plain, sharded = staged[0], staged[stage]
    for iteration in range(ITERATIONS):
        for left, right in zip(
            rollouts_of(plain, iteration), rollouts_of(sharded, iteration), strict=True
        ):
            assert (left["seed"], left["response_ids"]) == (right["seed"], right["response_ids"])
            assert right["scores"]["reward"] == pytest.approx(left["scores"]["reward"], abs=1e-5)
    for left, right in zip(metrics_of(plain), metrics_of(sharded), strict=True):
        assert right["reward/mean"] == pytest.approx(left["reward/mean"], abs=1e-5)
        assert right["policy/loss"] == pytest.approx(left["policy/loss"], abs=1e-5)
    want = weights_of(plain)
    for name, weight in weights_of(sharded).items():
        # Adam divides a gradient by its own size: rounding in one near 0 moves its weight by a
        # share of the learning rate. No weight by more than a tenth of it, hardly any by more
        # than a thirtieth.
        gap = (weight - want[name]).abs()
        assert gap.max() < LR / 10
        assert (gap > LR / 30).float().mean() < 1e-3, name


def test_the_policy_moved_and_the_sampler_followed_it(
    trained: Trained, staged: dict[int, Path]
) -> None:
    before, after = weights_of(trained.sft), weights_of(staged[2])
    assert any((after[name] - before[name]).abs().max() > 1e-4 for name in before)
    rows = metrics_of(staged[2])
    assert rows[0]["kl/mean"] == pytest.approx(0, abs=1e-5)
    assert abs(rows[2]["kl/mean"]) > 1e-5
    assert all(row["response/trained"] == row["response/num"] for row in rows)
    assert json.loads((staged[2] / "run.json").read_text())["status"] == "finished"
    assert (staged[2] / "report.html").read_text().startswith("<!doctype html>")
    assert all(row["sampler/abs_diff_max"] < 1e-3 for row in rows)
    assert all(row["sync/probe_max_abs_diff"] < 1e-3 for row in rows)


def test_rewards_of_model_file_and_server_add_up(trained: Trained, staged: dict[int, Path]) -> None:
    tokenizer = load_tokenizer(str(trained.base))
    model = AutoModelForSequenceClassification.from_pretrained(trained.reward / "last")
    for row in rollouts_of(staged[0], 0):
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        hidden = model.model(torch.tensor([prompt + row["response_ids"]])).last_hidden_state
        query = row["prompt"] + row["response"] + "</s>" * row["finished"]
        parts = (
            model.score(hidden[0, -1]).item(),
            float(query.split().count("the")),
            len(query.split()) / 10,
        )
        want = sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))
        assert row["scores"]["reward"] == pytest.approx(want, abs=1e-3)


def test_a_run_resumed_from_an_older_checkpoint_ends_where_the_whole_one_does(
    trained: Trained, staged: dict[int, Path]
) -> None:
    whole, folder = staged[2], trained.root / "resumed"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "step_00000002")
    shutil.rmtree(folder / "last")
    (folder / "rollouts" / "iter_000002.parquet").unlink()
    with served_reward() as url:
        # The server has another port now.
        going_on = {"ckpt.load_enable": True, "ckpt.allow": "reward.remote_url"}
        run("train", folder, {**trained.paid_by_three(url), **going_on})
    kept, gone_on = metrics_of(folder)[:2], metrics_of(folder)[2:]
    assert kept == metrics_of(whole)[:2]
    assert [row["iteration"] for row in gone_on] == [2]
    assert gone_on[0]["policy/loss"] == metrics_of(whole)[2]["policy/loss"]
    assert rollouts_of(folder, 2) == rollouts_of(whole, 2)
    want = weights_of(whole)
    assert all(torch.equal(weight, want[name]) for name, weight in weights_of(folder).items())


def test_a_checkpoint_of_another_method_is_refused_before_an_actor_starts(
    trained: Trained, staged: dict[int, Path]
) -> None:
    config = (staged[2] / "config.yaml").read_bytes()
    flags = {k: v for k, v in trained.online().items() if not k.startswith(("dpo.", "algo.dpo"))}
    began = time.monotonic()
    with pytest.raises(UserError, match="made with method rto, this run ppo") as caught:
        run("train", staged[2], {**flags, "algo": "ppo", "ckpt.load_enable": True})
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert (staged[2] / "config.yaml").read_bytes() == config


class Silent:
    """A tracker and checkpointer that remember the last metrics."""

    def __init__(self) -> None:
        self.metrics: Mapping[str, float] = {}

    def rollouts(self, iteration: int, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None:
        self.reward = batch[Role.REWARD]

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.metrics = metrics

    def tell(self, line: str) -> None:
        raise AssertionError(line)

    def after(
        self, iteration: int, method: object, metrics: Mapping[str, float], drawn: object = ()
    ) -> None:
        pass


def iterate(live: Live, method: PPO, **parts: Any) -> Silent:
    """One iteration on the actors that are up."""
    silent, config = Silent(), live.run.config
    common: dict[str, Any] = {
        "prompts": PromptSampler(live.run.prompts, batch_size=4, seed=config.train.seed),
        "generator": live.parts.generator,
        "scorer": live.parts.scorer,
        "learner": live.parts.learner,
        "sync": live.parts.sync,
        "tracker": silent,
        "checkpointer": silent,
    }
    train(method, **{**common, **parts}, iterations=range(1), pad_token_id=0)
    return silent


@pytest.mark.parametrize("variant", ["semi", "delayed", "shaping"])
def test_the_variants_of_the_ablation_run(live: Live, variant: str) -> None:
    algo = live.run.config.algo
    settings = replace(algo.settings, dpo_reward_variant=variant)
    config = replace(live.run.config, algo=replace(algo, settings=settings))
    method = build(config, live.run.tokenizer, mode="online")
    assert isinstance(method, PPO)
    metrics = iterate(live, method).metrics
    assert metrics["policy/grad_norm"] > 0
    assert metrics["dpo/sum_std"] > 0


@dataclass(frozen=True)
class TamperedEngines(Engines):
    """Engines that are sent one tensor altered, and may report the digests of the true ones."""

    victim: str = "model.layers.1.mlp.down_proj.weight"
    alter: Callable[[torch.Tensor], torch.Tensor] = torch.clone
    lies: bool = False
    truth: DigestRecorder = field(default_factory=DigestRecorder)

    def load_weights(self, weights: ray.ObjectRef[Weights]) -> None:
        sent = dict(self.truth.tee(ray.get(weights).items()))
        altered: Weights = {**sent, self.victim: self.alter(sent[self.victim].clone())}
        super().load_weights(ray.put(altered))

    def receipts(self) -> list[WeightReceipt]:
        answers = super().receipts()
        if not self.lies:
            return answers
        return [WeightReceipt(self.truth.digests, each.unassigned) for each in answers]


class NoRollout:
    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        raise AssertionError("a rollout was drawn from unproven weights")


def tampered(live: Live, **how: Any) -> ClusterWeightSync:
    """As after an update: weights that the engines have already are not sent again."""
    sync = live.parts.sync
    sync.policy.revision += 1
    return replace(sync, engines=TamperedEngines(sync.engines.group, **how))


def flip_last_bit(weight: torch.Tensor) -> torch.Tensor:
    weight.view(torch.int32)[0, 0] ^= 1
    return weight


def test_one_flipped_bit_ends_the_run_and_is_named(live: Live) -> None:
    method = build(live.run.config, live.run.tokenizer, mode="online")
    assert isinstance(method, PPO)
    with pytest.raises(ProofError, match=r"'model\.layers\.1\.mlp\.down_proj\.weight' differs"):
        iterate(live, method, sync=tampered(live, alter=flip_last_bit), generator=NoRollout())


def test_the_probe_catches_an_engine_that_computes_with_other_weights(live: Live) -> None:
    sync = tampered(live, alter=lambda weight: 2 * weight, lies=True)
    with pytest.raises(ProofError, match="computes other log-probs than the trainer"):
        sync.push()


def test_an_engine_without_proof_does_not_sample_until_it_is_proven(live: Live) -> None:
    prompts, sync = live.run.prompts[:1], live.parts.sync
    with pytest.raises(ProofError):
        tampered(live, alter=flip_last_bit).push()
    with pytest.raises(ProofError, match="no proven weights"):
        list(live.parts.generator.generate([prompts], sync.version, 0))
    version = sync.push()
    (rollouts,) = live.parts.generator.generate([prompts], version, 0)
    assert len(rollouts) == 2
    with pytest.raises(ProofError, match=f"engine has version {version}"):
        list(live.parts.generator.generate([prompts], version + 1, 0))


def family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def test_nothing_listens_beyond_loopback(live: Live) -> None:
    connections = [
        (process.name(), connection.laddr.ip)
        for process in family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {name for name, _ in connections} >= {"raylet", "gcs_server", "ray::EngineActor"}
    open_to_all = [(name, ip) for name, ip in connections if not is_loopback(ip)]
    assert open_to_all == []


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def test_a_stranger_without_the_token_is_refused(live: Live) -> None:
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False)"
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "wrong"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr


def test_there_is_no_dashboard(live: Live) -> None:
    assert not ray.get_runtime_context().worker.node.webui_url  # pyright: ignore


@contextmanager
def started(command: str, folder: Path, flags: Mapping[str, object]) -> Iterator[Started]:
    """`rto COMMAND` as a process with a Ray of its own; whatever is left of it is killed."""
    line = [sys.executable, "-m", "rto.cli.main", command]
    process = subprocess.Popen(
        [*line, *arguments({**flags, "ckpt.output_dir": folder})],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = Started(process, folder)
    try:
        yield begun
    finally:
        process.kill()
        process.wait()
        psutil.wait_procs(begun.descendants, timeout=10)
        for child in begun.descendants:
            if child.is_running():
                child.kill()


@dataclass
class Started:
    process: subprocess.Popen[str]
    folder: Path
    descendants: list[psutil.Process] = field(default_factory=list)

    def wait_for_iterations(self, count: int) -> None:
        path = self.folder / "metrics.jsonl"
        while not path.exists() or len(metrics_of(self.folder)) < count:
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.2)
        self.descendants = psutil.Process(self.process.pid).children(recursive=True)

    def actors(self, name: str) -> list[psutil.Process]:
        return [child for child in self.descendants if child.name().startswith(f"ray::{name}")]

    def survivors(self) -> list[str]:
        _, alive = psutil.wait_procs(self.descendants, timeout=20)
        return [child.name() for child in alive]


def test_no_actor_outlives_a_killed_driver(trained: Trained, tmp_path: Path) -> None:
    flags = {
        "actor.model_name_or_path": trained.base, "data.dataset": trained.data.sft,
        "data.input_key": "prompt", "data.output_key": "response", "train.max_epochs": 10000,
        "train.max_steps": 10000,
    }  # fmt: skip
    with started("sft", tmp_path / "run", flags) as begun:
        begun.wait_for_iterations(1)
        assert begun.actors("TrainerActor")
        begun.process.kill()
        assert begun.survivors() == [], "Ray's own agents included"
