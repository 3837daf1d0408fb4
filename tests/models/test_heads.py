from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from rto.models.heads import SequenceReward, TokenValue
from rto.models.load import load_scalar_model
from rto.types import TokenBatch, pad


def batch() -> TokenBatch:
    prompt_ids, prompt_mask = pad([[1, 10, 11, 12], [1, 20]], 0, left=True)
    response_ids, response_mask = pad([[14, 2], [21, 22, 23, 2]], 0, left=False)
    return TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(2, 4),
        finished=torch.tensor([True, True]),
        group=torch.arange(2),
    )


def load(path: Path):
    return load_scalar_model(
        str(path), dtype=torch.float32, attn_implementation="sdpa", new_head=False
    )


def test_the_score_is_that_of_the_saved_model_itself(tiny_reward_dir: Path) -> None:
    scores = SequenceReward(load(tiny_reward_dir))(batch())
    own = AutoModelForSequenceClassification.from_pretrained(tiny_reward_dir)
    right, mask = pad([[1, 10, 11, 12, 14, 2], [1, 20, 21, 22, 23, 2]], 0, left=False)
    left, left_mask = pad([[1, 10, 11, 12, 14, 2], [1, 20, 21, 22, 23, 2]], 0, left=True)
    for ids, m in ((right, mask), (left, left_mask)):
        logits = own(input_ids=ids, attention_mask=m.long()).logits[:, 0]
        torch.testing.assert_close(scores, logits, atol=2e-5, rtol=1e-4)
    assert scores.dtype == torch.float32


def test_value_t_sees_the_state_before_token_t(tiny_reward_dir: Path) -> None:
    model = load(tiny_reward_dir)
    values = TokenValue(model)(batch())
    reward = SequenceReward(model)
    # V(state before token t) is the head at the end of prompt + response[:t]
    for t in range(1, 4):
        prefix, mask = pad([[21, 22, 23, 2][:t]], 0, left=False)
        part = TokenBatch(
            prompt_ids=torch.tensor([[1, 20]]),
            prompt_mask=torch.ones(1, 2, dtype=torch.bool),
            response_ids=prefix,
            response_mask=mask,
            sampler_logprobs=torch.zeros(1, t),
            finished=torch.tensor([False]),
            group=torch.tensor([0]),
        )
        torch.testing.assert_close(values[1, t], reward(part)[0], atol=2e-5, rtol=1e-4)
    assert (values[0, 2:] == 0).all()
    assert (values[1] != 0).all()


def test_values_start_on_the_normalised_scale(tiny_reward_dir: Path) -> None:
    model, tokens = load(tiny_reward_dir), batch()
    raw = TokenValue(model)(tokens)
    scaled = TokenValue(model, constants=(0.5, 2.0))(tokens)
    mask = tokens.response_mask
    torch.testing.assert_close(scaled[mask], (raw[mask] - 0.5) / 2.0)
    assert (scaled[~mask] == 0).all()


def test_padding_is_never_read(tiny_reward_dir: Path) -> None:
    model = load(tiny_reward_dir)
    scores, values = SequenceReward(model)(batch()), TokenValue(model)(batch())
    dict(model.named_parameters())["model.embed_tokens.weight"].data[0] = torch.nan
    assert torch.equal(SequenceReward(model)(batch()), scores)
    assert torch.equal(TokenValue(model)(batch()), values)
