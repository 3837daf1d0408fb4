"""Rows of one group that share their prompt's tokens: the same numbers from fewer tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from token_rows import token_batch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from rto.models.causal import CausalPolicy, sharing_width
from rto.models.families import expected_sharing_width, load_policy
from rto.models.packing import distinct_prompts, pack_shared, shared_spans
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


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0, embd_pdrop=0,
                   resid_pdrop=0)
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def tokens_read(policy: CausalPolicy, tokens: TokenBatch) -> tuple[int, ...]:
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


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_rows_give_the_numbers_and_gradients_of_rows_alone(build, checkpointing) -> None:
    tokens = batch()
    model = build().train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = CausalPolicy(model, value_head=True)
    weights = torch.randn(tokens.response_mask.shape, generator=torch.manual_seed(0))
    found = []
    for width in (policy.sharing_width, None):
        policy.sharing_width = width
        policy.zero_grad()
        output = policy(tokens, with_entropy=True, with_value=True)
        ((output.logprobs * weights).sum() + output.value.square().sum()).backward()
        grads = {name: p.grad for name, p in policy.named_parameters()}
        found.append((output, grads, tokens_read(policy, tokens)))
    (shared, grads, few), (alone, expected, many) = found
    # The prompt of 21 with its 2 + 5 + 1 response tokens; the prompt of 3 with 3; that of 5 with
    # 2 + 3. Rows alone: 6 of at most 21 + 5.
    assert (few, many) == ((3, 29), (6, 26))
    for name in ("logprobs", "entropy", "value"):
        torch.testing.assert_close(getattr(shared, name), getattr(alone, name))
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-4, rtol=1e-3)


def test_the_layout_of_a_shared_row() -> None:
    tokens = batch().take([3, 4, 5])
    packed = pack_shared(tokens, [range(1), range(1, 3)])
    assert packed.ids.tolist() == [
        [1, 40, 41, 32, 33, 34, 1, 1, 1, 1],
        [1, 50, 51, 52, 53, 7, 8, 9, 10, 2],
    ]
    assert packed.positions[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]
    assert packed.owner.tolist() == [0, 1, 1]
    assert packed.rows.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    # The last prompt token predicts the first token of either response.
    assert packed.before.tolist() == [2, 3, 4, 4, 5, 4, 7, 8]
    seen = ["".join("x" if s else "." for s in row) for row in packed.mask[1, 0].tolist()]
    assert seen == [
        "x.........",
        "xx........",
        "xxx.......",
        "xxxx......",
        "xxxxx.....",
        "xxxxxx....",
        "xxxxxxx...",
        "xxxxx..x..",
        "xxxxx..xx.",
        "xxxxx..xxx",
    ]


def test_only_neighbours_with_one_prompt_share_it() -> None:
    tokens = batch()
    spans = shared_spans(tokens, width=32)
    assert spans == [range(3), range(3, 4), range(4, 6)]
    apart = tokens.take([0, 3, 1, 2, 4, 5])
    assert shared_spans(apart, width=32)[:3] == [range(1), range(1, 2), range(2, 4)]
    other = dataclasses.replace(tokens, group=torch.tensor([1, 2, 3, 4, 5, 6]))
    assert shared_spans(other, width=32) == [range(row, row + 1) for row in range(6)]
    ids = tokens.prompt_ids.clone()
    ids[1, -1] = 60
    changed = dataclasses.replace(tokens, prompt_ids=ids)
    assert shared_spans(changed, width=32)[:3] == [range(1), range(1, 2), range(2, 3)]


def test_a_batch_without_common_prompts_has_no_mask() -> None:
    tokens = batch().take([0, 3, 4])
    policy = CausalPolicy(llama())
    assert policy.sharing_width == 32
    assert tokens_read(policy, tokens) == (3, 23)


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
def test_models_that_cannot_share_read_rows_alone(build) -> None:
    policy = CausalPolicy(build())
    assert policy.sharing_width is None
    assert tokens_read(policy, batch()) == (6, 26)


def test_a_model_that_counts_positions_itself_is_found_out(monkeypatch) -> None:
    model = llama()
    rotary: Any = model.model.rotary_emb
    own = type(rotary).forward
    monkeypatch.setattr(
        type(rotary),
        "forward",
        lambda self, x, position_ids: own(self, x, torch.arange(x.shape[1])[None]),
    )
    assert sharing_width(model.config, "sdpa") == 32
    assert CausalPolicy(model).sharing_width is None


def test_the_config_tells_what_the_loaded_model_does(tiny_model_dir: Path, tiny_t5_dir: Path):
    for attention, expected in (("sdpa", 32), ("eager", None)):
        policy = load_policy(
            str(tiny_model_dir), dtype=torch.float32, attn_implementation=attention
        )
        assert policy.sharing_width == expected
        assert expected_sharing_width(str(tiny_model_dir), attention) == expected
    assert expected_sharing_width(str(tiny_t5_dir), "sdpa") is None


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
