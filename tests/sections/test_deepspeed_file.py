"""What a user's DeepSpeed file may say, what it may not, and what of it reaches DeepSpeed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rto.errors import UserError
from rto.sections.deepspeed_file import NO_PART, OWN, PASSED_ON, engine_extras, merged
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed
from rto.sections.training import Actor, Adam, Critic, Train


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ds.json"


def run(file: Path, content: Any, **ds: Any) -> RunConfig:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    common: dict[str, Any] = {"param_dtype": "fp32", "zero_stage": 2, "config": str(file)}
    return RunConfig(
        actor=Actor(adam=Adam(lr=1e-6, betas=(0.9, 0.95)), max_norm=0.5),
        critic=Critic(max_norm=2.0),
        train=Train(batch_size=64),
        ds=DeepSpeed(**{**common, **ds}),
    )


def test_without_a_file_nothing_is_added() -> None:
    assert engine_extras(RunConfig(), "actor") == {}


def test_what_has_no_setting_here_is_passed_on(file: Path) -> None:
    content = {
        "zero_optimization": {"stage3_prefetch_bucket_size": 5, "reduce_bucket_size": "auto"},
        "steps_per_print": "auto",
        "communication_data_type": "fp32",
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
    }
    assert engine_extras(run(file, content), "actor") == {
        "zero_optimization": {"stage3_prefetch_bucket_size": 5},
        "communication_data_type": "fp32",
    }


def test_what_says_the_same_as_the_run_is_taken_out(file: Path) -> None:
    content = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": None,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "sequence_parallel_size": 1,
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": False,
            "offload_optimizer": {"device": "none", "pin_memory": False},
        },
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "optimizer": {
            "type": "adamw",
            "params": {"lr": 1e-6, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0},
        },
        "scheduler": {"type": "cosine_with_min_lr"},
        "gradient_allreduce_op": "mean",
    }
    assert engine_extras(run(file, content), "actor") == {
        "zero_optimization": {"offload_optimizer": {"pin_memory": False}},
        "bf16": {},
        "fp16": {},
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"train_batch_size": 32}, "train_batch_size is 32 and train.batch_size is 64: leave it"),
        (
            {"train_micro_batch_size_per_gpu": 4},
            "train_micro_batch_size_per_gpu is 4 and train.micro_batch_size is null",
        ),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps is 8: training needs 1"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is 1.0 and actor.max_norm is 0.5"),
        ({"sequence_parallel_size": 2}, "is 2 and ds.sequence_parallel_size is 1"),
        (
            {"zero_optimization": {"stage": 3}},
            "zero_optimization.stage is 3 and ds.zero_stage is 2",
        ),
        ({"zero_optimization": {"overlap_comm": True}}, "is true and ds.overlap_comm is false"),
        (
            {"zero_optimization": {"compute_grad_norm": False}},
            "zero_optimization.compute_grad_norm is false: training needs true",
        ),
        (
            {"bf16": {"check_grad_overflow": False}},
            "bf16.check_grad_overflow is false: training needs true",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "offload_optimizer.device is 'nvme' and ds.adam_offload is false",
        ),
        ({"zero_optimization": {"cpu_offload": True}}, "is true and ds.adam_offload is false"),
        (
            {"zero_optimization": {"offload_optimizer": None}},
            "zero_optimization.offload_optimizer is null: must be a JSON object",
        ),
        ({"bf16": {"enabled": True}}, "bf16.enabled is true and ds.param_dtype is 'fp32'"),
        ({"bfloat16": {"enabled": True}}, "bfloat16.enabled is true and ds.param_dtype"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true and ds.param_dtype is 'fp32'"),
        ({"fp16": {"enabled": 0}}, "fp16.enabled is 0 and ds.param_dtype is 'fp32'"),
        ({"bf16": True}, "bf16 is true: must be a JSON object"),
        ({"optimizer": {"type": "Lamb"}}, "optimizer.type is 'Lamb' and actor.adam is 'AdamW'"),
        ({"optimizer": {"params": {"lr": 1e-3}}}, "params.lr is 0.001 and actor.adam.lr is 1e-06"),
        (
            {"optimizer": {"params": {"torch_adam": True}}},
            "optimizer.params.torch_adam is true: actor.adam decides it, leave it out",
        ),
        (
            {"scheduler": {"type": "WarmupLR"}},
            "scheduler.type is 'WarmupLR' and actor.lr_scheduler is 'cosine_with_min_lr'",
        ),
        (
            {"scheduler": {"params": {"warmup_num_steps": 9}}},
            "scheduler.params.warmup_num_steps is 9: actor.lr_scheduler decides it",
        ),
        ({"managed_gradient_accumulation": True}, "is true: training needs false, leave it out"),
        ({"gradient_allreduce_op": "sum"}, "is 'sum': training needs 'mean'"),
        ({"zero_optimisation": {}}, "no setting of DeepSpeed: did you mean zero_optimization?"),
        ({"xyz": 1}, "'xyz' is no setting of DeepSpeed: leave it out"),
        ({"activation_checkpointing": {}}, "no part here: .*gradient_checkpointing_enable"),
        ('{"steps_per_print": 1, "steps_per_print": 2}', "'steps_per_print' stands twice"),
        ('{"gradient_clipping": NaN}', "NaN is no number of JSON"),
        ("[1]", r"holds \[1\]: must be a JSON object"),
        ("{", "cannot be read as JSON: JSONDecodeError: .*; give a DeepSpeed JSON file"),
    ],
)
def test_what_contradicts_the_run_is_refused_in_one_line(
    file: Path, content: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        engine_extras(run(file, content), "actor")
    assert str(refused.value).startswith(f"ds.config {file}: ")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = RunConfig(ds=DeepSpeed(config=str(tmp_path / "no.json")))
    with pytest.raises(UserError, match=r"ds.config .*/no.json: cannot be read.*FileNotFoundError"):
        engine_extras(config, "actor")


def test_the_critic_is_compared_with_its_own_settings(file: Path) -> None:
    config = run(file, {"gradient_clipping": 2.0})
    assert engine_extras(config, "critic") == {}
    with pytest.raises(UserError, match=r"is 2.0 and actor.max_norm is 0.5"):
        engine_extras(config, "actor")


def test_a_precision_that_is_not_settled_yet_is_not_compared(file: Path) -> None:
    config = run(file, {"bf16": {"enabled": True}}, param_dtype="auto")
    assert engine_extras(config, "actor") == {"bf16": {"enabled": True}}
    offloading = run(file, {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
                     adam_offload=True)  # fmt: skip
    assert engine_extras(offloading, "actor") == {"zero_optimization": {"offload_optimizer": {}}}


def test_objects_are_merged_entry_by_entry() -> None:
    ours = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merged(ours, {"a": {"c": {"f": 4}, "b": 5}, "g": {}}) == {
        "a": {"b": 5, "c": {"d": 2, "f": 4}},
        "e": 3,
        "g": {},
    }
    assert ours == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}, "as it was"


def test_each_setting_of_deepspeed_is_in_one_list() -> None:
    assert not OWN & PASSED_ON
    assert not (OWN | PASSED_ON) & NO_PART.keys()
