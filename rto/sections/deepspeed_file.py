"""``ds.config``: a user's DeepSpeed JSON, and what of it this program has settings of its own for.

Neither torch nor DeepSpeed is imported: a file that contradicts the run is refused before an actor
starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from rto.errors import UserError, foreign, nearest
from rto.sections.ranges import require, show
from rto.sections.run_config import RunConfig

Json = dict[str, Any]
Trained = Literal["actor", "critic"]

AUTO = "auto"
"""In files for transformers' Trainer: the value is that of the program, or DeepSpeed's default."""
OWN = frozenset({
    "bf16", "bfloat16", "data_types", "fp16", "gradient_accumulation_steps",
    "gradient_allreduce_op", "gradient_clipping", "managed_gradient_accumulation", "optimizer",
    "scheduler", "sequence_parallel_size", "train_batch_size", "train_micro_batch_size_per_gpu",
    "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization",
})  # fmt: skip
PASSED_ON = frozenset({
    "aio", "checkpoint", "comet", "comms_logger", "communication_data_type", "csv_monitor",
    "datastates_ckpt", "disable_allgather", "disable_python_gc", "dump_state", "flops_profiler",
    "gradient_predivide_factor", "log_level", "memory_breakdown", "prescale_gradients",
    "steps_per_print", "tensorboard", "timers", "vocabulary_size", "wall_clock_breakdown", "wandb",
    "weight_quantization",
})  # fmt: skip
NO_PART = {
    "activation_checkpointing": "transformers recomputes activations "
    "(actor.gradient_checkpointing_enable, critic.gradient_checkpointing_enable)",
    "autotuning": "DeepSpeed's launcher reads it, and Ray starts the ranks",
    "compile": "no model is compiled",
    "data_efficiency": "batches are planned here (train.batch_size, train.max_tokens_per_gpu)",
    "dataloader_drop_last": "batches are planned here (train.batch_size)",
    "expert_parallel": "models are sharded by ZeRO (ds.zero_stage)",
    "hybrid_engine": "engines of their own sample (vllm.engine)",
    "pipeline": "models are sharded by ZeRO (ds.zero_stage)",
    "seq_parallel_communication_data_type": "ranks share rows without DeepSpeed "
    "(ds.sequence_parallel_size)",
    "tensor_parallel": "models are sharded by ZeRO (ds.zero_stage)",
    "torch_autocast": "weights and activations are of one type (ds.param_dtype)",
    "use_data_before_expert_parallelism": "models are sharded by ZeRO (ds.zero_stage)",
}
"""Top-level settings of DeepSpeed that would not act, and what stands in their place."""
OFF = "none"
"""DeepSpeed's word for a device that nothing is offloaded to."""


@dataclass(frozen=True)
class Owned:
    """A value that is decided here: ``by`` a setting, or because nothing else would work.

    ``means`` is what that setting holds, where it says the same in other words.
    """

    value: object
    by: str = ""
    means: object = None


def engine_extras(config: RunConfig, trained: Trained) -> Json:
    """What the file of ``ds.config`` adds to the engine of one model: without what says the same
    as the run's own settings, and without ``auto``. Empty where no file is given.

    Raises:
        UserError: one line with the file, the setting, both values and the remedy.
    """
    path = config.ds.config
    if path is None:
        return {}
    content = _read(path)
    for key in content:
        _check_known(path, key)
    wanted = _without_auto(content)
    for key, owned in _owned(config, trained):
        _settle(path, wanted, key.split("."), owned)
    for section in ("optimizer", "scheduler"):
        for key, value in _leaves(wanted.pop(section, {}), section):
            by = f"{trained}.{'adam' if section == 'optimizer' else 'lr_scheduler'}"
            raise UserError(f"{_said(path, key, value)}: {by} decides it, leave it out")
    return wanted


def merged(ours: Mapping[str, Any], extras: Mapping[str, Any]) -> Json:
    """``extras`` over ``ours``, objects entry by entry."""
    result = dict(ours)
    for key, value in extras.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _owned(config: RunConfig, trained: Trained) -> Iterator[tuple[str, Owned]]:
    """(DeepSpeed's dotted name, value and settings that decide it)."""
    ds, train = config.ds, config.train
    section = config.critic if trained == "critic" else config.actor
    adam = section.adam
    yield "train_batch_size", Owned(train.batch_size, "train.batch_size")
    yield "train_micro_batch_size_per_gpu", Owned(train.micro_batch_size, "train.micro_batch_size")
    yield "gradient_accumulation_steps", Owned(1)
    yield "gradient_clipping", Owned(section.max_norm, f"{trained}.max_norm")
    yield "sequence_parallel_size", Owned(ds.sequence_parallel_size, "ds.sequence_parallel_size")
    yield "zero_optimization.stage", Owned(ds.zero_stage, "ds.zero_stage")
    yield "zero_optimization.overlap_comm", Owned(ds.overlap_comm, "ds.overlap_comm")
    offload = Owned("cpu" if ds.adam_offload else OFF, "ds.adam_offload", ds.adam_offload)
    yield "zero_optimization.offload_optimizer.device", offload
    yield "zero_optimization.cpu_offload", Owned(ds.adam_offload, "ds.adam_offload")
    # Without them a gradient that is not finite would be applied.
    yield "zero_optimization.compute_grad_norm", Owned(True)
    yield "bf16.check_grad_overflow", Owned(True)
    yield "bfloat16.check_grad_overflow", Owned(True)
    if ds.param_dtype != "auto":
        for key in ("bf16", "bfloat16"):
            bf16 = Owned(ds.param_dtype == "bf16", "ds.param_dtype", ds.param_dtype)
            yield f"{key}.enabled", bf16
    yield "fp16.enabled", Owned(False, "ds.param_dtype", ds.param_dtype)
    yield "optimizer.type", Owned("AdamW", f"{trained}.adam")
    for name in ("lr", "betas", "eps", "weight_decay"):
        yield f"optimizer.params.{name}", Owned(vars(adam)[name], f"{trained}.adam.{name}")
    yield "scheduler.type", Owned(section.lr_scheduler, f"{trained}.lr_scheduler")
    yield "managed_gradient_accumulation", Owned(False)
    yield "gradient_allreduce_op", Owned("mean")
    yield "zero_allow_untested_optimizer", Owned(True)
    yield "zero_force_ds_cpu_optimizer", Owned(False)


def _read(path: str) -> Json:
    def unique(pairs: list[tuple[str, Any]]) -> Json:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"ds.config {path}: {twice!r:.60} stands twice: leave one of the two")
        return found

    def infinite(constant: str) -> NoReturn:
        raise UserError(f"ds.config {path}: {constant} is no number of JSON: give a finite one")

    with foreign(f"ds.config {path}: cannot be read as JSON", "give a DeepSpeed JSON file"):
        text = Path(path).expanduser().read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=unique, parse_constant=infinite)
    require(
        isinstance(content, dict),
        f"ds.config {path}: holds {show(content)}: must be a JSON object",
    )
    return content


def _check_known(path: str, key: str) -> None:
    if key in NO_PART:
        raise UserError(f"ds.config {path}: {key} has no part here: {NO_PART[key]}; leave it out")
    if key not in OWN | PASSED_ON:
        hint = nearest(key, OWN | PASSED_ON) or "leave it out"
        raise UserError(f"ds.config {path}: {show(key)} is no setting of DeepSpeed: {hint}")


def _without_auto(content: Json) -> Json:
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value != AUTO
    }


def _settle(path: str, wanted: Json, parts: list[str], owned: Owned) -> None:
    """Take a value that is decided here out of the file's."""
    *sections, last = parts
    for depth, section in enumerate(sections):
        if section not in wanted:
            return
        wanted = wanted[section]
        require(
            isinstance(wanted, dict),
            f"ds.config {path}: {'.'.join(parts[: depth + 1])} is {show(wanted)}: must be a JSON "
            "object",
        )
    if last in wanted:
        value = wanted.pop(last)
        if not _same(value, owned.value):
            _refuse(path, ".".join(parts), value, owned)


def _same(value: object, own: object) -> bool:
    if isinstance(own, tuple):
        return value == list(own)
    if isinstance(own, str) and isinstance(value, str):
        return value.lower() == own.lower()
    return value == own and isinstance(value, bool) == isinstance(own, bool)


def _refuse(path: str, key: str, value: object, owned: Owned) -> NoReturn:
    said = _said(path, key, value)
    if not owned.by:
        raise UserError(f"{said}: training needs {show(owned.value)}, leave it out")
    own = show(owned.value if owned.means is None else owned.means)
    raise UserError(f"{said} and {owned.by} is {own}: leave it out of the file")


def _said(path: str, key: str, value: object) -> str:
    return f"ds.config {path}: {key} is {show(value)}"


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    """(dotted name, value) of everything in a JSON value that is no object."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{name}.{key}")
