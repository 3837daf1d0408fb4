"""Each command and method takes the settings that it reads; the table of it is true."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rto.errors import UserError
from rto.sections import reads
from rto.sections.methods import methods_of
from rto.sections.names import known_fields, shared_fields
from rto.sections.parse import dump, narrow, parse_run
from rto.sections.run_config import RunConfig

TOKEN_REWARD = "dpo.model_name_or_path"


def test_every_entry_names_what_exists_and_every_setting_has_a_reader() -> None:
    names = known_fields()
    for part in (*reads.COMMANDS, *reads.METHODS):
        assert any(reads.covers(part, name) for name in names), part
    for name in names:
        assert any(reads.covers(part, name) for part in reads.COMMANDS), f"{name}: who reads it?"
        assert any(
            reads.reads(command, None, name, {TOKEN_REWARD: "given"}) for command in reads.ORDER
        ), name


def test_a_method_reads_its_own_settings_and_no_other_does() -> None:
    names = [name for name in known_fields() if name not in shared_fields()]
    for name in names:
        owner = name.split(".")[1]
        for command in ("sft", "dpo", "fit", "train"):
            for method in methods_of(command):
                acts = reads.reads(command, method, name, {TOKEN_REWARD: "given"})
                assert acts == (method == owner), (command, method, name)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --algo ppo --dpo_reward_scale 0.3",
         "--dpo_reward_scale is read by --algo rto; --algo ppo does not read it"),
        ("train --algo grpo --dpo_reward_clip 1",
         "read by --algo rto; --algo grpo reads it where dpo.model_name_or_path is set"),
        ("train --algo ppo --dpo.model_name_or_path x", "--dpo.model_name_or_path is read by --a"),
        ("train --algo rloo --critic.value_clip 1", "is read by --algo ppo, rto; --algo rloo does"),
        ("train --algo rloo --algo.advantage.lambd 1", "is read by --algo ppo, rto; --algo rloo d"),
        ("dpo --algo rpo", "--algo is read by `rto fit` and `rto train`; `rto dpo` does not read"),
        ("dpo --rpo_beta 3", "--rpo_beta is read by `rto fit` and `rto train`"),
        ("dpo --loss ipo --preference.gamma 1", "is read by --loss simpo; --loss ipo does not"),
        ("reward --loss ipo --preference.beta 4", "--loss is read by `rto dpo`; `rto reward` does"),
        ("sft --rollout.batch_size 4", "--rollout.batch_size is read by `rto train`; `rto sft` do"),
        ("sft --vllm.num_engines 3 --algo rpo", "--vllm.num_engines is read by `rto train`; `rto"),
        ("train --generate.max_new_tokens 5", "is read by `rto generate`; `rto train` does not"),
        ("generate --supervise", "--supervise starts a training run again; `rto generate` is none"),
        ("generate --resume auto", "--resume is read by `rto sft` and"),
        ("eval --ray.max_restarts 1", "--ray.max_restarts is read by `rto sft`"),
        ("train --model x", "--model is read by `rto generate`"),
        ("fit --algo rpo --algo.kto.beta 1", "is read by --algo kto; --algo rpo does not read it"),
        ("fit --algo rpo --data.chosen_key a", "--data.chosen_key is read by --algo dpo, ipo, ipo"),
        ("fit --algo rpo --critic.value_clip 1", "--critic.value_clip is read by `rto train`"),
        ("train --algo ppo --data.dataset a", "--data.dataset is read by `rto sft` and `rto rewar"),
    ],
)  # fmt: skip
def test_a_flag_that_changes_nothing_is_refused(argv: str, said: str) -> None:
    command, *flags = argv.split()
    with pytest.raises(UserError) as caught:
        parse_run(command, flags)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_flags_that_change_nothing_are_in_one_message() -> None:
    with pytest.raises(UserError) as caught:
        parse_run("sft", ["--algo", "rpo", "--vllm.num_engines", "3"])
    assert "--algo is read by" in str(caught.value)
    assert "--vllm.num_engines is read by" in str(caught.value)


def test_the_token_reward_is_read_where_a_dpo_policy_is_given() -> None:
    flags = ["--algo", "grpo", "--dpo.model_name_or_path", "dpo", "--dpo_reward_scale", "0.3"]
    assert parse_run("train", flags).config.algo.settings.dpo_reward_scale == 0.3


@pytest.mark.parametrize("name", ["xyz", "gpro", "rpo_sq"])
def test_a_method_that_is_not_installed_is_refused_before_its_settings(name: str) -> None:
    with pytest.raises(UserError, match=f"algo.name is '{name}': "):
        parse_run("train", ["--algo", name, "--rpo_beta", "3"])


SHARED = """
algo: {name: ppo, dpo_reward_scale: 0.3}
preference: {beta: 0.7}
rollout: {batch_size: 4}
train: {batch_size: 2}
"""


def test_a_file_may_serve_several_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(SHARED)
    config = parse_run("train", ["--config", str(file)]).config
    assert capsys.readouterr().out == (
        "left out, for rto train with ppo does not read it: "
        "algo.dpo_reward_scale, preference.beta\n"
    )
    assert config.rollout.batch_size == 4
    assert config.algo == RunConfig().algo
    config = parse_run("dpo", ["--config", str(file)]).config
    assert "algo.name, rollout.batch_size" in capsys.readouterr().out.replace(
        "algo.dpo_reward_scale, ", ""
    )
    assert (config.algo.name, config.algo.settings.beta, config.train.batch_size) == ("dpo", 0.7, 2)


def test_config_yaml_holds_what_is_read_and_loads_again(tmp_path: Path) -> None:
    for command, flags in (("train", ["--algo", "rto"]), ("dpo", ["--loss", "ipo"]), ("sft", [])):
        config = parse_run(command, [*flags, "--train.seed", "7"]).config
        file = tmp_path / "config.yaml"
        file.write_text(dump(config, command))
        assert parse_run(command, ["--config", str(file)]).config == config
        sections = set(yaml.safe_load(file.read_text()))
        assert ("rollout" in sections, "algo" in sections) == (True, command != "sft")
        assert "generate" not in sections
    assert set(yaml.safe_load(dump(config, "sft"))["rollout"]) == {"max_tokens_per_gpu"}


def test_a_configuration_for_several_methods_is_narrowed_to_one() -> None:
    flags = ["--dpo.model_name_or_path", "dpo", "--rpo_beta", "3", "--critic.value_clip", "1"]
    rpo, ppo = (parse_run("compare", flags, method=name).config for name in ("rpo", "ppo"))
    assert (rpo.algo.name, rpo.algo.settings.tau) == ("rpo", 3)
    assert (ppo.algo.name, ppo.algo.settings.value_clip) == ("ppo", 1)
    assert rpo.dpo.model_name_or_path == "dpo"
    assert narrow("train", rpo).dpo == RunConfig().dpo
    assert narrow("train", rpo).algo == rpo.algo
