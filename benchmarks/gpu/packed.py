"""Packed attention against padded rows and torch's varlen attention: is it right, is it fast."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from benchmarks.gpu.logprobs import relative_error
from benchmarks.gpu.models import chat_lengths, model_folder, random_rows, shape
from benchmarks.gpu.place import Place, Row, growth_gib, needs_cuda, script, seconds
from rto.batching.microbatch import plan_microbatches
from rto.models.causal import CausalPolicy
from rto.models.decoder import ATTENTION
from rto.models.device import dtype_of
from rto.models.families import load_policy
from rto.types import TokenBatch

TOKENS, LONGEST = 16_384, 2048
PER_PROMPT = 4
WAYS = ("packed", "padded", "varlen")
VARLEN = "gpu_check_varlen"
COMPARED = ("embed_tokens", "layers.0.self_attn.q_proj", "layers.1.mlp.down_proj")
"""Weights whose gradients are compared."""
WORSE = 2.0
"""So much larger than that of padded rows may the error of packed ones be: both round in bf16."""
ROUNDING = 1e-5
"""What passes as rounding in fp32."""
Micros = Sequence[Sequence[int]]
"""The rows of each forward."""


@dataclass(frozen=True)
class Read:
    """What one way of reading the rows gives: log-probs [B, T], gradients by weight."""

    logprobs: Tensor
    gradients: dict[str, Tensor]

    def gap(self, other: Read, mask: Tensor) -> float:
        return float((self.logprobs - other.logprobs).abs()[mask].mean())

    def gradient_error(self, exact: Read) -> float:
        """The largest of the compared weights'."""
        return max(
            relative_error(self.gradients[name], expected)
            for name, expected in exact.gradients.items()
        )


def measure(place: Place, case: str) -> Iterator[Row]:
    policy = load(place)
    batch = rows(place, case).to(place.device)
    exact = read_exactly(policy, batch)
    seen: dict[str, dict[str, float]] = {}
    for way in WAYS:
        name, why = f"{case}: {way}", not_here(place, case, way)
        if why:
            yield Row(name, skipped=why)
            continue
        micros = prepare(policy, batch, way)
        seen[way] = figures_of(place, policy, batch, micros, exact)
        ratio = seen[way]["forward and backward s"] / seen["packed"]["forward and backward s"]
        yield Row(name, {**seen[way], "over packed": ratio})
    check_exact(seen["packed"]["mean gap"], seen["padded"]["mean gap"])


def not_here(place: Place, case: str, way: str) -> str:
    """Why this way cannot read these rows; empty where it can."""
    if way != "varlen":
        return ""
    return "takes rows that share no prompt" if case == "shared-prompts" else needs_cuda(place)


def figures_of(
    place: Place, policy: CausalPolicy, batch: TokenBatch, micros: Micros, exact: Read
) -> dict[str, float]:
    def both() -> Read:
        return read(policy, batch, micros)

    def forward() -> None:
        with torch.no_grad():
            for _ in _each(policy, batch, micros):
                continue

    found = both()
    figures = {
        "forwards": len(micros),
        "mean gap": found.gap(exact, batch.response_mask),
        "gradient error": found.gradient_error(exact),
        "forward s": seconds(place, forward),
        "forward and backward s": seconds(place, both),
    }
    del found
    policy.zero_grad(set_to_none=True)
    return {**figures, "extra GiB": growth_gib(place, both)}


def check_exact(packed: float, padded: float) -> None:
    """
    Raises:
        ValueError: packed rows are less exact than rounding in other places explains.
    """
    if packed > WORSE * padded + ROUNDING:
        raise ValueError(
            f"the log-probs of packed rows differ by {packed:.3g} from those of rows alone in fp32,"
            f" those of padded rows by {padded:.3g}"
        )


def load(place: Place) -> CausalPolicy:
    """
    Raises:
        ValueError: the decoder has found that it cannot read this model's rows packed.
    """
    policy = load_policy(
        str(model_folder(place, "1b")),
        dtype=dtype_of(place.dtype),
        attn_implementation="sdpa",
        device=torch.device(place.device),
    )
    assert isinstance(policy, CausalPolicy)
    if not policy.packs:
        raise ValueError("packed rows gave other states than padded ones when the model was loaded")
    return policy


def rows(place: Place, case: str) -> TokenBatch:
    total, longest = place.scaled(TOKENS), max(16, place.scaled(LONGEST))
    vocabulary = shape(place, "1b").vocab_size
    if case == "own-prompts":
        return random_rows(chat_lengths(total, longest=longest), vocabulary=vocabulary)
    each = longest // 3
    count = max(1, total // (each * PER_PROMPT))
    return random_rows([each] * PER_PROMPT * count, vocabulary=vocabulary, per_prompt=PER_PROMPT)


def prepare(policy: CausalPolicy, batch: TokenBatch, way: str) -> list[list[int]]:
    """Set the policy to this way of reading; the micro-batches that it then reads."""
    policy.packs = policy._decoder.packs = way != "padded"
    if way == "varlen":
        AttentionInterface.register(VARLEN, varlen(batch.lengths))
        AttentionMaskInterface.register(VARLEN, sdpa_mask)
        policy.model.set_attn_implementation(VARLEN)
        return [list(range(len(batch)))]
    policy.model.set_attn_implementation(ATTENTION)
    return plan_microbatches(
        batch.lengths.tolist(),
        max_tokens=int(batch.lengths.sum()),
        packs=policy.packs,
        groups=batch.group.tolist(),
    )


def read_exactly(policy: CausalPolicy, batch: TokenBatch) -> Read:
    """In fp32, each row alone."""
    exact = copy.deepcopy(policy).float()
    exact._decoder.packs = False
    return read(exact, batch, [[row] for row in range(len(batch))])


def read(policy: CausalPolicy, batch: TokenBatch, micros: Micros) -> Read:
    """Forward and backward of the log-probs' mean, micro-batch by micro-batch."""
    policy.zero_grad(set_to_none=True)
    logprobs = torch.zeros(batch.response_mask.shape, device=batch.response_ids.device)
    for micro, found in _each(policy, batch, micros):
        (found.sum() / batch.response_mask.sum()).backward()
        logprobs[micro, : found.shape[1]] = found.detach()
    gradients = {
        name: weight.grad.float()
        for name, weight in policy.named_parameters()
        if weight.grad is not None and any(part in name for part in COMPARED)
    }
    return Read(logprobs, gradients)


def _each(
    policy: CausalPolicy, batch: TokenBatch, micros: Micros
) -> Iterator[tuple[list[int], Tensor]]:
    """Each micro-batch's rows and log-probs [b, t]."""
    for micro in micros:
        index = torch.tensor(micro, device=batch.group.device)
        yield list(micro), policy(batch.take(index).trim()).logprobs


def varlen(lengths: Tensor) -> Callable[..., tuple[Tensor, None]]:
    """Attention of packed rows of these lengths [B], which share no prompt, as transformers calls
    it: query [1, heads, N, D] -> [1, N, heads, D]."""
    longest = int(lengths.max())
    ends = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        **options: object,
    ) -> tuple[Tensor, None]:
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        output = varlen_attn(
            q,
            k,
            v,
            ends,
            ends,
            longest,
            longest,
            scale=scaling,
            window_size=(-1, 0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        assert isinstance(output, Tensor)
        return output[None], None

    return attention


if __name__ == "__main__":
    script(measure)
