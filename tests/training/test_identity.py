"""What of a configuration and its files a checkpoint is compared by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rto.methods.settings.policy_gradient import PPOSettings
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Ckpt, Cluster, DeepSpeed, Logger, Lora
from rto.sections.training import Actor, Adam, Frozen, Reward, RolloutSection, Train
from rto.training.identity import (
    LARGE,
    PART,
    Identity,
    differences,
    fingerprint,
    identity_of,
    model_fingerprint,
)


def changed(**sections: Any) -> list[str]:
    """The names by which a run with these sections differs from one with the defaults."""
    before, after = (identity_of(each, "sft") for each in (RunConfig(), RunConfig(**sections)))
    kept = Identity(**json.loads(json.dumps(dataclasses.asdict(before))))
    return list(differences(kept, after))


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"train": Train(seed=7)}, "train.seed"),
        ({"train": Train(batch_size=64)}, "train.batch_size"),
        ({"train": Train(max_epochs=2)}, "train.max_epochs"),
        ({"rollout": RolloutSection(batch_size=512)}, "rollout.batch_size"),
        ({"rollout": RolloutSection(temperature=0.5)}, "rollout.temperature"),
        ({"actor": Actor(adam=Adam(lr=1e-3))}, "actor.adam.lr"),
        ({"actor": Actor(adam=Adam(betas=(0.5, 0.9)))}, "actor.adam.betas"),
        ({"actor": Actor(lr_scheduler="linear")}, "actor.lr_scheduler"),
        ({"actor": Actor(num_gpus_per_node=2)}, "actor.num_gpus_per_node"),
        ({"ds": DeepSpeed(zero_stage=3)}, "ds.zero_stage"),
        ({"ds": DeepSpeed(param_dtype="fp32")}, "ds.param_dtype"),
        ({"ds": DeepSpeed(lora=Lora(rank=8))}, "ds.lora.rank"),
        ({"data": Data(max_len=64)}, "data.max_len"),
        ({"data": Data(max_samples=5)}, "data.max_samples"),
        ({"algo": Algo("ppo", PPOSettings(reward_coef=2.0))}, "algo.ppo.reward_coef"),
    ],
)
def test_what_decides_the_training_is_compared(sections: dict[str, Any], name: str) -> None:
    assert changed(**sections) == [name]


def test_a_file_for_deepspeed_is_compared_by_its_content(tmp_path: Path) -> None:
    before, after = (tmp_path / name for name in ("a.json", "b.json"))
    before.write_text('{"steps_per_print": 1}')
    after.write_text(before.read_text())
    kept, wanted = (
        identity_of(RunConfig(ds=DeepSpeed(config=str(path))), "sft") for path in (before, after)
    )
    assert differences(kept, wanted) == {}
    after.write_text('{"steps_per_print": 20}')
    other = identity_of(RunConfig(ds=DeepSpeed(config=str(after))), "sft")
    assert list(differences(kept, other)) == ["ds.config"]


@pytest.mark.parametrize(
    "sections",
    [
        {"train": Train(max_steps=9, micro_batch_size=1, device="cpu", self_check=False)},
        {"ckpt": Ckpt(output_dir="x", save_steps=3, max_num=1, load_enable=True)},
        {"logger": Logger(logging_steps=5)},
        {"vllm": VLLM(num_engines=2), "ray": Cluster(num_cpus=3)},
        {"data": Data(cache_dir="x")},
    ],
)
def test_how_long_where_and_what_is_said_is_not(sections: dict[str, Any]) -> None:
    assert changed(**sections) == []


def test_files_are_compared_by_content(tmp_path: Path) -> None:
    first, moved, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    for path, text in ((first, "x"), (moved, "x"), (other, "y")):
        path.write_text(text)

    def identity(*paths: Path) -> Identity:
        return identity_of(RunConfig(data=Data(dataset=[str(path) for path in paths])), "sft")

    assert differences(identity(first), identity(moved)) == {}
    said = differences(identity(first), identity(other))
    assert said == {"data.dataset": f"{first}, this run {other}"}
    assert list(differences(identity(first), identity(first, moved))) == ["data.dataset"]
    kept = identity(first)
    first.write_text("xx")
    assert differences(kept, identity(first)) == {"data.dataset": f"{first} with other content"}


def test_a_directory_is_its_files_and_a_hub_id_its_name(tmp_path: Path) -> None:
    (tmp_path / "set" / "part").mkdir(parents=True)
    file = tmp_path / "set" / "part" / "a"
    file.write_text("x")
    before = fingerprint(str(tmp_path / "set"))
    file.rename(file.with_name("b"))
    assert fingerprint(str(tmp_path / "set")) != before
    assert fingerprint("owner/name") == "hub:owner/name"


def test_a_model_is_its_place_however_it_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()

    def model(path: str) -> Any:
        config = RunConfig(actor=Actor(model_name_or_path=path))
        return identity_of(config, "sft").settings["actor.model_name_or_path"]

    assert model("model") == model("./model/") == str(tmp_path / "model")
    assert model("owner/hub-id") == "owner/hub-id"


def test_a_former_spelling_is_the_setting_that_it_meant() -> None:
    kept = Identity("ppo", {"algo.kl.init_coef": 0.5, "algo.kl.estimator": None, "gone": 1})
    wanted = identity_of(RunConfig(), "ppo")
    assert differences(kept, wanted) == {"algo.ppo.kl_coef": "0.5, this run 0.01"}


@pytest.mark.parametrize("section", ["ref", "reward"])
def test_a_model_that_was_written_anew_is_another(tmp_path: Path, section: str) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"first")
    path = str(tmp_path)

    def identity() -> Identity:
        if section == "ref":
            return identity_of(RunConfig(ref=Frozen(model_name_or_path=path)), "ppo")
        return identity_of(RunConfig(reward=Reward(model_name_or_path=[path])), "ppo")

    kept = identity()
    assert differences(kept, identity()) == {}
    weights.write_bytes(b"other")
    name = f"{section}.model_name_or_path"
    assert differences(kept, identity()) == {name: f"{path} with other content"}


def test_of_large_weights_size_beginning_and_end_count(tmp_path: Path) -> None:
    weights, content = tmp_path / "model.safetensors", bytearray(LARGE + 2)
    found = []
    for place in (None, 0, PART - 1, len(content) - PART, len(content) - 1):
        if place is not None:
            content[place] = 1
        weights.write_bytes(content)
        found.append(model_fingerprint(str(tmp_path)))
    weights.write_bytes(content + b"\0")
    found.append(model_fingerprint(str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    found.append(model_fingerprint(str(tmp_path)))
    assert len(set(found)) == len(found)
    assert model_fingerprint("owner/name") == "hub:owner/name"


def test_a_chat_template_in_a_file_is_compared_by_content(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("a")
    kept = identity_of(RunConfig(data=Data(chat_template=str(template))), "sft")
    template.write_text("ab")
    wanted = identity_of(RunConfig(data=Data(chat_template=str(template))), "sft")
    assert list(differences(kept, wanted)) == ["data.chat_template"]
