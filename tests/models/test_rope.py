"""Rotary embeddings whose frequencies transformers would choose by the longest row of a forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import tiny_config, tiny_tokenizer
from token_rows import token_batch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from rto.errors import UserError
from rto.models.families import load_policy
from rto.models.rope import check_positions, max_positions
from rto.types import TokenBatch

ORIGINAL = 8
SHAPE: dict[str, Any] = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 2},
    "initializer_range": 0.2,
}
LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": ORIGINAL,
}
KINDS: dict[str, PreTrainedConfig] = {
    "dynamic": AutoConfig.for_model(
        "llama",
        **SHAPE,
        max_position_embeddings=ORIGINAL,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    ),
    "longrope": AutoConfig.for_model(
        "phi3",
        **SHAPE,
        max_position_embeddings=64,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=LONG,
    ),
}


@pytest.fixture(params=list(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(KINDS[request.param]).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def rows(*sizes: tuple[int, int]) -> TokenBatch:
    """Rows of (prompt, response) tokens, each with a prompt of its own."""
    draw = torch.Generator().manual_seed(1)
    ids = [[torch.randint(6, 64, (n,), generator=draw).tolist() for n in size] for size in sizes]
    return token_batch([prompt for prompt, _ in ids], [response for _, response in ids])


def logprobs(folder: Path, tokens: TokenBatch, max_len: int | None) -> torch.Tensor:
    policy = load_policy(
        str(folder), dtype=torch.float32, attn_implementation="sdpa", max_len=max_len
    ).eval()
    with torch.no_grad():
        return policy(tokens).logprobs


@pytest.mark.parametrize("max_len", [None, ORIGINAL, 20])
def test_a_row_is_alone_what_it_is_beside_a_longer_one(folder: Path, max_len: int | None) -> None:
    tokens = rows((3, 4), (6, 14), (2, 3))
    together = logprobs(folder, tokens, max_len)
    for row in range(3):
        alone = logprobs(folder, tokens.take([row]).trim(), max_len)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("max_len", "longest"), [(ORIGINAL, 4), (20, 20)])
def test_the_frequencies_are_those_of_the_longest_row_allowed(
    folder: Path, max_len: int, longest: int
) -> None:
    """transformers, asked for a row of ``longest`` tokens alone, has them: its first 4 tokens'
    log-probs are those of a row of 4 tokens here."""
    ids = torch.randint(6, 64, (1, longest), generator=torch.Generator().manual_seed(2))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = model(ids).logits[0, :3].log_softmax(-1).gather(-1, ids[0, 1:4, None])[:, 0]
    tokens = rows((1, 3))
    tokens.prompt_ids[0], tokens.response_ids[0] = ids[0, :1], ids[0, 1:4]
    torch.testing.assert_close(logprobs(folder, tokens, max_len)[0], theirs, atol=1e-5, rtol=0)


def test_the_saved_model_keeps_its_rope_type(folder: Path) -> None:
    policy = load_policy(str(folder), dtype=torch.float32, attn_implementation="sdpa", max_len=20)
    kept = AutoConfig.from_pretrained(folder).to_dict()["rope_parameters"]
    assert policy.config.to_dict()["rope_parameters"] == kept


def config(**more: Any) -> PreTrainedConfig:
    return AutoConfig.for_model("llama", **{**SHAPE, **more})


@pytest.mark.parametrize(
    ("found", "longest"),
    [
        (tiny_config(), 256),
        (KINDS["longrope"], 64),
        (KINDS["dynamic"], ORIGINAL),
        (
            config(
                max_position_embeddings=100,
                rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
            ),
            250,
        ),
        (
            config(
                max_position_embeddings=400,
                rope_parameters={
                    **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
                    "original_max_position_embeddings": 100,
                },
            ),
            400,
        ),
        (AutoConfig.for_model("gpt2", n_positions=32), 32),
        (AutoConfig.for_model("bart", max_position_embeddings=24), 24),
        (AutoConfig.for_model("t5"), None),
        (AutoConfig.for_model("bloom"), None),
    ],
)
def test_how_far_positions_reach(found: PreTrainedConfig, longest: int | None) -> None:
    assert max_positions(found) == longest


def test_longer_rows_are_refused() -> None:
    check_positions(tiny_config(), path="m", name="data.max_len", length=256)
    with pytest.raises(UserError, match=r"m: data.max_len is 257, .* 256; set data.max_len to 256"):
        check_positions(tiny_config(), path="m", name="data.max_len", length=257)
    with pytest.raises(UserError, match="rope type dynamic"):
        check_positions(KINDS["dynamic"], path="m", name="data.max_len", length=ORIGINAL + 1)
