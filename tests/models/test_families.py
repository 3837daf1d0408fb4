"""Which module a checkpoint becomes, by its family and its use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from token_rows import token_batch

from rto.models.causal import CausalPolicy
from rto.models.families import load_critic, load_policy
from rto.models.heads import PromptValue, TokenValue
from rto.models.seq2seq import Seq2SeqPolicy

OPTIONS: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}


@pytest.fixture
def folders(tiny_model_dir: Path, tiny_t5_dir: Path, tiny_reward_dir: Path) -> dict[str, str]:
    found = {"llama": tiny_model_dir, "t5": tiny_t5_dir, "reward": tiny_reward_dir}
    return {name: str(path) for name, path in found.items()}


@pytest.mark.parametrize(("name", "kind"), [("llama", CausalPolicy), ("t5", Seq2SeqPolicy)])
@pytest.mark.parametrize("value_head", [False, True])
def test_a_policy_is_of_its_models_family(
    name: str, kind: type, value_head: bool, folders: dict[str, str]
) -> None:
    policy = load_policy(folders[name], value_head=value_head, **OPTIONS)
    assert type(policy) is kind
    assert (policy.value_head is not None) is value_head


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", TokenValue), ("reward", TokenValue), ("t5", PromptValue)]
)
def test_a_critic_starts_from_a_language_or_a_reward_model(
    name: str, kind: type, folders: dict[str, str]
) -> None:
    assert type(load_critic(folders[name], **OPTIONS)) is kind


def test_a_critic_that_starts_from_a_reward_model_gives_values_in_the_rewards_scale(
    folders: dict[str, str],
) -> None:
    """(score - mean) / std."""
    tokens = token_batch([[1, 10]], [[11, 12, 2]])
    plain, scaled = (
        load_critic(folders["reward"], constants=constants, **OPTIONS).eval()
        for constants in ((0.0, 1.0), (3.0, 2.0))
    )
    with torch.no_grad():
        torch.testing.assert_close(scaled(tokens), (plain(tokens) - 3.0) / 2.0)
