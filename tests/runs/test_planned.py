"""The setup of each command: which models are trained and which are held frozen."""

from __future__ import annotations

import pytest
from known_shapes import write_known

from rto.errors import UserError
from rto.planning.memory import Setup
from rto.runs import planned as module
from rto.runs.planned import capacity, planned
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Cluster, DeepSpeed, Lora, Planned
from rto.sections.training import Actor, DPOModel, Frozen, Reward, Train

GIB = 1024**3


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("sizes")
    return {name: str(write_known(name, root)) for name in ("1b", "8b")}


def setup(command: str, algo: str = "ppo", **sections: object) -> Setup:
    common = {
        "plan": Planned("1xA100-80"),
        "data": Data(prompt_dataset=["p.jsonl"], dataset=["d.jsonl"], max_len=2048),
        "algo": Algo(algo),
        "train": Train(batch_size=128),
    }
    config, planner = planned(command, RunConfig(**{**common, **sections}))  # type: ignore[arg-type]
    return planner(config)


def test_the_critic_of_ppo_starts_from_the_reward_model(sizes: dict[str, str]) -> None:
    found = setup(
        "train", actor=Actor(sizes["8b"]), reward=Reward([sizes["1b"]]),
    )  # fmt: skip
    assert found.policy.params == 8_030_261_248
    assert found.critic is not None
    assert found.critic.params == 1_235_816_448
    assert [shape.head for shape in found.frozen] == [True, False], "reference and reward model"
    assert found.config.vllm.engine == "vllm"
    assert (found.plan.device, found.config.ds.dtype, found.online) == ("cuda", "bf16", True)


def test_models_of_one_path_are_held_once(sizes: dict[str, str]) -> None:
    found = setup(
        "train", "rto", actor=Actor(sizes["8b"]), reward=Reward([sizes["1b"]]),
        dpo=DPOModel(sizes["1b"]),
    )  # fmt: skip
    assert len(found.frozen) == 3
    same = setup(
        "train", "rto", actor=Actor(sizes["8b"]), reward=Reward([sizes["1b"]]),
        dpo=DPOModel(sizes["8b"]),
    )  # fmt: skip
    assert len(same.frozen) == 2


def test_a_reward_model_in_training_has_a_head_of_its_own(sizes: dict[str, str]) -> None:
    found = setup("reward", actor=Actor(sizes["1b"]))
    assert not found.policy.shape.head
    assert (found.critic, found.frozen, found.online, found.rows) == (None, (), False, 2)


def test_a_reference_that_the_policy_starts_from_needs_no_actor(sizes: dict[str, str]) -> None:
    alone = setup("dpo", "dpo", actor=Actor(sizes["1b"]))
    assert (alone.frozen, alone.policy.reference) == ((), None)
    other = setup("dpo", "dpo", actor=Actor(sizes["1b"]), ref=Frozen(sizes["8b"]))
    assert [shape.params for shape in other.frozen] == [8_030_261_248]


def test_tdpo_has_its_reference_on_the_ranks(sizes: dict[str, str]) -> None:
    found = setup("dpo", "tdpo2", actor=Actor(sizes["1b"]))
    assert found.policy.reference == found.policy.shape
    lora = DeepSpeed(lora=Lora(rank=8))
    adapted = setup("dpo", "tdpo2", actor=Actor(sizes["1b"]), ds=lora)
    assert adapted.policy.reference is None


def test_adapters_are_counted_on_the_model(sizes: dict[str, str]) -> None:
    found = setup("sft", "sft", actor=Actor(sizes["1b"]), ds=DeepSpeed(lora=Lora(rank=8)))
    # Rank 8 on the seven matrices of 16 layers: 8 x (in + out).
    layer = 2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192)
    assert found.policy.params == 16 * 8 * layer
    assert found.policy.largest == 8 * 8192
    assert found.policy.adapted


def test_each_model_is_read_once(sizes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = module.model_shape

    def counting(path: str, use: str):  # type: ignore[no-untyped-def]
        read.append(use)
        return real(path, use)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "model_shape", counting)
    config = RunConfig(actor=Actor(sizes["1b"]), plan=Planned("1xH100"), algo=Algo("sft"))
    config, planner = planned("sft", config)
    assert planner(config) == planner(config)
    assert read == ["policy"]


def test_a_run_that_cannot_be_is_refused_before_it_is_weighed(sizes: dict[str, str]) -> None:
    with pytest.raises(UserError, match="no reward source"):
        setup("train", actor=Actor(sizes["1b"]))
    with pytest.raises(UserError, match="does not train online"):
        setup("train", "sft", actor=Actor(sizes["1b"]))


def test_capacity_of_this_machine_and_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    here = capacity(RunConfig(train=Train(device="cpu")))
    assert here.gpu is not None
    assert 0.1 * GIB < here.gpu == here.host
    monkeypatch.setattr(module, "run_device", lambda config: "cuda")
    joined = capacity(RunConfig(ray=Cluster(address="10.0.0.1:6379")))
    assert (joined.gpu, joined.host) == (None, None)
    monkeypatch.setattr(module, "gpu_bytes", lambda: 80.0 * GIB)
    own = capacity(RunConfig(actor=Actor(num_gpus_per_node=2), train=Train(batch_size=2)))
    assert (own.gpu, own.gpus) == (80 * GIB, 2)
    elsewhere = capacity(RunConfig(plan=Planned("1xH200")))
    assert elsewhere.gpu == 139.8 * GIB
