"""Transfer weights into a vLLM engine and record what arrived.

``WeightProof`` runs inside each worker. ``WeightSender`` is the trainer's side of vLLM's own
weight transfer over NCCL or CUDA IPC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from vllm.distributed.weight_transfer import (
    ParamMeta,
    RayVLLMWeightSyncClient,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.utils import get_tensor_load_numel
from vllm.platforms import current_platform
from vllm.utils.network_utils import get_open_port

from rto.errors import ProofError
from rto.weights.buffer import buffer_bytes
from rto.weights.digest import DigestRecorder, TensorDigests, WeightReceipt


class HoldsModel(Protocol):
    """vLLM's model runner, as far as it is asked here."""

    def get_model(self) -> nn.Module: ...


class LoadsWeights(Protocol):
    """A model of vLLM: it says which parameters it loaded, or None where it does not know."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str] | None: ...


class WeightProof:
    """Worker extension: records what arrives between ``record_weights`` and ``settle_weights``.

    All transports end in ``model.load_weights``, at once or in chunks; that is where it listens.
    """

    model_runner: HoldsModel

    def record_weights(self) -> None:
        self._weight_record = WeightRecord(self.model_runner.get_model())

    def settle_weights(self) -> None:
        self._weight_record.close()

    def weight_receipt(self) -> WeightReceipt:
        return self._weight_record.receipt()


class WeightRecord:
    """One weight update of one model, seen from its ``load_weights``."""

    def __init__(self, model: nn.Module) -> None:
        model.__dict__.pop("load_weights", None)
        self._model = model
        self._load = cast(LoadsWeights, model).load_weights
        self._recorder = DigestRecorder()
        self._parameters = {name for name, _ in model.named_parameters()}
        self._assigned: set[str] = set()
        self._partial: set[str] = set()
        model.__dict__["load_weights"] = self.load

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = self._load(self._recorder.tee(weights))
        if loaded is None:
            raise ProofError(
                f"weight sync: {type(self._model).__name__} does not tell which parameters it loads"
            )
        self._assigned |= loaded
        self._partial = set(_partly_loaded(self._model))
        return loaded

    def close(self) -> None:
        self._model.__dict__.pop("load_weights", None)
        if current_platform.is_cpu():
            _repack_heads(self._model)

    def receipt(self) -> WeightReceipt:
        unassigned = (self._parameters - self._assigned) | self._partial
        return WeightReceipt(dict(self._recorder.digests), tuple(sorted(unassigned)))


def _partly_loaded(model: nn.Module) -> Iterator[str]:
    """Parameters of layers that hold some of their elements but not all (a qkv without its v).

    vLLM calls such a parameter loaded and fills the rest with whatever is in memory. While an
    update runs it counts elements per layer; a layer is forgotten once it is complete. The
    padding of a vocabulary counts as missing and is none; attention layers are finished later.
    """
    for prefix, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if isinstance(layer, VocabParallelEmbedding) or is_deferred_attention_layer(layer):
            continue
        parameters = dict(layer.named_parameters(recurse=False))
        expected = sum(get_tensor_load_numel(p) for p in parameters.values())
        if info.can_load() and 0 < info.load_numel < expected:
            yield from (f"{prefix}.{name}" for name in parameters)


def _repack_heads(model: nn.Module) -> None:
    """Pack the output head again from its weight.

    On CPU vLLM computes with a packed copy. A head tied to the embedding is given no tensor of
    its own in a reload, so its copy would stay that of the old weights.
    """
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


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
