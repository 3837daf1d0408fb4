"""`import rto`: settings reach the parser of the command line, and folders become data frames."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

import rto
from rto import api
from rto.errors import UserError
from rto.sections.methods import Algo
from rto.sections.parse import dump
from rto.sections.run_config import RunConfig
from run_folders import write_run

ROOT = Path(__file__).resolve().parents[1]


class Started:
    """Takes the place of the program: notes what would run, and answers with a finished folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[tuple[str, RunConfig]] = []

    def __call__(self, command: str, config: RunConfig) -> Path:
        self.notes.append((command, config))
        return self.folder

    @property
    def last(self) -> RunConfig:
        return self.notes[-1][1]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "NAME")
    (run / "config.yaml").write_text(dump(RunConfig()))
    return run


@pytest.fixture
def started(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    found = Started(run_folder)
    monkeypatch.setattr(api, "_execute", found)
    return found


def test_each_function_is_the_command_of_its_name(started: Started) -> None:
    for name in ("sft", "reward", "dpo", "fit", "train"):
        run = vars(api)[name](actor="m")
        assert getattr(rto, name) is vars(api)[name]
        assert isinstance(run, rto.Run)
    assert [command for command, _ in started.notes] == ["sft", "reward", "dpo", "fit", "train"]


def test_settings_in_every_spelling(started: Started, tmp_path: Path) -> None:
    rto.train(
        algo="rto",
        dpo_reward_scale=0.25,
        actor={"model_name_or_path": tmp_path / "a model", "adam": {"lr": 1e-6}},
        reward=[tmp_path, "b,c"],
        data={"prompt_dataset": ["x,y.jsonl", "[z].jsonl"], "label_key": None},
        critic={"adam": {"betas": (0.8, 0.9)}},
        train={"self_check": False},
        **{"rollout.batch_size": 8, "rollout.temperature": 0.5, "train.batch_size": 8},
    )
    config = started.last
    assert (config.algo.name, config.algo.settings.dpo_reward_scale) == ("rto", 0.25)
    assert config.actor.model_name_or_path == str(tmp_path / "a model")
    assert config.actor.adam.lr == 1e-6
    assert config.reward.model_name_or_path == [str(tmp_path), "b,c"]
    assert config.data.prompt_dataset == ["x,y.jsonl", "[z].jsonl"]
    assert config.critic.adam.betas == (0.8, 0.9)
    assert config.train.self_check is False
    assert (config.rollout.batch_size, config.rollout.temperature) == (8, 0.5)


def test_a_path_is_the_model_of_its_section(started: Started) -> None:
    rto.train(algo="rto", actor="a", critic=Path("c"), ref="f", reward="r", dpo="d")
    found = started.last
    assert [
        found.actor.model_name_or_path,
        found.critic.model_name_or_path,
        found.ref.model_name_or_path,
        found.reward.model_name_or_path,
        found.dpo.model_name_or_path,
    ] == ["a", "c", "f", ["r"], "d"]


def test_a_file_is_overridden_by_settings(started: Started, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("train: {batch_size: 4, seed: 5}\n")
    rto.sft(train={"batch_size": 2}, config=file)
    assert (started.last.train.batch_size, started.last.train.seed) == (2, 5)
    assert rto.load_config(file).train.seed == 5
    assert rto.load_config(file, train={"seed": 6}).train.seed == 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"actr": "x"}, "unknown flag --actr"),
        ({"train": {"batch_sise": 2}}, "did you mean --train.batch_size"),
        ({"train": {"batch_size": "many"}}, "batch_size"),
        ({"train": {"batch_size": 0}}, "train.batch_size is 0"),
        ({"actor": object()}, "actor.model_name_or_path is a object: give text, a number"),
        ({"config": "none.yaml"}, "none.yaml: no such file"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_starts(
    started: Started, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        rto.sft(**settings)
    assert started.notes == []


def test_a_folder_as_data_frames(run_folder: Path) -> None:
    run = rto.Run(run_folder)
    assert (run.state, run.results) == ("finished", {"eval/accuracy": 0.75})
    assert run.metrics.index.tolist() == [0, 1, 2]
    assert run.metrics["reward/mean"].tolist() == [0.0, 0.5, 1.0]
    assert run.config == RunConfig()
    assert run.model == run_folder / "last"
    with pytest.raises(UserError, match=r"no export `best` \(state: finished\)"):
        _ = run.best


def test_rollouts_as_a_data_frame(run_folder: Path) -> None:
    """Two tokens per response: log-prob -0.5 each under the policy, -1.5 under the reference."""
    run = rto.Run(run_folder)
    rows = run.rollouts().to_dict("list")
    assert rows["iteration"] == [0, 0, 1, 1, 2, 2]
    assert rows["reward"] == [0, 1, 1, 2, 2, 3]
    assert rows["policy"] == [-1.0] * 6
    assert rows["reference_tokens"] == [[-1.5, -1.5]] * 6
    assert "critic" not in rows
    assert rows["critic_tokens"] == [[0.25, 0.25]] * 6
    assert run.rollouts(1)["response"].tolist() == ["one two 0 1", "one two 1 1"]
    assert run.rollouts([2, 0])["iteration"].tolist() == [2, 2, 0, 0]
    with pytest.raises(UserError, match="has no iteration 7: it has 0, 1, 2"):
        run.rollouts([0, 7])


def test_a_run_that_has_just_begun_has_empty_frames(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    run = rto.Run(tmp_path)
    assert (run.state, run.results) == ("unknown", {})
    assert (len(run.metrics), run.metrics.index.name, len(run.rollouts())) == (0, "iteration", 0)


def test_what_is_no_run_or_damaged_is_one_line(run_folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="it holds no run"):
            rto.Run(path)
    with gzip.open(run_folder / "rollouts" / "iter_000000.jsonl.gz", "wt") as file:
        file.write('{"scores": {}}\nnonsense\n')
    with pytest.raises(UserError, match=r"iter_000000.jsonl.gz: not a file of rollouts: JSON"):
        rto.Run(run_folder).rollouts()
    (run_folder / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl:1: iteration is None"):
        _ = rto.Run(run_folder).metrics


def test_the_command_of_a_run_folder_reads_its_settings(run_folder: Path) -> None:
    for command, method in (("sft", "sft"), ("nonsense", "ppo")):
        (run_folder / "run.json").write_text(json.dumps({"command": command}))
        found = rto.load_config(run_folder / "config.yaml")
        assert found == RunConfig(algo=Algo(method))


@pytest.mark.usefixtures("started")
def test_every_program_on_the_page_runs(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a finished run; the feedback file and the base model need not exist to be parsed."""
    runs = run_folder.parent / "runs"
    runs.mkdir()
    run_folder.rename(runs / "NAME")
    monkeypatch.setattr(api, "_execute", Started(runs / "NAME"))
    monkeypatch.chdir(run_folder.parent)
    metrics = runs / "NAME" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("kl/sequence", "kl/mean"))
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert "finished" in said
    assert "prompt 0" in said


def test_the_version_is_the_packages() -> None:
    assert rto.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert {"train", "Run"} <= set(dir(rto))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = vars(rto)["__getattr__"]("trian")
