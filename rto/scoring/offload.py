"""Frozen weights that wait in host memory and visit a device for their turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rto.models.device import empty_cache


class Offloaded:
    """A frozen model whose parameters live in host memory; ``on_device`` lends them to a device.

    They never change, so nothing is copied back: after a turn the device's copies are dropped. For
    a GPU they are page-locked, which lets it read them at the speed of the bus.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._parameters = list(model.parameters())
        self._host = [_host_copy(each.data, device) for each in self._parameters]
        self._come_home()

    @contextmanager
    def on_device(self) -> Iterator[None]:
        for parameter, host in zip(self._parameters, self._host, strict=True):
            parameter.data = to_device(host, self._device)
        _move_buffers(self._model, self._device)
        try:
            yield
        finally:
            self._come_home()

    def _come_home(self) -> None:
        for parameter, host in zip(self._parameters, self._host, strict=True):
            parameter.data = host
        _move_buffers(self._model, torch.device("cpu"))
        empty_cache(self._device)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """The copy that a device computes with; on a CPU it is the tensor itself."""
    return host.to(device, non_blocking=True)


def _host_copy(tensor: Tensor, device: torch.device) -> Tensor:
    host = tensor.to("cpu")
    return host.pin_memory() if device.type == "cuda" else host


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    """Read anew each time: a model may put others in their place. They are small."""
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
