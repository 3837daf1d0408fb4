"""Record, inside each worker of a vLLM engine, which weights arrived and where they went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from torch import Tensor, nn
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.utils import get_tensor_load_numel
from vllm.platforms import current_platform

from rto.errors import ProofError
from rto.weights.digest import DigestRecorder, WeightReceipt


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
