"""One ZeRO engine of DeepSpeed with its optimizer and schedule, on CPU (gloo) or CUDA (NCCL).

DeepSpeed picks its accelerator when it is first imported, so the import waits for the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from rto.errors import TrainingDiverged, UserError
from rto.sections.deepspeed_file import merged
from rto.text import one_line
from rto.training.engine_settings import (
    EngineSettings,
    adamw,
    deepspeed_config,
    learning_rate_schedule,
)
from rto.training.guard import StepOutcome, not_finite
from rto.training.states import Classes, kept_in_memory, without_code
from rto.training.writer import HostFile

if TYPE_CHECKING:
    from rto.models.lora import Adapters

Gives = TypeVar("Gives")
"""What the module's forward gives."""


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
    call it, in the same order.
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
                optimizer=adamw(module, settings),
                lr_scheduler=lambda optimizer: learning_rate_schedule(optimizer, settings),
                config=self._config(),
                dist_init_required=False,
            )
        self._world_size = dist.get_world_size()
        # Where the norm is measured here, gradients are reduced here too: once, before it. Whole
        # gradients of one rank need no reducing; DeepSpeed would copy each of them.
        alone = settings.zero_stage == 0 and self._world_size == 1
        self._engine.enable_backward_allreduce = not (alone or self._plain)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        """Of this rank's micro-batches since the last step."""

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

    def backward(self, loss: Tensor) -> Tensor:
        """Add the gradient of ``loss``, which is normalised over all micro-batches and ranks.

        Returns, as a bool on the device, whether the loss is finite. Where it is not, neither is
        its gradient, and ``step`` applies nothing.
        """
        value = loss.detach()
        self._loss += value.double()
        finite = value.isfinite()
        # DeepSpeed averages gradients over ranks; the loss is a share of a sum.
        share = torch.where(finite, float(self._world_size), math.nan)
        self._engine.backward(loss * share, scale_wrt_gas=False)
        return finite

    def step(self) -> StepOutcome:
        """Apply the gradients added since the last step, if they and their loss are finite.

        Raises:
            TrainingDiverged: the loss is not finite and reaches no weight.
        """
        dist.all_reduce(self._loss)
        loss = float(self._loss)
        self._loss.zero_()
        norm = self._plain_grad_norm() if self._plain else math.nan
        # The bare optimizer would apply gradients that are not finite: here they stop before it.
        if self._plain and not (math.isfinite(norm) and math.isfinite(loss)):
            self._engine.zero_grad()
            self._engine.global_steps += 1
            self._engine.skipped_steps += 1
            return StepOutcome(applied=False, loss=loss, norm=norm)
        self._engine.step()
        outcome = StepOutcome(
            applied=bool(self._engine.was_step_applied()),
            loss=loss,
            norm=norm if self._plain else float(self._engine.get_global_grad_norm()),
        )
        if outcome.applied and not math.isfinite(loss):
            raise TrainingDiverged(f"loss is {loss}, and its gradient is 0 in all weights")
        return outcome

    def not_finite(self) -> list[str]:
        """Names of the weights that are NaN or infinite on any rank; the same on all."""
        parts = (
            # What this rank holds of a weight that ZeRO-3 has taken apart.
            (_hf_name(name), vars(parameter).get("ds_tensor", parameter))
            for name, parameter in self._module.inner.named_parameters()
        )
        return not_finite(parts, self.device)

    def check_finite(self, before: str) -> None:
        """
        Raises:
            TrainingDiverged: weights are NaN or infinite; ``before`` says what was not done.
        """
        bad = self.not_finite()
        if bad:
            others = f" (and {len(bad) - 1} other weights)" if bad[1:] else ""
            raise TrainingDiverged(
                f"before {before}: {bad[0]}{others} has values that are NaN or infinite: lower the "
                "learning rate"
            )

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
        self.check_finite("a checkpoint was written")
        # What is frozen is read again from the model that the run began with.
        self._engine.save_checkpoint(
            str(directory), tag=tag, save_latest=False, exclude_frozen_parameters=True
        )

    def snapshot(self, directory: Path, tag: str) -> list[HostFile]:
        """What ``save`` writes, in host memory; its folders are there."""
        with kept_in_memory(self._engine.checkpoint_engine) as files:
            self.save(directory, tag)
        return files

    def load(self, directory: Path, tag: str) -> None:
        """The inverse of ``save``, on a fresh engine with the same ranks and ZeRO stage.

        Raises:
            UserError: a file is missing, or holds something else than an engine's state.
        """
        if not (directory / tag).is_dir():
            raise UserError(f"{directory / tag} does not exist: no engine state to load")
        with without_code(self._engine.checkpoint_engine, _state_classes()):
            self._engine.load_checkpoint(
                str(directory), tag=tag, load_module_strict=self._all_trained
            )
        bad = self.not_finite()
        if bad:
            raise UserError(
                f"{directory / tag}: {bad[0]} has values that are NaN or infinite: remove this "
                "checkpoint to go on from an older one"
            )

    def close(self) -> None:
        self._engine.destroy()

    def _config(self) -> dict[str, object]:
        """
        Raises:
            UserError: DeepSpeed refuses what a user's file adds.
        """
        config = merged(deepspeed_config(self._settings), self._settings.extras)
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


def _state_classes() -> Classes:
    """Of what DeepSpeed writes beside tensors and plain values."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


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
