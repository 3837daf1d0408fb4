"""One ZeRO engine of DeepSpeed with its optimizer and schedule, on CPU (gloo) or CUDA (NCCL).

DeepSpeed picks its accelerator when it is first imported, so the import waits for the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from rto.errors import TrainingDiverged, UserError
from rto.sections.deepspeed_file import merged
from rto.sections.training import Adam, LrScheduler
from rto.text import one_line
from rto.training.writer import HostFile

if TYPE_CHECKING:
    from rto.models.lora import Adapters

Gives = TypeVar("Gives")
"""What the module's forward gives."""


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


def init_process_group(
    *,
    rank: int,
    world_size: int,
    master_addr: str,
    master_port: int,
    timeout: float,
    device: str,
) -> None:
    """Join the ranks of one model; a collective that hangs fails after ``timeout`` seconds.

    A process that is such a rank already stays in its group.
    """
    if dist.is_initialized() and (dist.get_rank(), dist.get_world_size()) == (rank, world_size):
        return
    address = {"MASTER_ADDR": master_addr, "MASTER_PORT": str(master_port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
    deepspeed = _import_deepspeed(device)
    on_cpu = torch.device(device).type == "cpu"
    if not on_cpu:
        torch.accelerator.set_device_index(torch.device(device).index or 0)
    limit = timedelta(seconds=timeout)
    store = TCPStore(
        master_addr,
        master_port,
        world_size,
        is_master=rank == 0,
        timeout=limit,
        master_listen_fd=_listen(master_addr, master_port) if rank == 0 else None,
    )
    backend = "gloo" if on_cpu else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _listen(host: str, port: int) -> int:
    """A listening socket on one interface, for a store that would listen on all of them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family).detach()


class ZeroEngine(Generic[Gives]):
    """A module under ZeRO.

    ``exported`` is the part of ``module`` whose parameter names other programs know (the Hugging
    Face model inside a wrapper); all of it when not given. Every method is collective: all ranks
    call it, in the same order. After ``TrainingDiverged`` the engine cannot go on.
    """

    def __init__(
        self, module: nn.Module, *, settings: EngineSettings, exported: nn.Module | None = None
    ) -> None:
        self._deepspeed = _import_deepspeed(settings.device)
        self._settings = settings
        self._exported = exported if exported is not None else module
        self._all_trained = all(p.requires_grad for p in module.parameters())
        self._module = _PlainOutput(module)
        with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed prints memory figures
            self._engine, *_ = self._deepspeed.initialize(
                model=self._module,
                optimizer=_optimizer(module, settings),
                lr_scheduler=lambda optimizer: learning_rate_schedule(optimizer, settings),
                config=self._config(),
                dist_init_required=False,
            )
        self._world_size = dist.get_world_size()
        # Where the norm is measured here, gradients are reduced here too: once, before it. Whole
        # gradients of one rank need no reducing; DeepSpeed would copy each of them.
        alone = settings.zero_stage == 0 and self._world_size == 1
        self._engine.enable_backward_allreduce = not (alone or self._plain)

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    @property
    def zero_stage(self) -> int:
        return self._settings.zero_stage

    @property
    def learning_rate(self) -> float:
        """The rate that the next step applies."""
        return float(self._engine.get_lr()[0])

    def __call__(self, *args: object, **kwargs: object) -> Gives:
        output = self._engine(*args, **kwargs)
        kind = self._module.output_type
        return output if kind is None else kind(**output)

    def train(self) -> None:
        self._engine.train()

    def eval(self) -> None:
        self._engine.eval()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, which is normalised over all micro-batches and ranks."""
        total = loss.detach().float().clone()
        dist.all_reduce(total)
        if not math.isfinite(value := float(total)):
            raise TrainingDiverged(
                f"loss is {value} (this rank: {float(loss.detach())}) before optimizer step "
                f"{self._engine.global_steps + 1}; nothing was applied"
            )
        # DeepSpeed averages gradients over ranks; the loss is a share of a sum.
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def step(self) -> float:
        """Apply the gradients added since the last step; returns their global norm."""
        step = self._engine.global_steps + 1
        # The bare optimizer would apply gradients that are not finite: here they stop before it.
        norm = self._plain_grad_norm() if self._plain else math.nan
        if not self._plain or math.isfinite(norm):
            self._engine.step()
        if not self._engine.was_step_applied():
            norm = norm if self._plain else float(self._engine.get_global_grad_norm())
            raise TrainingDiverged(
                f"gradient norm is {norm} at optimizer step {step}; nothing was applied"
            )
        return norm if self._plain else float(self._engine.get_global_grad_norm())

    @torch.no_grad()
    def named_full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight once, whole, under its Hugging Face name; adapters merged into their base.

        Tensors may be the live weights: copy what must outlive the next step.
        """
        adapters = _adapters(self._exported)
        seen: set[int] = set()
        for name, owner, parameter in _own_parameters(self._exported):
            if _is_adapter(name) or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            merger = adapters if name.endswith(".weight") else None
            extra = [] if merger is None else merger.parameters(owner)
            with self._gathered([parameter, *extra]):
                full = parameter if merger is None else merger.merged(owner)
                # ZeRO-3 takes the whole tensor apart again when the context ends.
                full = full.detach().clone() if self.zero_stage == 3 else full.detach()
            yield _hf_name(name), full

    def save(self, directory: Path, tag: str) -> None:
        """Weights, optimizer and schedule into ``directory/tag``, one file set over all ranks."""
        # What is frozen is read again from the model that the run began with.
        self._engine.save_checkpoint(
            str(directory), tag=tag, save_latest=False, exclude_frozen_parameters=True
        )

    def snapshot(self, directory: Path, tag: str) -> list[HostFile]:
        """What ``save`` writes, in host memory; its folders are there."""
        files: list[HostFile] = []
        engine = self._engine.checkpoint_engine

        def keep(state_dict: object, path: str) -> None:
            content = io.BytesIO()
            zipped = engine.zipfile_serialization
            torch.save(state_dict, content, _use_new_zipfile_serialization=zipped)
            files.append(HostFile(Path(path), content))

        engine.save = keep
        try:
            self.save(directory, tag)
        finally:
            del engine.save
        return files

    def load(self, directory: Path, tag: str) -> None:
        """The inverse of ``save``, on a fresh engine with the same ranks and ZeRO stage."""
        if not (directory / tag).is_dir():
            raise UserError(f"{directory / tag} does not exist: no engine state to load")
        self._engine.load_checkpoint(str(directory), tag=tag, load_module_strict=self._all_trained)

    def close(self) -> None:
        self._engine.destroy()

    def _config(self) -> dict[str, object]:
        """
        Raises:
            UserError: DeepSpeed refuses what a user's file adds.
        """
        config = merged(_config(self._settings), self._settings.extras)
        if self._settings.extras:
            # Of a run's own settings it refuses none.
            refused = (self._deepspeed.DeepSpeedConfigError, AssertionError, TypeError, ValueError)
            try:
                self._deepspeed.DeepSpeedConfig(config)
            except refused as error:
                said = one_line(str(error), 300)
                raise UserError(f"ds.config: DeepSpeed refuses it: {said}") from error
        return config

    @property
    def _plain(self) -> bool:
        """Whether DeepSpeed runs the bare optimizer, which neither measures nor checks the norm."""
        return self._settings.zero_stage == 0 and self._settings.dtype == "fp32"

    def _plain_grad_norm(self) -> float:
        if self._world_size > 1:
            self._engine.buffered_allreduce_fallback()
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(grads))

    def _gathered(
        self, parameters: list[nn.Parameter]
    ) -> contextlib.AbstractContextManager[object]:
        if self.zero_stage < 3:
            return contextlib.nullcontext()
        return self._deepspeed.zero.GatheredParameters(parameters)


class _PlainOutput(nn.Module):
    """DeepSpeed's backward hooks find tensors in tuples and dicts, but not in dataclasses."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.output_type: type | None = None

    def forward(self, *args: object, **kwargs: object) -> object:
        output = self.inner(*args, **kwargs)
        if not dataclasses.is_dataclass(output) or isinstance(output, type):
            self.output_type = None
            return output
        self.output_type = type(output)
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}


def _import_deepspeed(device: str) -> ModuleType:
    kind = torch.device(device).type
    os.environ["DS_ACCELERATOR"] = kind
    import deepspeed

    # Its warnings tell of dataclasses in forward calls, which _PlainOutput answers.
    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # An inference kernel that training never calls; building it takes a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = deepspeed.get_accelerator()
    found = accelerator.device_name() if accelerator is not None else "nothing"
    if found != kind:
        raise RuntimeError(f"this process's DeepSpeed runs on {found}, asked for {kind}")
    return deepspeed


def _optimizer(module: nn.Module, settings: EngineSettings) -> torch.optim.Optimizer:
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


def _config(settings: EngineSettings) -> dict[str, object]:
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


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            yield name, module, parameter


def _adapters(model: nn.Module) -> Adapters | None:
    """The model's LoRA layers, where it has some."""
    if not any(_is_adapter(name) for name, _ in model.named_parameters()):
        return None
    from rto.models.lora import Adapters

    return Adapters(model)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name or ".original_module." in name


def _hf_name(name: str) -> str:
    """peft's names for a wrapped model -> the names of the model it wraps."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
