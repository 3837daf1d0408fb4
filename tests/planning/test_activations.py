"""Bytes of forwards and backwards, each against its own arithmetic written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from llama_shapes import GIB, LLAMA_1B, LLAMA_8B, whole, zero
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rto.data.examples import Example, collate_groups
from rto.functional.logprobs import HEAD_CHUNK as CHUNK_OF_THE_HEAD
from rto.models.causal import CausalPolicy
from rto.planning.activations import HEAD_CHUNK, backward, forward, layer_kept, layer_passing
from rto.types import TokenBatch

TOKENS = 16384
VOCABULARY = 128256


def test_the_chunk_is_the_one_that_is_computed_with() -> None:
    assert HEAD_CHUNK == CHUNK_OF_THE_HEAD


def test_what_autograd_keeps_of_a_token_in_a_layer_of_llama_3_8b() -> None:
    # bf16. Norms: fp32 input and two bf16 states, twice. Attention: q, k, v, output, its input
    # again, a log-sum per head. MLP: four vectors.
    norms = 2 * (4 + 2 + 2) * 4096
    attention = 2 * (3 * 4096 + 2 * 1024) + 4 * 32
    mlp = 4 * 2 * 14336
    assert layer_kept(LLAMA_8B, 2) == norms + attention + mlp == 209_024
    # fp32: the norm reads the residual state itself.
    assert layer_kept(LLAMA_8B, 4) == 6 * 4 * 4096 + 4 * (3 * 4096 + 2 * 1024) + 128 + 4 * 4 * 14336


def test_a_packed_llama_keeps_that_much() -> None:
    """Counted by autograd's own hooks, in fp32 on a small model."""
    rows = [[Example((1, 2), tuple(range(3, 41)), True)] for _ in range(3)]
    tokens = collate_groups(rows, pad_token_id=0)
    shape = replace(
        LLAMA_8B, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=160, layers=1
    )
    measured = (kept_by_autograd(3, tokens) - kept_by_autograd(1, tokens)) / 2 / (3 * 40)
    assert layer_kept(shape, 4) == pytest.approx(measured, rel=0.02)


def kept_by_autograd(layers: int, tokens: TokenBatch) -> int:
    """Bytes of all storages that a forward of a model of so many layers keeps, but its weights."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=160, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    policy = CausalPolicy(LlamaForCausalLM(config))
    assert policy.packs
    weights = {each.data_ptr() for each in policy.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in weights:
            kept[where] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = policy.train().states(tokens)
    assert states.before.states.requires_grad
    return sum(each.untyped_storage().nbytes() for each in kept.values())


def test_checkpoints_of_8b_at_the_default_budget() -> None:
    parts = backward(whole(LLAMA_8B, 8), zero(2), TOKENS, device="cuda")
    assert parts["activations"] == 32 * 4096 * 2 * TOKENS
    assert parts["activations"] / GIB == 4.0
    # The head's moment is the larger one: logits in bf16, their fp32 copy and its log-softmax, of
    # 4,096 tokens, beside the gradient of the head so far.
    assert parts["logits"] == 10 * 4096 * VOCABULARY + 2 * VOCABULARY * 4096
    assert parts["logits"] / GIB == pytest.approx(5.9, abs=0.05)


def test_one_chunk_peaks_where_its_gradients_meet() -> None:
    """No chunk is computed again; two gradients of the head are 4 bytes of it, as chunks add up."""
    parts = backward(whole(LLAMA_8B, 8), zero(2), 1024, device="cuda")
    assert parts["logits"] == max(
        10 * 1024 * VOCABULARY, 6 * 1024 * VOCABULARY + 4 * VOCABULARY * 4096
    )


def test_without_checkpointing_all_layers_keep_theirs() -> None:
    parts = backward(whole(LLAMA_8B, 8, checkpointing=False), zero(2), 4096, device="cuda")
    assert parts["activations"] == 32 * 209_024 * 4096
    assert parts["activations"] / GIB == pytest.approx(25.5, abs=0.05)


def test_a_critic_has_no_logits() -> None:
    parts = backward(whole(LLAMA_1B, 8), zero(2), TOKENS, device="cuda")
    moment = layer_kept(LLAMA_1B, 2) + 2 * 8192 * 2
    assert parts == {"activations": (16 * 2048 * 2 + moment) * TOKENS}


def test_the_entropy_and_a_reference_take_logits_of_their_own() -> None:
    model = whole(LLAMA_8B, 8)
    plain = backward(model, zero(2), TOKENS, device="cuda")["logits"]
    entropy = backward(model, zero(2), TOKENS, device="cuda", entropy=True)["logits"]
    with_reference = replace(model, reference=LLAMA_8B)
    kl = backward(with_reference, zero(2), TOKENS, device="cuda")["logits"]
    assert entropy - plain == 4 * 4096 * VOCABULARY
    assert kl - plain == 12 * 4096 * VOCABULARY


def test_adapters_give_the_head_no_gradient() -> None:
    model = replace(whole(LLAMA_8B, 1), params=1000)
    parts = backward(model, zero(2, lora=64), TOKENS, device="cuda")
    assert parts["logits"] == 10 * 4096 * VOCABULARY


def test_a_forward_is_a_layer_or_the_head() -> None:
    assert layer_passing(LLAMA_8B, 2) == 2 * (3 * 14336 + 3 * 4096)
    critic = forward(LLAMA_1B, zero(2), TOKENS, device="cuda")
    assert critic == {"activations": 2 * (3 * 8192 + 3 * 2048) * TOKENS}
    policy = forward(LLAMA_8B, zero(2), TOKENS, device="cuda")
    assert policy == {
        "activations": 2 * 4096 * TOKENS,
        "logits": 10 * 4096 * VOCABULARY,
    }
