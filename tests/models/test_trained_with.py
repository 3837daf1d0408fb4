"""A reward model's folder says how its texts were rendered, and who reads it does alike."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import bos_tokenizer, tiny_config
from token_rows import token_batch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
)

from rto.cli.serve import main
from rto.cluster.build import Models
from rto.errors import UserError
from rto.evaluation.formats import Answers
from rto.evaluation.questions import Question
from rto.evaluation.suite import reward_scores
from rto.models.export import save_pretrained
from rto.models.load import load_config, load_tokenizer
from rto.models.policy import unwrapped
from rto.models.trained_with import (
    TrainedWith,
    keep_trained_with,
    told_differences,
    trained_with,
)
from rto.runs.check_models import check_models
from rto.scoring.frozen import FrozenOptions, FrozenScorer
from rto.scoring.server import ServedRewardModel
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.training.ranks import build_module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """With a chat template; of before this was written down."""
    torch.manual_seed(3)
    config = tiny_config()
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "rm")
    bos_tokenizer().save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def write(folder: Path, **fields: Any) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return str(folder)


def score(path: str) -> float:
    answers = Answers("a", [("w3",)], [True])
    return float(reward_scores(path, [Question(0, ("w1 w2",))], answers, source="p")[0])


@pytest.mark.parametrize("chat", [False, True])
def test_a_trained_reward_model_tells_it(chat: bool, model: Path, tmp_path: Path) -> None:
    config = RunConfig(data=Data(apply_chat_template=chat, max_len=99))
    config = replace(config, ds=replace(config.ds, param_dtype="fp32"))
    module, inner = build_module("score", str(model), config, (0.0, 1.0))
    inner, out = unwrapped(inner), str(tmp_path / "out")
    weights = {name: x.detach() for name, x in inner.named_parameters()}
    save_pretrained(inner, load_tokenizer(str(model)), weights, out)
    assert trained_with(load_config(out), path=out) == TrainedWith(chat, 99)
    assert module is not inner


def test_rto_eval_renders_as_the_training_did(model: Path) -> None:
    """Where nothing is written down, as before: by the chat template that is there."""
    unsaid = score(str(model))
    assert score(write(model, apply_chat_template=True)) == unsaid
    plain = score(write(model, apply_chat_template=False))
    assert plain != unsaid
    template = ServedRewardModel(str(model), max_batch=1).template
    rows = [template.pair_ids("w1 w2", "w3", finished=True)]
    assert ServedRewardModel(str(model), max_batch=1).scores(rows) == [plain]


def test_a_server_says_what_it_takes(model: Path) -> None:
    assert ServedRewardModel(str(model), max_batch=1).about == f"reward model {model}"
    for chat, said in ((True, "by its chat template"), (False, "without a chat template")):
        about = ServedRewardModel(write(model, apply_chat_template=chat), max_batch=1).about
        assert about.endswith(f", trained on prompts rendered {said}: send queries like these")


@pytest.mark.parametrize(
    ("kept", "here", "said"), [(True, False, 1), (False, True, 1), (True, True, 0), (None, True, 0)]
)
@pytest.mark.parametrize("critic", [False, True])
def test_a_run_that_renders_otherwise_says_so(
    kept: bool | None,
    here: bool,
    said: int,
    critic: bool,
    model: Path,
    tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(model) if kept is None else write(model, apply_chat_template=kept)
    config = RunConfig(data=Data(apply_chat_template=here, max_len=32))
    config = replace(config, actor=replace(config.actor, model_name_or_path=str(tiny_model_dir)))
    rewards = Models() if critic else Models(rewards=[path])
    check_models(config, load_tokenizer(path), rewards, critic=path if critic else None)
    assert capsys.readouterr().out.count("trained on prompts rendered") == said


def longrope() -> Any:
    """Its short frequencies are for rows up to 8 tokens."""
    shape = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64, "pad_token_id": 0}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 8}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    config = AutoConfig.for_model(
        "phi3",
        **shape,
        num_hidden_layers=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        original_max_position_embeddings=8,
        eos_token_id=2,
        rope_parameters=rope,
        initializer_range=0.2,
    )
    config.num_labels = 1
    return config


@pytest.mark.parametrize(
    ("kept", "here", "said"), [(8, 9, 1), (9, 8, 1), (64, 9, 0), (4, 8, 0), (None, 9, 0)]
)
def test_a_run_on_the_other_side_of_longrope_says_so(
    kept: int | None, here: int, said: int
) -> None:
    config = longrope()
    if kept is not None:
        keep_trained_with(config, Data(max_len=kept))
    lines = told_differences(config, Data(max_len=here), path="rm")
    assert len(lines) == said
    assert all(f"it is {here} here: rope type longrope" in line for line in lines)
    assert told_differences(tiny_config(), Data(max_len=here), path="rm") == []


@pytest.fixture
def stretched(tmp_path: Path) -> Path:
    """A reward model of rope type longrope."""
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_config(longrope()).save_pretrained(tmp_path / "long")
    bos_tokenizer().save_pretrained(tmp_path / "long")
    return tmp_path / "long"


ROW = [[7, 8, 9, 10]]


def in_training(path: Path, max_len: int) -> float:
    """The score of ``ROW`` in a run with this data.max_len."""
    options = FrozenOptions(dtype=torch.float32, device=torch.device("cpu"), max_len=max_len)
    tokens = token_batch([ROW[0][:2]], [ROW[0][2:]])
    return float(FrozenScorer({}, [str(path)], options).rewards(tokens))


def served(path: str, **how: Any) -> float:
    return ServedRewardModel(path, max_batch=1, **how).scores(ROW)[0]


def test_longrope_is_served_with_the_frequencies_of_its_training(stretched: Path) -> None:
    short, long = in_training(stretched, 8), in_training(stretched, 9)
    assert short != pytest.approx(long, abs=1e-4)
    assert served(str(stretched)) == pytest.approx(short, abs=1e-6)
    assert served(str(stretched), max_len=9) == pytest.approx(long, abs=1e-6)
    assert served(write(stretched, max_len=9)) == pytest.approx(long, abs=1e-6)
    assert served(str(stretched), max_len=8) == pytest.approx(short, abs=1e-6)


def test_what_the_folder_does_not_tell_of_longrope_is_asked_for(stretched: Path) -> None:
    asks = "as for rows up to 8 tokens (rope type longrope: give --max_len"
    assert asks in ServedRewardModel(str(stretched), max_batch=1).about
    assert asks not in ServedRewardModel(str(stretched), max_batch=1, max_len=9).about
    assert asks not in ServedRewardModel(write(stretched, max_len=9), max_batch=1).about


@pytest.mark.parametrize(("flags", "asked"), [([], True), (["--max_len", "9"], False)])
def test_the_command_takes_the_longest_row(
    flags: list[str],
    asked: bool,
    stretched: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    assert main(["--reward_model", str(stretched), "--port", port, *flags]) == 0
    assert ("give --max_len" in capsys.readouterr().out) == asked


def test_a_longest_row_is_kept_to(stretched: Path) -> None:
    with pytest.raises(UserError, match="has 5 tokens, the reward model reads 4"):
        ServedRewardModel(str(stretched), max_batch=1, max_len=4).scores([[7, 8, 9, 10, 11]])
    with pytest.raises(
        UserError, match="--max_len is 65, the model has max_position_embeddings 64"
    ):
        ServedRewardModel(str(stretched), max_batch=1, max_len=65)


@pytest.mark.parametrize("fields", [{"apply_chat_template": "yes"}, {"max_len": True}])
def test_something_else_in_its_place_is_one_line(fields: dict[str, Any], model: Path) -> None:
    with pytest.raises(UserError, match=f"config.json has {next(iter(fields))}"):
        ServedRewardModel(write(model, **fields), max_batch=1)
