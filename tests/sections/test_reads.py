"""Each command and method takes the settings that it reads; the table of it is true."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from recorded import recorded

from rto.errors import UserError
from rto.registry import GROUP, build
from rto.sections import reads
from rto.sections.parse import build as build_config
from rto.sections.parse import dump, known_fields, narrow, parse_run
from rto.sections.run_config import RunConfig


class Tokens:
    """A tokenizer with a sentence's end, which is all that builders look at."""

    eos_token_id = 0

    def __len__(self) -> int:
        return 1

    def decode(self, token_id: int) -> str:
        return "."


OWN = ("algo", "preference", "actor.eps_clip", "actor.dual_clip", "actor.entropy_coef")
"""What methods are built from, and nothing else in the pipeline reads."""
LEFT = {"algo.name", "algo.ptx_coef", "algo.authors_code", "preference.loss"}
"""What other code reads: the choice of the method, the mix of texts, the authors' settings."""
MODES = {"offline": ("dpo", "fit"), "online": ("train",)}


def own(name: str) -> bool:
    return name not in LEFT and any(name.startswith(part) for part in OWN)


@pytest.mark.parametrize("method", sorted(reads.KNOWN - {"reward"}))
@pytest.mark.parametrize("dpo_model", [None, "dpo"])
def test_the_table_says_what_a_method_is_built_from(method: str, dpo_model: str | None) -> None:
    given: dict[str, Any] = {
        reads.TOKEN_REWARD: dpo_model,
        "rollout.n_samples_per_prompt": 2,
        "algo.advantage.is_correction_enable": True,
    }
    config = build_config({key: value for key, value in given.items() if value is not None})
    seen: set[str] = set()
    mode = "online" if method in reads.POLICY_GRADIENT else "offline"
    built = build(
        method, recorded(config, seen), typing.cast(Any, Tokens()), mode=typing.cast(Any, mode)
    )
    assert built.card.name == method
    command = "train" if mode == "online" else "dpo" if method in reads.PAIRS else "fit"
    claimed = {name for name in known_fields() if reads.reads(command, method, name, given)}
    assert {name for name in seen if own(name)} == {name for name in claimed if own(name)}


def test_every_method_of_this_package_is_in_the_table() -> None:
    from importlib.metadata import entry_points

    own_points = [p for p in entry_points(group=GROUP) if p.value.startswith(("rto.", "rpo_ext."))]
    assert {point.name for point in own_points} | {"reward"} == reads.KNOWN


def test_every_entry_names_what_exists_and_every_setting_has_a_reader() -> None:
    names = known_fields()
    for table in (reads.COMMANDS, reads.METHODS):
        for part in table:
            assert any(reads.covers(part, name) for name in names), part
    for name in names:
        assert any(reads.covers(part, name) for part in reads.COMMANDS), f"{name}: who reads it?"
        assert any(
            reads.reads(command, None, name, {reads.TOKEN_REWARD: "given"})
            for command in reads.ORDER
        ), name


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
    assert parse_run("train", flags).config.algo.dpo_reward_scale == 0.3


def test_a_method_of_another_package_reads_everything() -> None:
    flags = ["--algo", "theirs", "--rpo_beta", "3", "--dpo_reward_scale", "0.3"]
    assert parse_run("train", flags).config.algo.rpo_beta == 3
    with pytest.raises(UserError, match="`rto train` does not read it"):
        parse_run("train", [*flags, "--data.eval_ratio", "0.1"])


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
    assert config.preference.beta is None
    assert config.algo.dpo_reward_scale == RunConfig().algo.dpo_reward_scale
    config = parse_run("dpo", ["--config", str(file)]).config
    assert "algo.name, rollout.batch_size" in capsys.readouterr().out.replace(
        "algo.dpo_reward_scale, ", ""
    )
    assert (config.preference.beta, config.train.batch_size) == (0.7, 2)


def test_config_yaml_holds_what_is_read_and_loads_again(tmp_path: Path) -> None:
    for command, flags in (("train", ["--algo", "rto"]), ("dpo", ["--loss", "ipo"]), ("sft", [])):
        config = parse_run(command, [*flags, "--train.seed", "7"]).config
        file = tmp_path / "config.yaml"
        file.write_text(dump(config, command))
        assert parse_run(command, ["--config", str(file)]).config == config
        sections = set(yaml.safe_load(file.read_text()))
        assert ("rollout" in sections, "algo" in sections) == (True, command == "train")
        assert "generate" not in sections
    assert set(yaml.safe_load(dump(config, "sft"))["rollout"]) == {"max_tokens_per_gpu"}


def test_a_configuration_for_several_methods_is_narrowed_to_one() -> None:
    flags = ["--dpo.model_name_or_path", "dpo", "--rpo_beta", "3", "--critic.value_clip", "1"]
    both = parse_run("compare", flags).config
    assert both.algo.rpo_beta == 3
    as_rpo = narrow(
        "train", dataclasses.replace(both, algo=dataclasses.replace(both.algo, name="rpo"))
    )
    assert (as_rpo.algo.rpo_beta, as_rpo.critic, as_rpo.dpo) == (
        3,
        RunConfig().critic,
        RunConfig().dpo,
    )
    as_ppo = narrow("train", both)
    assert (as_ppo.algo.rpo_beta, as_ppo.critic.value_clip) == (1, 1)
