"""Which settings exist, and which spelling means which."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import UserError
from rto.sections.methods import Algo
from rto.sections.names import accepted, aliases, canonical, known_fields, owners, spellings
from rto.sections.parse import parse_run


@pytest.mark.parametrize("spelling", sorted(spellings()))
def test_a_spelling_means_a_field_of_one_type(spelling: str) -> None:
    """A value is read before it is known which method it is for."""
    fields = [known_fields()[name] for name in spellings()[spelling].values()]
    assert all(kind == fields[0] for kind in fields)
    for method, name in spellings()[spelling].items():
        assert canonical(spelling, method) == name
        assert name.startswith(f"algo.{method}.")


def test_a_shared_setting_is_of_no_method() -> None:
    assert owners("train.seed") is None
    assert owners("preference.loss") is None
    assert owners("algo.rpo.tau") == {"rpo"}
    assert owners("algo.advantage.lambd") == {"ppo", "rto"}
    assert canonical("algo.advantage.lambd", "grpo") is None
    assert canonical("train.seed", None) == "train.seed"


def test_a_short_flag_stands_for_the_spelling_of_all_its_methods() -> None:
    assert aliases()["dpo_reward_scale"] == "algo.dpo_reward_scale"
    assert aliases()["rpo_beta"] == "algo.rpo_beta"
    assert set(aliases().values()) <= accepted().keys()


def test_a_file_may_name_the_methods_of_two_commands(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("algo: {name: rto}\npreference: {loss: ipo, beta: 0.7}\n")
    dpo, train = (parse_run(x, ["--config", str(file)]).config.algo for x in ("dpo", "train"))
    assert (dpo.name, dpo.settings.beta, train.name) == ("ipo", 0.7, "rto")
    file.write_text("algo: {name: ipo, ipo: {beta: 0.7}}\n")
    assert parse_run("dpo", ["--config", str(file)]).config.algo == dpo
    with pytest.raises(UserError, match="--loss is 'rpo': did you mean rdpo"):
        parse_run("dpo", ["--loss", "rpo"])


def test_null_in_a_former_spelling_is_the_methods_own(tmp_path: Path) -> None:
    """Files that earlier versions wrote hold it."""
    file = tmp_path / "config.yaml"
    file.write_text("algo: {name: grpo, loss_reduction: null, kl: {estimator: null, target: null}}")
    assert parse_run("train", ["--config", str(file)]).config.algo == Algo("grpo")
    file.write_text("algo: {name: grpo, grpo: {kl_estimator: null}}")
    with pytest.raises(UserError, match="algo.grpo.kl_estimator is null: must be k1, k2 or k3"):
        parse_run("train", ["--config", str(file)])


def test_two_spellings_of_a_setting_are_one_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("algo: {kl: {init_coef: 0.5}}\n")
    flags = ["--config", str(file), "--algo.ppo.kl_coef", "0.25", "--algo.kl.init_coef", "0.125"]
    assert parse_run("train", flags).config.algo.settings.kl_coef == 0.125
    assert capsys.readouterr().out == (
        "given 2 times, the last counts: --algo.ppo.kl_coef 0.25, --algo.kl.init_coef 0.125\n"
    )
    assert parse_run("train", flags[:4]).config.algo.settings.kl_coef == 0.25
    assert parse_run("train", flags[:2]).config.algo.settings.kl_coef == 0.5


def test_a_file_that_gives_a_setting_in_two_spellings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("algo: {name: ppo, kl: {init_coef: 1}, ppo: {kl_coef: 2}}")
    said = "algo.kl.init_coef and algo.ppo.kl_coef are one setting with ppo: give one"
    with pytest.raises(UserError, match=said):
        parse_run("train", ["--config", str(file)])
    # With another method the second is left out, as one of PPO's own.
    flags = ["--config", str(file), "--algo", "rloo"]
    assert parse_run("train", flags).config.algo.settings.kl_coef == 1
