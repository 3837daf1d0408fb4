"""How one model is trained: its optimizer, its schedule, and DeepSpeed's configuration of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from rto.errors import UserError
from rto.sections.training import Adam, LrScheduler


@dataclass(frozen=True)
class EngineSettings:
    """What decides how one model is trained. ``device`` is "cpu", "cuda" or "cuda:N"."""

    zero_stage: Literal[0, 1, 2, 3]
    dtype: Literal["bf16", "fp32"]
    adam: Adam
    max_norm: float
    scheduler: LrScheduler
    warmup_steps: int
    total_steps: int
    min_lr_ratio: float
    device: str
    adam_offload: bool = False
    overlap_comm: bool = False
    extras: Mapping[str, object] = field(default_factory=dict)
    """More of DeepSpeed's configuration (`rto.sections.deepspeed_file`)."""

    def __post_init__(self) -> None:
        if self.adam_offload and self.device == "cpu":
            raise UserError("ds.adam_offload is on and train.device is cpu: nothing to offload")
        if self.adam_offload and self.zero_stage == 0:
            raise UserError("ds.adam_offload is on and ds.zero_stage is 0: use stage 1, 2 or 3")
        if self.overlap_comm and self.zero_stage in (0, 1):
            raise UserError(
                f"ds.overlap_comm is on and ds.zero_stage is {self.zero_stage}: use stage 2 or 3"
            )


def adamw(module: nn.Module, settings: EngineSettings) -> torch.optim.Optimizer:
    """AdamW, without decay on biases and norms; torch's fused CPU kernel serves offloading too."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = settings.adam
    return torch.optim.AdamW(
        groups if adam.weight_decay else trained,
        lr=adam.lr,
        betas=adam.betas,
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        fused=True,
    )


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer, settings: EngineSettings
) -> LRScheduler:
    floor = {"min_lr_rate": settings.min_lr_ratio} if "min_lr" in settings.scheduler else None
    try:
        return get_scheduler(
            settings.scheduler,
            optimizer,
            num_warmup_steps=settings.warmup_steps,
            num_training_steps=settings.total_steps,
            scheduler_specific_kwargs=floor,
        )
    except ValueError as error:
        raise UserError(f"lr_scheduler {settings.scheduler!r}: {error}") from error


def deepspeed_config(settings: EngineSettings) -> dict[str, object]:
    zero: dict[str, object] = {
        "stage": settings.zero_stage,
        "overlap_comm": settings.overlap_comm,
        "contiguous_gradients": True,
    }
    if settings.adam_offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    # Steps differ in their number of micro-batches. Unmanaged, a step ends where ``step`` is called
    # and nothing is divided by that number: ``backward`` adds shares of one mean.
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": settings.max_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if settings.dtype == "bf16":
        config["bf16"] = {"enabled": True}
        if settings.zero_stage > 0:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
