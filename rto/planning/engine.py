"""What a sampling engine does with its share of a GPU, as vLLM 0.32 divides it."""

from __future__ import annotations

from dataclasses import dataclass

from rto.planning.shape import ModelShape
from rto.planning.states import Parts

GIB = 1024**3
GRAPHS = 0.7 * GIB
"""CUDA graphs and their workspaces: taken to be so, not measured."""
BATCHED_TOKENS, SEQUENCES = 8192, 256
"""vLLM's defaults on an A100: tokens of one step, and responses at a time."""
LARGE_BATCHED_TOKENS, LARGE_SEQUENCES = 16384, 1024
"""On other cards of 70 GiB or more."""


@dataclass(frozen=True)
class EngineMemory:
    """One GPU of an engine that spans ``tp`` of them. ``size``: bytes of a weight."""

    shape: ModelShape
    size: int
    tp: int
    eager: bool = False
    large: bool = False
    """Whether the card gets vLLM's larger defaults."""

    @property
    def weights(self) -> float:
        return self.shape.params * self.size / self.tp

    @property
    def working(self) -> float:
        """The peak of vLLM's profiling step beside the weights: the widest layer of its largest
        step, and the sampler over all responses, in fp32 and several times."""
        tokens, rows = (
            (LARGE_BATCHED_TOKENS, LARGE_SEQUENCES) if self.large else (BATCHED_TOKENS, SEQUENCES)
        )
        shape = self.shape
        layer = (3 * shape.intermediate / self.tp + 4 * shape.hidden) * self.size * tokens
        sampler = 3 * 4 * rows * shape.vocab
        return max(layer, sampler) + (0 if self.eager else GRAPHS)

    @property
    def token_bytes(self) -> float:
        """Keys and values of one token; a head of them is on one GPU, and copied where there are
        more GPUs than heads."""
        kv = max(self.shape.kv_heads / self.tp, 1) * self.shape.head_dim
        return 2 * self.shape.layers * kv * self.size

    def cache(self, room: float) -> float:
        """Bytes that a share of ``room`` leaves for keys and values; below 0 it has none."""
        return room - self.weights - self.working

    def cache_tokens(self, room: float) -> int:
        return max(0, int(self.cache(room) / self.token_bytes))

    def parts(self, room: float) -> Parts:
        """The share, by what it is for."""
        return {
            "weights": self.weights,
            "working memory": self.working,
            "KV cache": max(0.0, self.cache(room)),
        }


def transformers_parts(shape: ModelShape, size: int, tokens: int) -> Parts:
    """transformers' sampling of a batch of ``tokens``, prompts and longest responses: its cache
    grows by concatenation, so a layer's is there twice; the logits of the last token of each row
    are few."""
    layers = max(1, shape.layers)
    cache = 2 * shape.kv_width * size * tokens * (layers + 2)
    return {"weights": shape.params * size, "KV cache": cache}
