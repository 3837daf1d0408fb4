"""Rows without padding, a group's prompt once: the same numbers from fewer tokens."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from token_rows import token_batch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rto.models import packing
from rto.models.causal import CausalPolicy
from rto.models.decoder import may_pack
from rto.models.families import load_policy
from rto.models.heads import SequenceReward, TokenValue
from rto.models.load import without_dropout
from rto.models.packing import distinct_prompts, pack, pad_right
from rto.types import TokenBatch

LONG = [1, *range(10, 30)]
PROMPTS = [LONG, LONG, LONG, [1, 40, 41], [1, 50, 51, 52, 53], [1, 50, 51, 52, 53]]
RESPONSES = [[14, 2], [21, 22, 23, 24, 2], [32], [32, 33, 34], [7, 8], [9, 10, 2]]
GROUPS = [5, 5, 5, 2, 3, 3]


def batch() -> TokenBatch:
    return token_batch(PROMPTS, RESPONSES, groups=GROUPS)


def small(config: type, **extra: object) -> Any:
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    return config(vocab_size=64, intermediate_size=64, num_key_value_heads=2, **shape, **extra)


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(small(LlamaConfig, initializer_range=0.2))


def qwen() -> PreTrainedModel:
    """With biases in its attention, which a Llama has not."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(small(Qwen2Config, initializer_range=0.2))


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0, embd_pdrop=0,
                   resid_pdrop=0)
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def tokens_read(policy: Any, tokens: TokenBatch) -> tuple[int, ...]:
    """The shape of what the model gets."""
    shapes: list[tuple[int, ...]] = []
    base: Any = policy.model.base_model
    hook = base.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with torch.no_grad():
        policy(tokens)
    hook.remove()
    (shape,) = shapes
    return shape


def padded(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """The same model with transformers' own plain attention, which is never packed."""
    model = build()
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("build", [llama, qwen, gpt2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_give_the_numbers_and_gradients_of_padded_ones(build, checkpointing) -> None:
    tokens = batch()
    weights = torch.randn(tokens.response_mask.shape, generator=torch.manual_seed(0))
    found = []
    for model in (build(), padded(build)):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(0)
        policy = CausalPolicy(model, value_head=True)
        output = policy(tokens, with_entropy=True, with_value=True)
        ((output.logprobs * weights).sum() + output.value.square().sum()).backward()
        grads = {name: p.grad for name, p in policy.named_parameters()}
        found.append((output, grads, tokens_read(policy, tokens)))
    (packed, grads, few), (alone, expected, many) = found
    # The prompt of 21 with its 2 + 5 + 1 response tokens; the prompt of 3 with 3; that of 5 with
    # 2 + 3. Padded rows: 6 of 21 + 5.
    assert (few, many) == ((1, 29 + 6 + 10), (6, 26))
    for name in ("logprobs", "entropy", "value"):
        torch.testing.assert_close(getattr(packed, name), getattr(alone, name))
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("overhead", [0, 5, 1000])
def test_attention_calls_do_not_change_the_numbers(monkeypatch, overhead: int) -> None:
    monkeypatch.setitem(packing.BUCKET_OVERHEAD, "cpu", overhead)
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    tokens = batch()
    expected = CausalPolicy(padded(llama))(tokens).logprobs
    for chosen in (torch.arange(6), order):
        rows = tokens.take(chosen)
        torch.testing.assert_close(CausalPolicy(llama())(rows).logprobs, expected[chosen])
    # Rows of 26, 23, 22, 8, 7 and 6 tokens: 26 + 5 and 2 x 23 + 5 are less than 3 x 26 + 5.
    calls = {0: 6, 5: 3, 1000: 1}
    packed = pack(tokens).rows
    assert packed is not None
    assert len(packed.buckets) == calls[overhead]


@pytest.mark.parametrize("head", [SequenceReward, TokenValue])
def test_scalar_heads_read_packed_rows_too(head: Any) -> None:
    def scored(attention: str) -> Any:
        torch.manual_seed(0)
        config = small(LlamaConfig, initializer_range=0.2, num_labels=1, pad_token_id=0)
        model = LlamaForSequenceClassification(config)
        model.set_attn_implementation(attention)
        return head(model)

    packed, alone = scored("sdpa"), scored("eager")
    assert (packed.packs, alone.packs) == (True, False)
    torch.testing.assert_close(packed(batch()), alone(batch()))
    assert (tokens_read(packed, batch()), tokens_read(alone, batch())) == ((1, 45), (6, 26))


def test_the_layout_of_packed_rows(monkeypatch) -> None:
    monkeypatch.setitem(packing.BUCKET_OVERHEAD, "cpu", 0)
    packed = pack(batch().take([3, 4, 5]))
    assert packed.ids.tolist() == [[1, 40, 41, 32, 33, 34, 1, 50, 51, 52, 53, 7, 8, 9, 10, 2]]
    assert packed.positions is not None
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 5, 6, 7]]
    # The last prompt token predicts the first token of either response.
    assert packed.before.tolist() == [2, 3, 4, 10, 11, 10, 13, 14]
    assert packed.prompt.tolist() == [2, 10, 10]
    assert packed.last.tolist() == [5, 12, 15]
    assert packed.rows is not None
    # Longest first; each with the prompt that it shares.
    assert [bucket.tolist() for bucket in packed.rows.buckets] == [
        [[6, 7, 8, 9, 10, 13, 14, 15]],
        [[6, 7, 8, 9, 10, 11, 12]],
        [[0, 1, 2, 3, 4, 5]],
    ]
    assert packed.rows.back is not None
    together = torch.cat([bucket.flatten() for bucket in packed.rows.buckets])
    assert together[packed.rows.back].tolist() == list(range(16))


def test_rows_of_similar_length_are_attended_to_together() -> None:
    rows = pack(batch().take([3, 4, 5])).rows
    assert rows is not None
    # The shorter repeat their last token.
    assert [bucket.tolist() for bucket in rows.buckets] == [
        [
            [6, 7, 8, 9, 10, 13, 14, 15],
            [6, 7, 8, 9, 10, 11, 12, 12],
            [0, 1, 2, 3, 4, 5, 5, 5],
        ]
    ]


def test_rows_in_order_without_padding_stay_where_they_are() -> None:
    rows = pack(batch().take([0, 3])).rows
    assert rows is not None
    assert [bucket.tolist() for bucket in rows.buckets] == [[[*range(23)]], [[*range(23, 29)]]]
    assert rows.back is None


def test_the_layout_of_padded_rows() -> None:
    packed = pad_right(batch().take([3, 4]))
    assert packed.ids.tolist() == [[1, 40, 41, 32, 33, 34, 1], [1, 50, 51, 52, 53, 7, 8]]
    assert (packed.positions, packed.rows) == (None, None)
    assert packed.before.tolist() == [2, 3, 4, 11, 12]
    assert packed.prompt.tolist() == [2, 11]
    assert packed.last.tolist() == [5, 13]


def test_a_row_without_response_ends_in_its_prompt() -> None:
    tokens = batch().take([3, 4])
    silent = dataclasses.replace(tokens, response_mask=torch.zeros_like(tokens.response_mask))
    for found in (pack(silent), pad_right(silent)):
        assert found.last.tolist() == found.prompt.tolist()
        assert found.before.tolist() == []


def test_only_neighbours_with_one_prompt_share_it() -> None:
    def sizes(tokens: TokenBatch) -> int:
        return pack(tokens).ids.numel()

    tokens = batch()
    assert sizes(tokens) == 45
    # 21 more where the first row of the group stands apart, 5 more for the other group.
    assert sizes(tokens.take([0, 3, 1, 2, 4, 5])) == 45 + 21
    assert sizes(dataclasses.replace(tokens, group=torch.arange(6))) == 45 + 2 * 21 + 5
    ids = tokens.prompt_ids.clone()
    ids[1, -1] = 60
    assert sizes(dataclasses.replace(tokens, prompt_ids=ids)) == 45 + 2 * 21


@pytest.mark.parametrize(
    "build",
    [
        lambda: Gemma2ForCausalLM(small(Gemma2Config, head_dim=8)),
        lambda: MistralForCausalLM(small(MistralConfig, sliding_window=8)),
        lambda: BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)),
        lambda: LlamaForCausalLM._from_config(small(LlamaConfig), attn_implementation="eager"),
    ],
    ids=["two kinds of layers", "a window", "no position ids", "eager attention"],
)
def test_models_that_cannot_pack_read_padded_rows(build) -> None:
    policy = CausalPolicy(build())
    assert not policy.packs
    assert tokens_read(policy, batch()) == (6, 26)


FAMILIES = "gemma glm4 gpt_neox granite mixtral olmo2 opt phi3 qwen3 qwen3_moe smollm3 starcoder2"
"""Beside llama, qwen2 and gpt2, whose gradients are compared above."""


@pytest.mark.parametrize("family", FAMILIES.split())
def test_families_that_pack(family: str) -> None:
    shape: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
    narrow = {"moe_intermediate_size": 16, "ffn_dim": 64, "word_embed_proj_dim": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(
        family, num_hidden_layers=2, initializer_range=0.2, **shape, **heads, **experts, **narrow,
        **ids,
    )  # fmt: skip

    def build() -> PreTrainedModel:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(without_dropout(copy.deepcopy(config))).eval()

    policy = CausalPolicy(build())
    assert policy.packs
    with torch.no_grad():
        found, expected = policy(batch()), CausalPolicy(padded(build))(batch())
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-4, rtol=1e-4)


def test_a_model_that_counts_positions_itself_is_found_out(monkeypatch) -> None:
    model = llama()
    rotary: Any = model.model.rotary_emb
    own = type(rotary).forward
    monkeypatch.setattr(
        type(rotary),
        "forward",
        lambda self, x, position_ids: own(self, x, torch.arange(x.shape[1])[None]),
    )
    assert may_pack(model)
    assert not CausalPolicy(model).packs
    assert model.config._attn_implementation == "sdpa"


def test_a_packing_model_still_answers_padded_calls() -> None:
    policy, plain = CausalPolicy(llama()), padded(llama)
    assert policy.packs
    ids = torch.tensor([[0, 0, 1, 40, 41], [1, 50, 51, 52, 53]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = policy.model(input_ids=ids, attention_mask=mask).logits
    expected = plain(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])


def test_a_checkpoint_names_no_attention_of_ours(tmp_path: Path) -> None:
    CausalPolicy(llama()).model.save_pretrained(str(tmp_path))
    assert "rto" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert LlamaForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_an_encoder_reads_each_prompt_once(tiny_t5_dir: Path) -> None:
    policy = load_policy(str(tiny_t5_dir), dtype=torch.float32, attn_implementation="sdpa")
    tokens = batch()
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    apart = dataclasses.replace(tokens, group=torch.arange(6))
    encoder: Any = policy.model.get_encoder()
    rows: list[int] = []
    encoder.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = [policy(x.take(order)).logprobs for x in (tokens, apart)]
    assert rows == [3, 6]
    torch.testing.assert_close(found[0], found[1])


def test_a_group_with_two_prompts_shares_nothing() -> None:
    tokens = batch()
    first, owner = distinct_prompts(tokens)
    assert torch.equal(tokens.prompt_ids[first][owner], tokens.prompt_ids)
    assert len(first) == 3
    mixed = dataclasses.replace(tokens, group=torch.zeros(6, dtype=torch.long))
    first, owner = distinct_prompts(mixed)
    assert first.tolist() == owner.tolist() == [0, 1, 2, 3, 4, 5]
