"""A reward model gives a text one score: in training, in a run, on a server, in `rto eval`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tiny_tokenizers import bos_tokenizer, piece_tokenizer, tiny_config
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from rto.data.examples import collate_groups
from rto.data.loaders.pairs import load_pairs
from rto.data.templates import Template, Where, load_template
from rto.evaluation.formats import Answers
from rto.evaluation.questions import Question
from rto.evaluation.run import rewards_of
from rto.models.heads import SequenceReward
from rto.models.load import load_scalar_model
from rto.scoring.frozen import FrozenOptions, FrozenScorer
from rto.scoring.server import ServedRewardModel
from rto.sections.data import Data
from rto.types import TokenBatch

BOS_ONCE = "{{ bos_token }}"


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast, *, chat: bool) -> str:
    """A reward model whose chat template is gone, or writes no BoS, where it has one."""
    if not chat:
        tokenizer.chat_template = None
    elif "<user>" in tokenizer.get_vocab():
        tokenizer.chat_template = str(tokenizer.chat_template).removeprefix(BOS_ONCE)
    torch.manual_seed(3)
    config = tiny_config()
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def trained_on(path: str, row: dict[str, str], folder: Path, *, chat: bool) -> list[TokenBatch]:
    """The row's two responses as `rto reward` reads them."""
    file = folder / "pairs.jsonl"
    file.write_text(json.dumps(row) + "\n")
    data = Data(dataset=[str(file)], prompt_key="prompt", apply_chat_template=chat)
    template = load_template(path, data, chat=chat)
    (pair,) = load_pairs(data, template, seed=0).pairs
    return [collate_groups([[side]], pad_token_id=0) for side in pair]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("make", "words"),
    [(bos_tokenizer, ("w1 w2 ", "w3", "w4 w5")), (piece_tokenizer, ("in a", "b c", "d"))],
)
def test_a_text_has_one_score(
    make: Any, words: tuple[str, str, str], chat: bool, tmp_path: Path
) -> None:
    path = saved(tmp_path / "model", make(), chat=chat)
    row = {"prompt": words[0], "chosen": words[1], "rejected": words[2]}
    batches = trained_on(path, row, tmp_path, chat=chat)
    model = load_scalar_model(path, dtype=torch.float32, attn_implementation="sdpa", new_head=False)
    reward = SequenceReward(model).eval()
    with torch.inference_mode():
        training = [float(reward(batch)) for batch in batches]
    assert training[0] != training[1]

    options = FrozenOptions(dtype=torch.float32, device=torch.device("cpu"))
    frozen = FrozenScorer({}, [path], options)
    assert [float(frozen.rewards(batch)) for batch in batches] == training

    template = Template(load_template(path, Data()).tokenizer, apply_chat_template=chat)
    where = Where("here", 0, "prompt")
    prompt = template.prompt(words[0], where)
    written = [template.response(words[0], answer, where) for answer in words[1:]]
    queries = [f"{prompt}{text}" if "</s>" in text else f"{prompt}{text}</s>" for text in written]
    server = ServedRewardModel(path, max_batch=1)
    assert server(queries, [prompt] * 2, [None] * 2) == training

    asked, answered = [Question(0, (words[0],))], {}
    for name, answer in zip(("a", "b"), words[1:], strict=True):
        answered[name] = SimpleNamespace(answers=Answers(name, [(answer,)], [True]))
    judges = [SimpleNamespace(kind="reward", target=path)]
    config = SimpleNamespace(data=Data())
    for reward_models, asks in (([path], []), ([], judges)):
        flags = SimpleNamespace(
            reward_models=reward_models, judges=asks, config=config, prompts="p"
        )
        job = cast(Any, SimpleNamespace(options=flags, questions=asked))
        found = rewards_of(job, cast(Any, answered))[path]
        assert [float(found["a"][0]), float(found["b"][0])] == training
