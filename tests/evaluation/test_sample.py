"""Which policies share an engine, and the turns of a conversation, with a policy that echoes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rto.errors import UserError
from rto.evaluation.questions import Question
from rto.evaluation.sample import _converse, _groups, _prompts, load_policy
from rto.runs.evaluate import Evaluated
from rto.types import Prompt, Role, Rollout, ScoredBatch, collate, logprob_array, token_array

QUESTIONS = [Question("a", ("w1", "w2")), Question("b", ("w3",)), Question("c", ("w4", "w5"))]


class Echo:
    """Answers a prompt with its last word but one, in two tokens; each has KL 0.25 to the
    reference."""

    roles = frozenset({Role.REFERENCE})

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def answer(
        self, prompts: Sequence[Prompt], *, pad_token_id: int, stops: tuple[int, ...]
    ) -> Evaluated:
        assert stops == (2,)
        self.asked.append([prompt.text for prompt in prompts])
        ids, logprobs = token_array((7, 2)), logprob_array((-1.0, -1.0))
        rollouts = [
            Rollout(p, 0, ids, logprobs, p.text.split()[-2], p.id != 1, 0, 0) for p in prompts
        ]
        tokens = collate(rollouts, pad_token_id=pad_token_id)
        scores = {Role.REFERENCE: torch.full((len(prompts), 2), -1.25)}
        return Evaluated(rollouts, ScoredBatch(tokens=tokens, scores=scores))


def test_later_turns_see_the_policys_own_answers(tiny_model_dir: Path) -> None:
    policy, echo = load_policy("tiny", str(tiny_model_dir)), Echo()
    prompts = _prompts(policy, QUESTIONS, [()] * 3, "q.jsonl")
    found = _converse(cast(Any, echo), policy, QUESTIONS, prompts, 64, "q.jsonl")
    assert found.answers.turns == [("w1", "w2"), ("w3",), ("w4", "w5")]
    assert found.answers.finished == [True, False, True]
    assert echo.asked == [
        [f"<user> {word}\n<assistant>" for word in ("w1", "w3", "w4")],
        [
            f"<user> {word}\n<assistant> {word} </s>\n<user> {then}\n<assistant>"
            for word, then in (("w1", "w2"), ("w4", "w5"))
        ],
    ]
    # Two tokens of 0.25 nats in each turn.
    assert found.kl is not None
    assert found.kl == pytest.approx(np.array([1.0, 0.5, 1.0]))


def test_a_prompt_that_fills_the_context_is_said(tiny_model_dir: Path) -> None:
    policy = load_policy("tiny", str(tiny_model_dir))
    prompts = _prompts(policy, QUESTIONS, [()] * 3, "q.jsonl")
    with pytest.raises(UserError, match=r"row 0: 'question a' has 3 tokens, which fill .* of 3"):
        _converse(cast(Any, Echo()), policy, QUESTIONS, prompts, 3, "q.jsonl")


def test_one_engine_for_one_architecture(tiny_model_dir: Path, tmp_path: Path) -> None:
    paths = [tiny_model_dir]
    for name, layers in (("deeper", 3), ("same", 2)):
        folder = tmp_path / name
        config = LlamaConfig.from_pretrained(tiny_model_dir)
        config.num_hidden_layers = layers
        LlamaForCausalLM(config).save_pretrained(folder)
        for file in tiny_model_dir.glob("*tok*"):
            (folder / file.name).write_bytes(file.read_bytes())
        paths.append(folder)
    policies = [load_policy(path.name, str(path)) for path in paths]
    groups = [[policy.path for policy in group] for group in _groups(policies)]
    assert groups == [[str(paths[0]), str(paths[2])], [str(paths[1])]]


def test_what_cannot_be_sampled(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no \*\.safetensors in it"):
        load_policy("x", str(tmp_path))
