"""Encoder-decoder policies against transformers' own full-logits forward."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from token_rows import token_batch
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from rto.errors import UserError
from rto.models.export import save_pretrained
from rto.models.families import load_critic, load_policy
from rto.models.heads import PromptValue, TokenValue
from rto.models.load import load_config, load_language_model, load_tokenizer, load_value_model
from rto.models.policy import Policy, unwrapped
from rto.models.seq2seq import Seq2SeqPolicy
from rto.sections.runtime import Lora
from rto.types import TokenBatch

PROMPTS = [[10, 11, 12, 13, 1], [20, 1], [30, 31, 1]]
RESPONSES = [[14, 1], [21, 22, 23, 24, 1], [32, 33, 34]]
LOAD: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}


def batch(prompts: list[list[int]] = PROMPTS, responses: list[list[int]] = RESPONSES) -> TokenBatch:
    return token_batch(prompts, responses, eos=1)


def naive(model: PreTrainedModel, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies [3, 5] of ``batch()``, row by row without any padding; the labels
    are shifted by transformers."""
    logprobs, entropies = torch.zeros(3, 5), torch.zeros(3, 5)
    rows = []
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        output = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([response]))
        all_logprobs = (output.logits[0].float() / temperature).log_softmax(-1)
        rows.append(all_logprobs)
        entropies[row, : len(response)] = -(all_logprobs.exp() * all_logprobs).sum(-1)
        logprobs[row, : len(response)] = all_logprobs[range(len(response)), response]
    return logprobs, entropies


@pytest.fixture
def policy(tiny_t5_dir: Path) -> Policy:
    return load_policy(str(tiny_t5_dir), **LOAD).eval()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_size", [3, 1024])
def test_equals_the_full_forward(policy: Policy, temperature: float, chunk_size: int) -> None:
    assert isinstance(policy, Seq2SeqPolicy)
    got = policy(batch(), temperature=temperature, chunk_size=chunk_size, with_entropy=True)
    logprobs, entropies = naive(unwrapped(policy.model), temperature)
    assert logprobs.std() > 0.5
    torch.testing.assert_close(got.logprobs, logprobs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(got.entropy, entropies, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_the_full_forward(
    tiny_t5_dir: Path, policy: Policy, checkpointing: bool
) -> None:
    weights = torch.randn(3, 5, generator=torch.manual_seed(0))
    (naive(unwrapped(policy.model))[0] * weights).sum().backward()
    expected = {name: p.grad for name, p in policy.model.named_parameters()}
    other = load_policy(str(tiny_t5_dir), gradient_checkpointing=checkpointing, **LOAD).train()
    (other(batch(), chunk_size=3).logprobs * weights).sum().backward()
    for name, parameter in other.model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(
            parameter.grad, expected[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_dropout_is_off_while_training(tiny_t5_dir: Path, policy: Policy) -> None:
    trained = load_policy(str(tiny_t5_dir), **LOAD).train()
    assert torch.equal(trained(batch()).logprobs, policy(batch()).logprobs)
    config = load_config(str(tiny_t5_dir))
    assert (config.dropout_rate, config.classifier_dropout) == (0, 0)
    written, _ = T5Config.get_config_dict(str(tiny_t5_dir))
    assert written["dropout_rate"] == 0.1


def test_padding_columns_and_row_order_do_not_matter(policy: Policy) -> None:
    tokens = batch()
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
    torch.testing.assert_close(policy(wide).logprobs[:, :5], expected)
    assert (policy(wide).logprobs[:, 5:] == 0).all()
    order = [2, 0, 1]
    torch.testing.assert_close(policy(tokens.take(order)).logprobs, expected[order])
    parts = [policy(tokens.take(rows).trim()).logprobs for rows in ([0], [1, 2])]
    torch.testing.assert_close(parts[0][0], expected[0, :2])
    torch.testing.assert_close(parts[1], expected[1:])


def test_what_stands_in_padding_is_never_read(policy: Policy) -> None:
    expected = policy(batch(), with_entropy=True)
    tokens = batch()
    dict(policy.model.named_parameters())["shared.weight"].data[60] = torch.nan
    poisoned = dataclasses.replace(
        tokens,
        prompt_ids=tokens.prompt_ids.masked_fill(~tokens.prompt_mask, 60),
        response_ids=tokens.response_ids.masked_fill(~tokens.response_mask, 60),
    )
    got = policy(poisoned, with_entropy=True)
    assert torch.equal(got.logprobs, expected.logprobs)
    got.logprobs.sum().backward()
    for name, parameter in policy.named_parameters():
        if "shared" not in name:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all(), name


def test_an_empty_prompt_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        policy(batch([[5, 1], []], [[6], [7]]))


def t5(config: Any, **extra: object) -> Any:
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    ids = {"vocab_size": 64, "decoder_start_token_id": 0, "eos_token_id": 1}
    return config(**shape, **ids, initializer_factor=2.0, dropout_rate=0.0, **extra)


def bart() -> PreTrainedModel:
    layers: Any = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32}
    heads: Any = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ids: Any = {
        "bos_token_id": 2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 1,
    }
    return BartForConditionalGeneration(
        BartConfig(vocab_size=64, init_std=0.3, dropout=0.0, **layers, **heads, **ids)
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: T5ForConditionalGeneration(t5(T5Config, tie_word_embeddings=True)),
        lambda: T5ForConditionalGeneration(t5(T5Config, tie_word_embeddings=False)),
        lambda: MT5ForConditionalGeneration(t5(MT5Config)),
        lambda: UMT5ForConditionalGeneration(t5(UMT5Config)),
        bart,
    ],
    ids=["t5 scales", "flan-t5 does not", "mt5", "umt5", "bart"],
)
def test_other_families_equal_their_own_forward_and_reload(
    build: Callable[[], PreTrainedModel], tmp_path: Path, tiny_t5_dir: Path
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    expected = naive(model)[0]
    got = Seq2SeqPolicy(model)(batch()).logprobs
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-4)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    save_pretrained(model, load_tokenizer(str(tiny_t5_dir)), weights, tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert torch.equal(naive(again)[0], expected)
    ours = load_policy(str(tmp_path), **LOAD).eval()
    assert torch.equal(ours(batch()).logprobs, got)


def test_a_flan_t5_saved_by_transformers_keeps_its_scale(tmp_path: Path) -> None:
    """transformers 5 writes tie_word_embeddings true for it and so scales what it reads back."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(t5(T5Config, tie_word_embeddings=False)).eval()
    model.save_pretrained(tmp_path)
    ours = load_language_model(str(tmp_path), **LOAD).eval()
    torch.testing.assert_close(naive(unwrapped(ours))[0], naive(model)[0])


def test_a_head_that_does_something_else_is_refused() -> None:
    model = bart()
    model.get_buffer("final_logits_bias").fill_(3.0)[0, ::2] = -3.0
    with pytest.raises(UserError, match="model type bart is not supported: its logits"):
        Seq2SeqPolicy(model)


def test_a_model_without_a_start_token_is_refused(policy: Policy) -> None:
    model = copy.deepcopy(unwrapped(policy.model))
    model.config.decoder_start_token_id = None
    assert model.generation_config is not None
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="no decoder_start_token_id"):
        Seq2SeqPolicy(model)


def test_reference_kl_is_0_to_itself_and_that_of_the_full_logits_else(policy: Policy) -> None:
    other = copy.deepcopy(policy).requires_grad_(False)
    assert policy(batch(), reference=other).reference_kl.abs().max() < 1e-5
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    got = policy(batch(), reference=other).reference_kl
    model, reference = unwrapped(policy.model), unwrapped(other.model)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        given = {"input_ids": torch.tensor([prompt]), "labels": torch.tensor([response])}
        ours, theirs = (m(**given).logits[0].log_softmax(-1) for m in (model, reference))
        expected = (theirs.exp() * (theirs - ours)).sum(-1)
        assert expected.max() > 0.01
        torch.testing.assert_close(got[row, : len(response)], expected, atol=1e-4, rtol=1e-3)


def test_adapters_change_the_policy_and_step_aside_for_the_reference(
    tiny_t5_dir: Path, policy: Policy
) -> None:
    adapted = load_policy(str(tiny_t5_dir), lora=Lora(rank=4), **LOAD).train()
    expected = policy(batch()).logprobs
    torch.testing.assert_close(adapted(batch()).logprobs, expected)
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    output = adapted(batch(), reference=adapted)
    assert (output.logprobs - expected).abs().max() > 0.01
    assert output.reference_kl.max() > 0.01
    with adapted.adapters_disabled():
        torch.testing.assert_close(adapted(batch()).logprobs, expected)


def test_the_value_head_reads_the_mean_encoder_state(tiny_t5_dir: Path) -> None:
    policy = load_policy(str(tiny_t5_dir), value_head=True, **LOAD).eval()
    assert policy.value_head is not None
    value = policy(batch(), with_value=True).value
    encoder: Any = unwrapped(policy.model).get_encoder()
    for row, prompt in enumerate(PROMPTS):
        mean = encoder(input_ids=torch.tensor([prompt])).last_hidden_state.mean(1)
        torch.testing.assert_close(value[row], policy.value_head(mean)[0, 0])
    value.sum().backward()
    assert encoder.block[0].layer[0].SelfAttention.q.weight.grad.abs().max() > 0
    assert not any("value_head" in name for name in policy.model.state_dict())


def test_the_critic_is_the_encoder_alone_and_starts_at_0(tiny_t5_dir: Path, tmp_path: Path) -> None:
    critic = load_critic(str(tiny_t5_dir), **LOAD)
    assert isinstance(critic, PromptValue)
    assert (critic(batch()) == 0).all()
    critic(batch()).sum().backward()
    assert critic.model.get_submodule("classifier").bias.grad == 10  # ten response tokens
    torch.nn.init.normal_(dict(critic.model.named_parameters())["classifier.weight"])
    values = critic(batch())
    for row, prompt in enumerate(PROMPTS):
        logits = critic.model(input_ids=torch.tensor([prompt])).logits
        expected = logits.mean().expand(len(RESPONSES[row]))
        torch.testing.assert_close(values[row, : len(RESPONSES[row])], expected)
        assert (values[row, len(RESPONSES[row]) :] == 0).all()
    names = dict(critic.model.named_parameters())
    assert not any("decoder" in name for name in names)
    weights = {name: p.detach() for name, p in names.items()}
    save_pretrained(unwrapped(critic.model), load_tokenizer(str(tiny_t5_dir)), weights, tmp_path)
    again = PromptValue(load_value_model(str(tmp_path), **LOAD))
    torch.testing.assert_close(again(batch()), values)


def test_a_decoder_keeps_its_own_critic(tiny_model_dir: Path) -> None:
    assert isinstance(load_critic(str(tiny_model_dir), **LOAD), TokenValue)


def test_a_family_without_a_value_network_is_refused(tmp_path: Path) -> None:
    bart().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no value network for model type bart"):
        load_value_model(str(tmp_path), **LOAD)
