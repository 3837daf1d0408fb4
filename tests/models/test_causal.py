from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from naive_logprobs import batch, naive
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from rto.models.causal import CausalPolicy
from rto.models.load import load_language_model, without_dropout
from rto.models.policy import unwrapped


@pytest.fixture
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return unwrapped(
        load_language_model(str(tiny_model_dir), dtype=torch.float32, attn_implementation="sdpa")
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_size", [3, 1024])
def test_equals_the_full_forward(
    model: PreTrainedModel, temperature: float, chunk_size: int
) -> None:
    tokens = batch()
    got = CausalPolicy(model)(tokens, temperature=temperature, chunk_size=chunk_size).logprobs
    torch.testing.assert_close(got, naive(model, tokens, temperature), atol=2e-5, rtol=1e-4)
    assert got.dtype == torch.float32
    assert (got[~tokens.response_mask] == 0).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_the_full_forward(
    tiny_model_dir: Path, model: PreTrainedModel, checkpointing: bool
) -> None:
    tokens = batch()
    weights = torch.randn(tokens.response_mask.shape, generator=torch.manual_seed(0))
    (naive(model, tokens) * weights).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    other = load_language_model(
        str(tiny_model_dir),
        dtype=torch.float32,
        attn_implementation="sdpa",
        gradient_checkpointing=checkpointing,
    )
    policy = CausalPolicy(other).train()
    (policy(tokens, chunk_size=3).logprobs * weights).sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_padding_columns_and_row_order_do_not_matter(model: PreTrainedModel) -> None:
    policy, tokens = CausalPolicy(model), batch()
    expected = policy(tokens).logprobs
    ones = torch.ones(3, 4, dtype=torch.long)
    wide = dataclasses.replace(
        tokens,
        prompt_ids=torch.cat([ones * 40, tokens.prompt_ids], 1),
        prompt_mask=torch.cat([ones == 0, tokens.prompt_mask], 1),
        response_ids=torch.cat([tokens.response_ids, ones * 41], 1),
        response_mask=torch.cat([tokens.response_mask, ones == 0], 1),
        sampler_logprobs=torch.zeros(3, 9),
    )
    assert torch.equal(policy(wide).logprobs[:, :5], expected)
    assert (policy(wide).logprobs[:, 5:] == 0).all()
    order = [2, 0, 1]
    torch.testing.assert_close(policy(tokens.take(order)).logprobs, expected[order])


def test_rows_alone_equal_rows_together(model: PreTrainedModel) -> None:
    policy, tokens = CausalPolicy(model), batch()
    together = policy(tokens).logprobs
    for row in range(3):
        torch.testing.assert_close(policy(tokens.take([row])).logprobs[0], together[row])


def test_the_padding_token_is_never_read(model: PreTrainedModel) -> None:
    expected = CausalPolicy(model)(batch()).logprobs
    dict(model.named_parameters())["model.embed_tokens.weight"].data[0] = torch.nan
    policy = CausalPolicy(model)
    got = policy(batch()).logprobs
    assert torch.equal(got, expected)
    got.sum().backward()
    grads = [p.grad for n, p in model.named_parameters() if "embed" not in n and "lm_head" not in n]
    assert all(g is not None and g.isfinite().all() for g in grads)


def test_an_empty_prompt_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        CausalPolicy(model)(batch([[1, 5], []], [[6], [7]]))


def small(config: type, **extra: object) -> object:
    common = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    shape = {"vocab_size": 64, "intermediate_size": 64, "num_key_value_heads": 2}
    return config(**common, **shape, pad_token_id=0, bos_token_id=1, eos_token_id=2, **extra)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Gemma2ForCausalLM(small(Gemma2Config, head_dim=8, final_logit_softcapping=0.05)),
        lambda: GraniteForCausalLM(small(GraniteConfig, logits_scaling=4.0)),
        lambda: CohereForCausalLM(small(CohereConfig, logit_scale=0.25)),
        lambda: GPT2LMHeadModel(
            without_dropout(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))
        ),
    ],
    ids=["gemma2 caps", "granite divides", "cohere multiplies", "gpt2 absolute positions"],
)
def test_other_families_equal_their_own_forward(build) -> None:
    torch.manual_seed(0)
    model = build().eval()
    for p in model.parameters():
        p.data.mul_(3)
    tokens = batch()
    torch.testing.assert_close(
        CausalPolicy(model)(tokens).logprobs, naive(model, tokens), atol=2e-5, rtol=1e-4
    )


def test_a_value_without_a_head_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="built without a value head"):
        CausalPolicy(model)(batch(), with_value=True)
