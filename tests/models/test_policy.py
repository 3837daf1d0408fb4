"""What all policies share: entropy, the KL to a reference, adapters that step aside, a value."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from naive_logprobs import PROMPTS, batch, naive, naive_all
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from rto.models.causal import CausalPolicy
from rto.models.load import load_language_model
from rto.models.policy import unwrapped
from rto.sections.runtime import Lora
from rto.types import TokenBatch


def naive_kl(
    model: PreTrainedModel, reference: PreTrainedModel, tokens: TokenBatch, temperature: float
) -> Tensor:
    """KL(reference || model) over the vocabulary."""
    p, q = (naive_all(m, tokens, temperature) for m in (model, reference))
    kl = torch.nn.functional.kl_div(p, q, log_target=True, reduction="none").sum(-1)
    return kl.masked_fill(~tokens.response_mask, 0.0)


@pytest.fixture
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return unwrapped(
        load_language_model(str(tiny_model_dir), dtype=torch.float32, attn_implementation="sdpa")
    )


def test_entropy_is_that_of_the_predicting_distribution(model: PreTrainedModel) -> None:
    tokens = batch([[1, 10, 11]], [[12, 13]])
    entropy = CausalPolicy(model)(tokens, with_entropy=True).entropy
    logprobs = model(torch.tensor([[1, 10, 11, 12, 13]])).logits.log_softmax(-1)[0, 2:4]
    torch.testing.assert_close(entropy[0], -(logprobs.exp() * logprobs).sum(-1))


def test_adapters_change_the_policy_and_step_aside_for_the_reference(
    tiny_model_dir: Path, model: PreTrainedModel
) -> None:
    adapted = load_language_model(
        str(tiny_model_dir),
        dtype=torch.float32,
        attn_implementation="sdpa",
        lora=Lora(rank=4),
        gradient_checkpointing=True,
    )
    policy, tokens = CausalPolicy(adapted).train(), batch()
    expected = naive(model, tokens)
    policy(tokens).logprobs.sum().backward()
    grads = {n: p.grad for n, p in policy.named_parameters() if p.requires_grad}
    assert grads
    assert all("lora_" in name for name in grads)
    assert any(g is not None and g.abs().sum() > 0 for g in grads.values())
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert (policy(tokens).logprobs - expected).abs().max() > 0.01
    with policy.adapters_disabled():
        torch.testing.assert_close(policy(tokens).logprobs, expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="no adapters"):
        CausalPolicy(model).adapters_disabled()


def another(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its weights moved a little."""
    other = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(7)
    for p in other.parameters():
        p.data.add_(torch.randn(p.shape, generator=rng), alpha=0.05)
    return other


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_size", [3, 1024])
def test_reference_kl_equals_that_of_the_full_logits_in_value_and_gradient(
    model: PreTrainedModel, temperature: float, chunk_size: int
) -> None:
    tokens, other = batch(), another(model).requires_grad_(False)
    weights = torch.randn(tokens.response_mask.shape, generator=torch.manual_seed(0))
    want = naive_kl(model, other, tokens, temperature)
    (want * weights).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    output = CausalPolicy(model).train()(
        tokens, temperature=temperature, chunk_size=chunk_size, reference=CausalPolicy(other).eval()
    )
    assert output.reference_kl.max() > 0.01
    torch.testing.assert_close(output.reference_kl, want, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(output.logprobs, naive(model, tokens, temperature))
    (output.reference_kl * weights).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-4, rtol=1e-3)


def test_reference_kl_comes_only_when_asked_for(model: PreTrainedModel) -> None:
    policy, tokens = CausalPolicy(model), batch()
    output = policy(tokens)
    assert output.reference_kl is None
    assert output.value is None
    same = policy(tokens, reference=CausalPolicy(copy.deepcopy(model)), with_entropy=True)
    assert torch.equal(same.logprobs, output.logprobs)
    torch.testing.assert_close(same.reference_kl, torch.zeros(3, 5))
    assert (same.entropy[tokens.response_mask] > 0).all()


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,lm_head"])
def test_a_policy_with_adapters_is_its_own_reference(
    tiny_model_dir: Path, model: PreTrainedModel, targets: str
) -> None:
    adapted = load_language_model(
        str(tiny_model_dir),
        dtype=torch.float32,
        attn_implementation="sdpa",
        lora=Lora(rank=4, target_modules=targets),
        gradient_checkpointing=True,
    )
    policy, tokens = CausalPolicy(adapted).train(), batch()
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.manual_seed(3))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    own = policy(tokens, reference=policy, chunk_size=3)
    frozen = policy(tokens, reference=CausalPolicy(model), chunk_size=3)
    assert own.reference_kl.max() > 0.01
    torch.testing.assert_close(own.reference_kl, frozen.reference_kl, atol=2e-5, rtol=1e-4)
    assert torch.equal(own.logprobs, frozen.logprobs)
    grads = []
    for output in (own, frozen):
        policy.zero_grad()
        output.reference_kl.sum().backward()
        grads.append({name: p.grad for name, p in policy.named_parameters() if name in trained})
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trained
    assert all("lora_" in name for name in trained)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4)


def test_a_policy_without_adapters_is_not_its_own_reference(model: PreTrainedModel) -> None:
    policy = CausalPolicy(model)
    with pytest.raises(ValueError, match="no adapters"):
        policy(batch(), reference=policy)


def test_value_is_read_where_the_prompt_ends(model: PreTrainedModel) -> None:
    policy, tokens = CausalPolicy(model, value_head=True), batch()
    assert isinstance(policy.value_head, torch.nn.Sequential)
    assert [tuple(p.shape) for p in policy.value_head.parameters()] == [
        (512, 32),
        (512,),
        (1, 512),
        (1,),
    ]
    value = policy(tokens, with_value=True).value
    assert (value.shape, value.dtype) == ((3,), torch.float32)
    weight, bias, out_weight, out_bias = policy.value_head.parameters()
    for row, prompt in enumerate(PROMPTS):
        state = model.base_model(torch.tensor([prompt])).last_hidden_state[0, -1]
        wanted = out_weight @ torch.tanh(weight @ state + bias) + out_bias
        torch.testing.assert_close(value[row], wanted[0])
    other = dataclasses.replace(tokens, response_ids=tokens.response_ids.flip(0))
    torch.testing.assert_close(policy(other, with_value=True).value, value)


def test_the_value_trains_the_model_under_it(model: PreTrainedModel) -> None:
    policy = CausalPolicy(model, value_head=True)
    policy(batch(), with_value=True).value.square().sum().backward()
    for name in ("value_head.0.weight", "model.model.embed_tokens.weight"):
        grad = policy.get_parameter(name).grad
        assert grad is not None, name
        assert grad.any(), name


def test_the_value_head_stays_outside_the_model(tiny_model_dir: Path) -> None:
    """What an export writes is the inner model; a head in bf16 for a model in bf16."""
    model = load_language_model(
        str(tiny_model_dir), dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    policy = CausalPolicy(model, value_head=True)
    assert not any("value_head" in name for name in model.state_dict())
    own = policy.state_dict().keys() - {f"model.{name}" for name in model.state_dict()}
    assert own == {f"value_head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    assert policy(batch(), with_value=True).value.dtype == torch.float32
