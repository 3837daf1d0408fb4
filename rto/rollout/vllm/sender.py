"""The trainer's side of vLLM's own weight transfer, over NCCL or CUDA IPC.

Apart from what runs in an engine: a trainer imports no model or layer of vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import (
    ParamMeta,
    RayVLLMWeightSyncClient,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.utils.network_utils import get_open_port

from rto.weights.buffer import buffer_bytes
from rto.weights.digest import DigestRecorder, TensorDigests


class WeightStream(WeightSource):
    """A trainer's full tensors by checkpoint name, digested as they leave.

    ``stream`` gives a fresh pass at each call and must agree with ``metadata`` in order. Ranks
    whose digests nobody reads are not ``compared``: a digest costs a copy to the host.
    """

    def __init__(
        self,
        metadata: Sequence[tuple[str, torch.dtype, tuple[int, ...]]],
        stream: Callable[[], Iterable[tuple[str, Tensor]]],
        *,
        compared: bool = True,
    ) -> None:
        self._metadata = [ParamMeta(*entry) for entry in metadata]
        self._stream = stream
        self._compared = compared
        self.digests: TensorDigests = {}

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        recorder = DigestRecorder(active=self._compared)
        self.digests = recorder.digests
        return recorder.tee(self._stream())


class WeightSender:
    """The trainer's end of vLLM's weight transfer; build it and ``send`` on every trainer rank.

    Rank 0 drives the engines (Ray handles of actors with ``VllmEngine``'s methods) through a
    whole update, start and finish included; the other ranks take part in gathering the tensors
    and, over IPC, share those on their own GPU.
    """

    def __init__(
        self,
        transport: Literal["nccl", "ipc"],
        engines: Sequence[Any],
        *,
        rank: int,
        weights: WeightStream,
        num_workers: int,
        master_address: str = "127.0.0.1",
    ) -> None:
        """``num_workers`` is the number of engines times their tensor-parallel size."""
        sizes = [(each.dtype, each.shape) for each in weights.metadata()]
        init_info = (
            NCCLTrainerInitInfo(master_address, get_open_port(), 1 + num_workers, rank=rank)
            if transport == "nccl"
            else IPCTrainerInitInfo(
                packed=True,
                rank=rank,
                packed_buffer_size_bytes=buffer_bytes(sizes),
            )
        )
        self._weights = weights
        self._engine = WeightTransferTrainerFactory.trainer_init(
            init_info, client=RayVLLMWeightSyncClient(list(engines)), source=weights
        )

    def send(self) -> TensorDigests:
        """Push all weights; returns the digests of what was sent."""
        self._engine.send_weights()
        return self._weights.digests

    def close(self) -> None:
        self._engine.shutdown()
