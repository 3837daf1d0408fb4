"""A local chat model as a judge: how it is asked, and when it cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from rto.errors import UserError
from rto.evaluation import local_judge
from rto.evaluation.local_judge import ask_local
from rto.models.load import load_tokenizer
from rto.rollout.requests import Sample, SampleRequest, Sampling
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed
from rto.sections.training import Train
from rto.types import logprob_array, token_array

TALKS: list[Any] = [[{"role": "user", "content": text}] for text in ("w1", "w2 w3 w4")]
CONFIG = RunConfig(ds=DeepSpeed(param_dtype="fp32"), train=Train(device="cpu", seed=7))


@dataclass
class Echo:
    """Answers with the number of tokens that it was asked with, once its weights are accepted."""

    accepted: list[int] = field(default_factory=list)
    sampling: Sampling | None = None
    seeds: list[int] = field(default_factory=list)
    built: dict[str, Any] = field(default_factory=dict)

    def accept(self, version: int) -> None:
        self.accepted.append(version)

    def generate(
        self, requests: list[SampleRequest], sampling: Sampling, policy_version: int
    ) -> list[Sample]:
        assert self.accepted[-1] == policy_version
        self.sampling, self.seeds = sampling, [request.seed for request in requests]
        return [
            Sample(token_array(()), logprob_array(()), str(len(r.prompt_token_ids)), True)
            for r in requests
        ]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Echo:
    echo = Echo()

    def build(path: str, config: RunConfig, **settings: Any) -> Echo:
        echo.built = {"path": path, "engine": config.vllm.engine, **settings}
        return echo

    monkeypatch.setattr(local_judge, "build_engine", build)
    return echo


def test_each_conversation_is_asked_through_the_chat_template_and_answered_greedily(
    engine: Echo, tiny_model_dir: Path
) -> None:
    """<user>, the words, <assistant>."""
    answers = ask_local(str(tiny_model_dir), TALKS, CONFIG, max_new_tokens=9)
    assert answers == ["3", "5"]
    assert engine.sampling is not None
    assert (engine.sampling.temperature, engine.sampling.max_new_tokens) == (0.0, 9)
    end = load_tokenizer(str(tiny_model_dir)).eos_token_id
    assert end in engine.sampling.stop_token_ids
    assert engine.seeds == [7, 7]


@pytest.mark.parametrize(("new", "room"), [(9, 14), (400, 256)])
def test_the_engine_has_room_for_the_longest_conversation_and_its_answer(
    new: int, room: int, engine: Echo, tiny_model_dir: Path
) -> None:
    """5 tokens; the model has 256 positions."""
    ask_local(str(tiny_model_dir), TALKS, CONFIG, max_new_tokens=new)
    assert engine.built == {
        "path": str(tiny_model_dir), "engine": "vllm", "max_len": room, "device": "cpu",
    }  # fmt: skip


def test_a_conversation_that_fills_the_context_is_refused(
    engine: Echo, tiny_model_dir: Path
) -> None:
    long: list[Any] = [[{"role": "user", "content": " ".join(["w1"] * 254)}]]
    with pytest.raises(UserError, match="asks with 256 tokens, its context is 256: take another"):
        ask_local(str(tiny_model_dir), long, CONFIG, max_new_tokens=1)


def test_a_model_without_a_chat_template_is_no_judge(
    engine: Echo, tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    AutoConfig.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the tokenizer has no chat template to ask it with"):
        ask_local(str(tmp_path), TALKS, CONFIG, max_new_tokens=1)
