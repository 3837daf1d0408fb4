"""The gold reward as a reward source."""

from __future__ import annotations

import pytest
from toy_task import rows
from transformers import PreTrainedTokenizerFast

from rto.quickstart.data import ToyPaths
from rto.quickstart.gold import gold_reward
from rto.quickstart.reward_func import reward_func
from rto.quickstart.toy import parse_prompt


def test_reward_func_reads_whole_conversations(
    tokenizer: PreTrainedTokenizerFast, task: ToyPaths
) -> None:
    row = rows(task.sft)[0]
    turns = [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["response"]},
    ]
    query = str(tokenizer.apply_chat_template(turns, tokenize=False))
    expected = gold_reward(row["prompt"], row["response"])
    assert reward_func([query], [row["prompt"]], [None]) == [pytest.approx(expected)]
    assert parse_prompt(row["prompt"]).prompt == row["prompt"]
