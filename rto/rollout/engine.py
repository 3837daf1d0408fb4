"""Build the engine that samples from a model: vLLM if it is installed and serves the model, else
transformers. ``Engine`` is the protocol of both."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from rto.builds import INSTALL_VLLM, is_installed, require_vllm
from rto.errors import UserError
from rto.models.device import resolve_device
from rto.rollout.hf import HfEngine
from rto.rollout.requests import Pairs, Sample, SampleRequest, Sampling
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Beside

if TYPE_CHECKING:
    from torch import Tensor

    from rto.rollout.vllm.engine import WeightTransferInitRequest, WeightTransferUpdateRequest
    from rto.weights.digest import WeightReceipt

EngineName = Literal["auto", "vllm", "transformers"]
Transport = Literal["object_store", "nccl", "ipc"]
"""How new weights reach an engine."""
BATCH_TOKENS = 16384
"""Tokens in a batch of transformers' sampling, by default."""


class Engine(Protocol):
    """Samples only from weights that its caller has accepted as a policy version."""

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int
    ) -> list[Sample]:
        """One sample per request, in order; refuses where the weights are not ``policy_version``.

        A sample depends on (weights, prompt, seed), not on those drawn beside it.
        """
        ...

    def generate_parts(
        self, parts: Sequence[Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> Iterator[list[Sample]]:
        """As ``generate``: the samples of each part, in order, once all of it are there."""
        ...

    def response_logprobs(self, pairs: Pairs) -> list[list[float]]:
        """Log-prob, at temperature 1, of each token of each response; of unproven weights too."""
        ...

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take all weights by their names from host memory; leaves the engine without a version."""
        ...

    def receipt(self) -> WeightReceipt:
        """What the last update brought."""
        ...

    def accept(self, version: int) -> None:
        """Accept the weights held now as policy ``version``; the caller has verified them."""
        ...

    def keep(self, version: int) -> bool:
        """Whether the weights accepted as ``version`` are here still; what was computed with them
        is then forgotten, as after an update."""
        ...

    def sleep(self) -> None:
        """Give the device's memory back, until ``wake``."""
        ...

    def wake(self, tag: Literal["weights", "kv_cache"]) -> None:
        """Take the memory back: for weights before an update, for the KV cache after it."""
        ...


@runtime_checkable
class ReceivingEngine(Engine, Protocol):
    """An engine that takes part in vLLM's weight transfer."""

    def init_weight_transfer_engine(self, request: WeightTransferInitRequest) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, request: WeightTransferUpdateRequest) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def build_engine(
    path: str,
    config: RunConfig,
    *,
    max_len: int,
    device: Literal["auto", "cpu", "cuda"],
    max_tokens: int = BATCH_TOKENS,
    transport: Transport = "object_store",
    index: int = 0,
    beside: Beside = "nothing",
) -> Engine:
    """The engine that ``config`` names, where ``settled`` has left its section, for the model at
    ``path``.

    ``max_len`` bounds prompt plus response; ``max_tokens`` a batch of transformers' sampling.
    ``device`` is transformers': vLLM finds its own. ``index`` numbers the engines of a run, and
    ``beside`` says what else is on its GPU.
    """
    if config.vllm.engine == "vllm":
        return _vllm_engine(path, config, max_len, transport, index, beside)
    return HfEngine(
        path,
        dtype=config.ds.dtype,
        device=resolve_device(device),
        max_model_len=max_len,
        attn_implementation=config.ds.attn_implementation,
        max_tokens=max_tokens,
    )


def _vllm_engine(
    path: str,
    config: RunConfig,
    max_len: int,
    transport: Transport,
    index: int,
    beside: Beside,
) -> Engine:
    from rto.rollout.vllm.engine import VllmEngine

    vllm = config.vllm
    return VllmEngine(
        path,
        dtype=config.ds.dtype,
        max_model_len=max_len,
        seed=config.train.seed,
        tensor_parallel_size=vllm.tensor_parallel_size,
        gpu_memory_utilization=vllm.memory_share(beside),
        enforce_eager=vllm.enforce_eager,
        enable_prefix_caching=vllm.enable_prefix_caching,
        enable_sleep=vllm.enable_sleep,
        cpu_kvcache_gib=vllm.cpu_kvcache_gib,
        weight_transfer=transport,
        engine_index=index,
    )


def alone(config: RunConfig, engine: EngineName) -> RunConfig:
    """The configuration of an engine that samples once, in this process: on one GPU, with no
    prompt read twice and no trainer to make room for."""
    vllm = replace(
        config.vllm,
        engine=engine,
        tensor_parallel_size=1,
        enable_prefix_caching=False,
        enable_sleep=False,
    )
    return replace(config, vllm=vllm)


def settled(vllm: VLLM, path: str, *, encoder_decoder: bool, remote: bool = False) -> VLLM:
    """The section with ``engine`` decided for the model at ``path``; says where vLLM is missed.

    ``remote``: a cluster that was there before samples, which is taken to have vLLM.

    Raises:
        UserError: vLLM is asked for and not installed, or does not serve the model.
    """
    chosen = vllm.engine
    if chosen == "auto":
        served = not encoder_decoder and (remote or is_installed("vllm"))
        chosen = "vllm" if served else "transformers"
        if not served and not encoder_decoder:
            _tell_missed()
    elif chosen == "vllm":
        if encoder_decoder:
            raise UserError(
                f"vllm.engine is vllm and {path} is an encoder-decoder model, which vLLM does not "
                "serve: use auto or transformers"
            )
        if not remote:
            require_vllm("vllm.engine vllm")
    return replace(vllm, engine=chosen)


@functools.cache
def _tell_missed() -> None:
    """Once in a process, which may settle this for several runs."""
    print(
        "vLLM is not installed, so transformers samples, which takes longer with larger models: "
        f"{INSTALL_VLLM}"
    )
