"""Which settings are shown: those that act, those away from their default first."""

from __future__ import annotations

import re
from pathlib import Path

from rto.report.collect import RunRecord, read_runs
from rto.report.files import read_config
from rto.report.page import render
from rto.report.settings import acting, defaults
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig
from run_folders import write_run


def test_defaults_are_written_as_a_folder_of_defaults_reads(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(RunConfig()))
    written = read_config(tmp_path / "config.yaml")
    assert len(written) > 150
    assert written.items() <= defaults().items()


def test_what_the_command_and_its_method_do_not_read_is_not_shown() -> None:
    """An older run folder holds every setting."""
    run = RunRecord(
        "run", Path("run"), config=defaults(), about={"command": "sft", "method": "sft"}
    )
    shown = acting(run)
    assert {"actor.adam.lr", "train.batch_size", "data.output_key"} <= shown.keys()
    assert not {"algo.name", "preference.beta", "rollout.batch_size", "vllm.enable_sleep"} & {
        *shown
    }
    assert len(shown) < len(defaults()) / 2
    for about in ({}, {"command": "sft"}, {"command": "another", "method": "sft"}):
        assert acting(RunRecord("run", Path("run"), config=defaults(), about=about)) == defaults()


def test_rtos_token_reward_is_read_by_grpo_where_a_dpo_model_is_named() -> None:
    about = {"command": "train", "method": "grpo"}
    scale = "algo.dpo_reward_scale"
    assert scale not in acting(RunRecord("run", Path("run"), config=defaults(), about=about))
    given = {**defaults(), "dpo.model_name_or_path": "dpo"}
    assert scale in acting(RunRecord("run", Path("run"), config=given, about=about))


def test_a_setting_of_another_version_stays() -> None:
    about = {"command": "sft", "method": "sft"}
    assert acting(RunRecord("run", Path("run"), config={"old.name": "1"}, about=about)) == {
        "old.name": "1"
    }


def test_what_is_not_at_its_default_comes_first_with_the_default(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "rto")
    flags = ["--algo", "rto", "--actor.adam.lr", "0.125", "--train.seed", "7"]
    (folder / "config.yaml").write_text(dump(parse_run("train", flags).config, "train"))
    page = render(read_runs([folder]))
    changed = page[page.index("Not at the default") : page.index("settings that act")]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td.*?>(.*?)</td><td>(.*?)</td>', changed)
    assert rows == [
        ("actor.adam.lr", defaults()["actor.adam.lr"], "0.125"),
        ("algo.name", "ppo", "rto"),
        ("train.seed", "42", "7"),
    ]
    assert page.index("Not at the default") < page.index("settings that act")
