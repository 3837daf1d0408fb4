"""An engine's share of a GPU, each part against its own arithmetic written out."""

from __future__ import annotations

import pytest
from llama_shapes import GIB, LLAMA_8B

from rto.planning.engine import GRAPHS, EngineMemory, transformers_parts

CARD = 79.1 * GIB


def test_keys_and_values_of_a_token() -> None:
    # Two of 32 layers x 8 heads x 128 in bf16; a half of that on each of two GPUs; on 16 GPUs one
    # head is on two of them.
    assert EngineMemory(LLAMA_8B, 2, 1).token_bytes == 2 * 32 * 8 * 128 * 2 == 131_072
    assert EngineMemory(LLAMA_8B, 2, 2).token_bytes == 131_072 / 2
    assert EngineMemory(LLAMA_8B, 2, 16).token_bytes == 131_072 / 8


def test_the_cache_of_8b_on_half_of_an_a100() -> None:
    engine = EngineMemory(LLAMA_8B, 2, 1)
    working = (3 * 14336 + 4 * 4096) * 2 * 8192 + GRAPHS
    assert engine.working == working
    assert engine.cache(CARD / 2) == pytest.approx(CARD / 2 - 2 * 8_030_261_248 - working)
    assert engine.cache_tokens(CARD / 2) == pytest.approx(188_000, rel=0.01)


def test_a_share_below_the_weights_leaves_no_cache() -> None:
    engine = EngineMemory(LLAMA_8B, 2, 1)
    assert engine.cache_tokens(15 * GIB) == 0
    assert engine.parts(15 * GIB)["KV cache"] == 0


def test_newer_cards_and_eager_engines() -> None:
    large = EngineMemory(LLAMA_8B, 2, 1, large=True, eager=True)
    # 1,024 responses: the sampler's three fp32 vectors of the vocabulary; a step of 16,384 tokens.
    assert large.working == max(3 * 4 * 1024 * 128256, (3 * 14336 + 4 * 4096) * 2 * 16384)


def test_transformers_has_one_more_layer_of_cache_twice() -> None:
    parts = transformers_parts(LLAMA_8B, 2, 1000)
    assert parts == {"weights": 2 * LLAMA_8B.params, "KV cache": 2 * 1024 * 2 * 1000 * 34}
