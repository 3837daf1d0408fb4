"""The vLLM engine: sampling, prompt log-probs, and weight updates that can be checked.

Only ``rto.rollout.vllm`` imports vLLM. The engine runs in the process that builds it. Weights
arrive through Ray's object store (``load_weights``) or through vLLM's own weight transfer over NCCL
or CUDA IPC (the four methods that vLLM's ``RayVLLMWeightSyncClient`` calls). On each path
``WeightProof`` records inside each worker what arrived and where it was assigned.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from vllm import LLM, CompletionOutput, RequestOutput, SamplingParams, TokensPrompt
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.logprobs import FlatLogprobs
from vllm.platforms import current_platform

from rto.errors import ProofError, UserError
from rto.models.continuation import Continuation
from rto.rollout.engine import Transport
from rto.rollout.requests import Pairs, Sample, SampleRequest, Sampling, in_parts
from rto.rollout.vllm.weights import WeightProof
from rto.types import logprob_array, token_array
from rto.weights.accepted_version import ProvenVersion
from rto.weights.digest import WeightReceipt, first_difference

_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


class VllmEngine:
    """An in-process vLLM engine that samples only from weights that its caller has accepted.

    A weight update leaves the engine without a version. ``receipt`` says what arrived. Once the
    caller has compared it, ``accept`` sets the version. Before the first update the caller accepts
    what vLLM read from ``model_path`` without a receipt.
    """

    def __init__(
        self,
        model_path: str,
        *,
        dtype: Literal["bf16", "fp32"],
        max_model_len: int,
        seed: int,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        enable_prefix_caching: bool = False,
        enable_sleep: bool = False,
        cpu_kvcache_gib: int = 1,
        weight_transfer: Transport = "object_store",
        engine_index: int = 0,
    ) -> None:
        """On CPU the engine is always eager and never sleeps.

        ``processed_logprobs`` are those of the distribution sampled from: after the temperature
        and, with top_p < 1, renormalised over the nucleus.
        ``engine_index`` numbers the engines of a run: each has its own ranks in the NCCL group.
        """
        if weight_transfer == "object_store" and tensor_parallel_size > 1:
            raise UserError(
                f"vllm.sync_backend object_store with vllm.tensor_parallel_size "
                f"{tensor_parallel_size}: use nccl (separate GPUs) or ipc (shared GPUs)"
            )
        _prepare_environment()
        on_cpu = current_platform.is_cpu()
        host = weight_transfer == "object_store"
        transfer = None if host else WeightTransferConfig(backend=weight_transfer)
        self._can_sleep = enable_sleep and not on_cpu
        self._first_worker = engine_index * tensor_parallel_size
        self._proven = ProvenVersion()
        self._llm = LLM(
            model_path,
            dtype=_DTYPES[dtype],  # pyright: ignore[reportArgumentType]
            max_model_len=max_model_len,
            seed=seed,
            tensor_parallel_size=tensor_parallel_size,
            distributed_executor_backend="mp" if tensor_parallel_size > 1 else "uni",
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_memory_bytes=cpu_kvcache_gib * 2**30 if on_cpu else None,
            enforce_eager=enforce_eager or on_cpu,
            enable_prefix_caching=enable_prefix_caching,
            enable_sleep_mode=self._can_sleep,
            logprobs_mode="processed_logprobs",
            worker_extension_cls=f"{WeightProof.__module__}.{WeightProof.__qualname__}",
            weight_transfer_config=transfer,
            use_tqdm_on_load=False,
        )
        self._continuation = Continuation(cast(PreTrainedTokenizerBase, self._llm.get_tokenizer()))

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int
    ) -> list[Sample]:
        """One sample per request, in order. A stop token of the model ends a sample and is kept.

        Raises:
            ProofError: the engine does not hold ``policy_version``.
        """
        (samples,) = self.generate_parts([requests], sampling, policy_version)
        return samples

    def generate_parts(
        self, parts: Sequence[Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> Iterator[list[Sample]]:
        """As ``generate``. The requests of all parts are with the scheduler from the start."""
        self._proven.require(policy_version)
        requests = [request for part in parts for request in part]
        return in_parts(self._finished(requests, sampling), [len(part) for part in parts])

    def _finished(
        self, requests: Sequence[SampleRequest], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        """Samples with the numbers of their requests, as they end."""
        engine = self._llm.llm_engine
        names = self._llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(r.prompt_token_ids)) for r in requests],
            [_sampling_params(sampling, seed=r.seed) for r in requests],
            use_tqdm=False,
        )
        # vLLM adds random letters to the number by which it names a request; outputs have none.
        rows = {name.split("-")[0]: row for row, name in enumerate(names)}
        try:
            while engine.has_unfinished_requests():
                for output in _ended(engine.step()):
                    yield rows[output.request_id], self._sample(output.outputs[0], sampling)
        finally:
            if engine.has_unfinished_requests():
                engine.abort_request(names, internal=True)

    def response_logprobs(self, pairs: Pairs) -> list[list[float]]:
        """Log-prob, at temperature 1, of each token of each (prompt, response)'s response.

        Computed anew: vLLM reads no cached prefix where prompt log-probs are asked for. Open to
        unproven weights, because it is how they are proven. Needs room for one more token.
        """
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        prompts = [TokensPrompt(prompt_token_ids=[*prompt, *answer]) for prompt, answer in pairs]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        found = [cast(FlatLogprobs, output.prompt_logprobs).logprobs for output in outputs]
        return [row[-len(answer) :] for row, (_, answer) in zip(found, pairs, strict=True)]

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take all weights by their checkpoint names from host memory."""
        self._begin_update()
        self._llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(weights.items())}
        )
        self._end_update()

    def init_weight_transfer_engine(self, request: WeightTransferInitRequest) -> None:
        """Join the trainer's transfer group; each engine behind those of lower index.

        vLLM sends one rank offset to all engines, which fits a single engine only.
        """
        info = dict(request.init_info)
        if "rank_offset" in info:
            info["rank_offset"] += self._first_worker
        self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=info))

    def start_weight_update(self) -> None:
        self._begin_update()
        self._llm.start_weight_update()

    def update_weights(self, request: WeightTransferUpdateRequest) -> None:
        self._llm.update_weights(request)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._llm.finish_weight_update(weight_version)
        self._end_update()

    def receipt(self) -> WeightReceipt:
        """What the last update brought, the same on every worker.

        Raises:
            ProofError: two workers received different tensors.
        """
        receipts: list[WeightReceipt] = self._llm.collective_rpc("weight_receipt")
        for rank, other in enumerate(receipts[1:], start=1):
            difference = first_difference(receipts[0].digests, other.digests)
            if difference is not None:
                raise ProofError(f"weight sync: engine workers 0 and {rank} differ: {difference}")
        self._proven.receipt_read()
        unassigned = {name for receipt in receipts for name in receipt.unassigned}
        return WeightReceipt(receipts[0].digests, tuple(sorted(unassigned)))

    def accept(self, version: int) -> None:
        """Accept the weights held now as policy ``version``, which the caller has verified."""
        self._proven.accept(version)

    def keep(self, version: int) -> bool:
        """Whether the weights accepted as ``version`` are here still; cached prefixes go."""
        held = self._proven.holds(version)
        if held:
            self._llm.reset_prefix_cache()
        return held

    def sleep(self) -> None:
        """Give the GPU memory back: weights and KV cache are dropped, on CPU nothing happens.

        Weights are not copied to the host, since the next thing a policy engine gets after its
        rollouts is new weights. It samples again only after ``wake``, an update and ``accept``.
        """
        if self._can_sleep:
            self._proven.weights_change()
            self._llm.sleep(level=2)

    def wake(self, tag: Literal["weights", "kv_cache"] | None = None) -> None:
        """Take the memory back; by ``tag``, weights before an update and the KV cache after it."""
        if self._can_sleep:
            self._llm.wake_up(None if tag is None else [tag])

    def _sample(self, completion: CompletionOutput, sampling: Sampling) -> Sample:
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with '{completion.finish_reason}'")
        token_ids = list(completion.token_ids)
        return Sample(
            token_ids=token_array(token_ids),
            logprobs=logprob_array(cast(FlatLogprobs, completion.logprobs).logprobs),
            text=sampling.until_stop(self._continuation.decode(token_ids)),
            finished=completion.finish_reason == "stop",
        )

    def _begin_update(self) -> None:
        self._proven.weights_change()
        self._llm.collective_rpc("record_weights")

    def _end_update(self) -> None:
        self._llm.collective_rpc("settle_weights")
        self._llm.reset_prefix_cache()


def _ended(outputs: Iterable[object]) -> Iterator[RequestOutput]:
    for output in outputs:
        if isinstance(output, RequestOutput) and output.finished:
            yield output


def _prepare_environment() -> None:
    """What vLLM reads from the environment, set before it builds an engine."""
    if "VLLM_ALLOW_INSECURE_SERIALIZATION" in os.environ:
        raise UserError("VLLM_ALLOW_INSECURE_SERIALIZATION is set: unset it, nothing here needs it")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_HOST_IP"] = "127.0.0.1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(level)


def _sampling_params(sampling: Sampling, *, seed: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        seed=seed,
        logprobs=0,
        flat_logprobs=True,
        detokenize=bool(sampling.stop),
        skip_clone=True,
    )
