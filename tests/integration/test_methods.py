"""Methods on the real pipeline, two ranks: offline from stored ratings, online without a critic."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from rto.quickstart.data import ToyPaths, write_task
from rto.quickstart.tokenizer import build_base_model
from rto.runs.execute import execute
from rto.sections.parse import parse_run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

REWARD_FUNC = """
def reward_func(queries, prompts, labels):
    return [float(query.split().count("the")) for query in queries]
"""


@dataclass(frozen=True)
class Workplace:
    root: Path
    data: ToyPaths

    def run(self, command: str, name: str, *flags: str) -> list[dict[str, float]]:
        """The metrics of each step of a run in the folder ``name``."""
        common = [
            *("--actor.model_name_or_path", str(self.root / "base"), "--train.device", "cpu"),
            *("--ds.param_dtype", "fp32", "--actor.adam.lr", "1e-2", "--data.max_len", "96"),
            *("--data.apply_chat_template", "--data.cache_dir", str(self.root / "cache")),
            *("--ckpt.output_dir", str(self.root / name), "--logger.tensorboard", "false"),
            *("--train.max_steps", "2"),
        ]
        folder = execute(command, parse_run(command, [*common, *flags]).config).folder
        assert self.moved(name)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    def fit(self, name: str, *flags: str) -> list[dict[str, float]]:
        stored = ["--data.feedback", str(self.data.feedback), "--data.eval_ratio", "0.2"]
        return self.run("fit", name, *stored, "--train.batch_size", "4", *flags)

    def train(self, name: str, *flags: str) -> list[dict[str, float]]:
        sampled = [
            *("--data.prompt_dataset", str(self.data.prompts), "--data.input_key", "prompt"),
            *("--reward.func_path", str(self.root / "reward.py"), "--rollout.batch_size", "4"),
            *("--rollout.n_samples_per_prompt", "4", "--rollout.max_new_tokens", "16"),
            *("--train.batch_size", "8", "--actor.num_gpus_per_node", "2"),
        ]
        return self.run("train", name, *sampled, *flags)

    def moved(self, name: str) -> bool:
        start = load_file(self.root / "base" / "model.safetensors")
        ended = load_file(self.root / name / "last" / "model.safetensors")
        assert start.keys() == ended.keys()
        return any(not torch.equal(start[key].to(ended[key]), ended[key]) for key in start)


@pytest.fixture(scope="module")
def place(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    root = tmp_path_factory.mktemp("methods")
    build_base_model(root / "base", 0)
    data = write_task(
        root / "data", seed=0, num_sft=1, num_pairs=1, num_prompts=16, num_eval=1, num_feedback=20
    )
    (root / "reward.py").write_text(REWARD_FUNC)
    return Workplace(root, data)


def test_rpo_on_one_and_two_ranks_is_one_run(place: Workplace) -> None:
    one = place.fit("rpo1", "--algo", "rpo", "--rpo_beta", "0.5")
    (cached,) = {path for path in (place.root / "cache").iterdir() if path.stat().st_size > 4000}
    written = cached.stat().st_mtime_ns
    two = place.fit("rpo2", "--algo", "rpo", "--rpo_beta", "0.5", "--actor.num_gpus_per_node", "2")
    assert cached.stat().st_mtime_ns == written
    # The policy starts at the reference, so the first loss is that of the targets alone.
    assert one[0]["policy/log_ratio"] == pytest.approx(0, abs=1e-4)
    square = one[0]["rpo/target_mean"] ** 2 + one[0]["rpo/target_std"] ** 2
    assert one[0]["rpo/loss"] == pytest.approx(square / 2, rel=1e-4)
    for before, after in zip(one, two, strict=True):
        assert after["rpo/loss"] == pytest.approx(before["rpo/loss"], rel=1e-4)
    for name in ("policy/log_ratio", "reward/correlation"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=1e-2)
        assert one[-1][name] != 0
    assert one[1]["rpo/loss"] != one[0]["rpo/loss"]


def test_a_run_in_processes_of_another_is_the_same_run(place: Workplace) -> None:
    flags = ("--algo", "rpo", "--rpo_beta", "0.5", "--actor.num_gpus_per_node", "2")
    again = place.fit("rpo_again", *flags)
    with (place.root / "rpo2" / "metrics.jsonl").open() as file:
        first = [json.loads(line) for line in file]
    timed = ("time", "rate")
    for before, after in zip(first, again, strict=True):
        kept = {name for name in before if not name.startswith(timed)}
        assert {name: before[name] for name in kept} == {name: after[name] for name in kept}


def trainers() -> set[int]:
    """The trainers' processes."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.name().startswith("ray::TrainerActor")}


def test_dro_trains_a_value_network_beside_the_policy(place: Workplace) -> None:
    before = trainers()
    place.fit("rpo_before", "--algo", "rpo")
    one = trainers()
    rows = place.fit("dro", "--algo", "dro", "--critic.adam.lr", "1e-2")
    # Policy and reference are one, so both losses are half the mean of (r - V)^2.
    assert rows[0]["dro/loss"] == pytest.approx(rows[0]["critic/loss"], rel=1e-4)
    assert rows[1]["critic/value"] != rows[0]["critic/value"]
    # The policy runs in the process of the run before, whose plan had no critic.
    assert before <= one
    assert len(trainers()) == len(one) + 1


def test_dro_with_the_head_on_the_policy(place: Workplace) -> None:
    rows = place.fit("shared", "--algo", "dro", "--algo.dro.variant", "shared_head")
    assert "critic/loss" not in rows[0]
    assert rows[1]["dro/loss"] != rows[0]["dro/loss"]


def test_kto_reads_unrelated_responses(place: Workplace) -> None:
    rows = place.fit("kto", "--algo", "kto", "--actor.num_gpus_per_node", "2")
    # All log-ratios are 0: every response costs 1 - sigmoid(0).
    assert rows[0]["kto/loss"] == pytest.approx(0.5, abs=1e-5)
    assert rows[0]["kto/reference_point"] == pytest.approx(0, abs=1e-5)


def test_reward_aware_on_a_4_bit_base(place: Workplace) -> None:
    rows = place.fit(
        "four_bit", "--algo", "reward_aware", "--ds.load_in_4bit", "--ds.lora.rank", "4"
    )  # fmt: skip
    # Adapters start at 0, so the reference, the same 4-bit base without them, is the policy.
    entropy = rows[0]["reward_aware/target_entropy"] * math.log(4)
    assert rows[0]["reward_aware/loss"] == pytest.approx(math.log(4) - entropy, abs=1e-4)


@pytest.fixture(scope="module")
def tdpo(place: Workplace) -> list[dict[str, float]]:
    """A policy trained on pairs, in the folder ``tdpo``."""
    return place.fit("tdpo", "--algo", "tdpo2", "--actor.num_gpus_per_node", "2")


def test_tdpo_keeps_the_reference_on_its_ranks(tdpo: list[dict[str, float]]) -> None:
    rows = tdpo
    assert rows[0]["preference/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["preference/chosen_kl"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["preference/chosen_kl"] > 0


@pytest.mark.usefixtures("tdpo")
def test_grpo_with_rtos_token_reward(place: Workplace) -> None:
    dpo = str(place.root / "tdpo" / "last")
    rows = place.train("grpo", "--algo", "grpo", "--dpo.model_name_or_path", dpo)
    assert "critic/loss" not in rows[0]
    assert rows[0]["kl/mean"] == pytest.approx(0, abs=1e-5)
    assert rows[0]["policy/kl_loss"] > 0
    assert rows[0]["dpo/sum_std"] > 0


def test_one_step_per_rollout_takes_the_policys_log_probs_from_the_update(place: Workplace) -> None:
    (row, *_) = place.train("grpo_one_step", "--algo", "grpo", "--train.batch_size", "16")
    assert row["policy/ratio"] == 1
    assert row["kl/sequence"] == pytest.approx(0, abs=1e-4)
    assert 0 < row["sampler/abs_diff_max"] < 1e-3


def test_rpo_online_weighs_by_the_sampler(place: Workplace) -> None:
    rows = place.train("online_rpo", "--algo", "rpo", "--algo.rpo.estimator", "importance")
    assert rows[0]["sampler/abs_diff_mean"] < 1e-4
    assert rows[0]["kl/sequence"] == pytest.approx(0, abs=1e-3)
    assert rows[1]["rpo/loss"] != rows[0]["rpo/loss"]


def test_kto_online_reads_unrelated_responses(place: Workplace) -> None:
    rows = place.train("online_kto", "--algo", "kto", "--algo.kto.threshold", "batch_mean")
    assert 0 < rows[0]["kto/desirable_share"] < 1
    assert rows[0]["kto/reference_point"] == pytest.approx(0, abs=1e-4)
