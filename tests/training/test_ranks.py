"""What a rank is made of, from a configuration: module, reference, trainer and engine settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from rto.models.causal import CausalPolicy
from rto.models.heads import SequenceReward, TokenValue
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed, Lora
from rto.sections.training import Actor, Adam, Critic, Frozen, Train
from rto.training import ranks
from rto.training.deepspeed import ZeroEngine
from rto.training.learner import CriticTrainer, PolicyTrainer, ScoreTrainer
from rto.training.ranks import build_module, build_trainer, engine_settings, load_reference


def config(path: Path, *, rank: int = 0, **sections: Any) -> RunConfig:
    common: dict[str, Any] = {
        "actor": Actor(model_name_or_path=str(path)),
        "ds": DeepSpeed(param_dtype="fp32", lora=Lora(rank=rank)),
        "data": Data(max_len=77, apply_chat_template=True),
    }
    return RunConfig(**{**common, **sections})


@pytest.mark.parametrize(
    ("kind", "module"),
    [("policy", CausalPolicy), ("critic", TokenValue), ("score", SequenceReward)],
)
def test_each_kind_of_rank_trains_a_module_of_its_own(
    kind: Any, module: type, tiny_model_dir: Path
) -> None:
    built, model = build_module(kind, str(tiny_model_dir), config(tiny_model_dir), (0.0, 1.0))
    assert type(built) is module
    assert built.model is model


@pytest.mark.parametrize(("stage", "expected"), [(2, "meta"), (3, "cpu")])
def test_a_rank_loads_on_its_device_unless_zero_takes_the_model_apart(
    stage: Any, expected: str, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(tiny_model_dir, ds=DeepSpeed(param_dtype="fp32", zero_stage=stage))
    asked: list[str] = []
    own = ranks.load_policy

    def load(path: str, **how: Any) -> Any:
        asked.append(how.pop("device").type)
        return own(path, **how)

    monkeypatch.setattr(ranks, "load_policy", load)
    meta = torch.device("meta")
    build_module("policy", str(tiny_model_dir), made, (0.0, 1.0), device=meta)
    assert asked == [expected]


def test_a_reward_model_keeps_what_its_texts_were_rendered_with(tiny_model_dir: Path) -> None:
    _, model = build_module("score", str(tiny_model_dir), config(tiny_model_dir), (0.0, 1.0))
    assert (model.config.apply_chat_template, model.config.max_len) == (True, 77)
    _, policy = build_module("policy", str(tiny_model_dir), config(tiny_model_dir), (0.0, 1.0))
    assert "max_len" not in policy.config.to_dict()


@pytest.mark.parametrize(("kind", "expected"), [("policy", True), ("critic", False)])
def test_a_rank_saves_memory_as_its_own_section_says(
    kind: Any, expected: bool, tiny_model_dir: Path
) -> None:
    made = config(
        tiny_model_dir,
        actor=Actor(model_name_or_path=str(tiny_model_dir), gradient_checkpointing_enable=True),
        critic=Critic(gradient_checkpointing_enable=False),
    )
    _, model = build_module(kind, str(tiny_model_dir), made, (0.0, 1.0))
    assert model.is_gradient_checkpointing is expected


def test_a_reference_is_a_frozen_model_of_its_own(
    tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    policy, _ = build_module("policy", str(tiny_model_dir), config(tiny_model_dir), (0.0, 1.0))
    found = load_reference(policy, str(tiny_model_dir), config(tiny_model_dir), torch.device("cpu"))
    assert found is not policy
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    for name, weight in policy.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)


def test_where_adapters_lie_on_the_reference_it_is_not_loaded_twice(tiny_model_dir: Path) -> None:
    policy, _ = build_module("policy", str(tiny_model_dir), config(tiny_model_dir), (0.0, 1.0))
    path, device = str(tiny_model_dir), torch.device("cpu")
    assert load_reference(policy, path, config(tiny_model_dir, rank=8), device) is policy
    other = config(tiny_model_dir, rank=8, ref=Frozen(f"{tiny_model_dir}/."))
    assert load_reference(policy, path, other, device) is not policy


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Weights:
    """An engine with one weight."""

    def named_full_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "w", torch.ones(2)


@pytest.mark.usefixtures("alone")
def test_each_kind_of_rank_has_a_trainer_and_the_policys_keeps_an_average_where_asked() -> None:
    engine = cast(ZeroEngine, Weights())
    plain, averaged = (RunConfig(train=Train(enable_ema=on, ema_beta=0.5)) for on in (False, True))
    assert type(build_trainer("critic", engine, averaged, None, True)) is CriticTrainer
    assert type(build_trainer("score", engine, averaged, None, True)) is ScoreTrainer
    policy = build_trainer("policy", engine, averaged, None, True)
    assert type(policy) is PolicyTrainer
    assert policy.packs
    assert (policy._ema_beta, list(policy._ema)) == (0.5, ["w"])
    assert build_trainer("policy", engine, plain, None, False)._ema_beta is None


def test_an_engine_follows_the_section_of_its_model(tiny_model_dir: Path) -> None:
    made = config(
        tiny_model_dir,
        ds=DeepSpeed(param_dtype="bf16", zero_stage=3),
        critic=Critic(adam=Adam(lr=0.5), max_norm=7.0, lr_warmup_ratio=0.3, min_lr_ratio=0.25),
    )
    found = engine_settings(made.critic, made, device="cpu", total_steps=12, extras={"aio": {}})
    assert (found.adam, found.max_norm, found.min_lr_ratio) == (Adam(lr=0.5), 7.0, 0.25)
    # 0.3 of 12 steps is 3.6.
    assert (found.warmup_steps, found.total_steps) == (4, 12)
    assert (found.zero_stage, found.dtype, found.device) == (3, "bf16", "cpu")
    assert found.extras == {"aio": {}}
    other = engine_settings(made.actor, made, device="cpu", total_steps=12, extras={})
    assert other.adam == Adam()
