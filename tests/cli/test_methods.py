"""Names to methods: every installed one builds, and a wrong name or mode says what is right."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, cast

import pytest

from rto.card import Mode
from rto.cli.methods import FEEDBACK_ORDER
from rto.errors import UserError
from rto.methods.critic_free import CriticFree
from rto.methods.rto import DpoTokenReward
from rto.methods.settings.policy_gradient import RLOO
from rto.protocols import CriticMethod, PolicyMethod
from rto.registry import build, card
from rto.sections.methods import GROUP, Algo, settings_of
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig
from rto.sections.training import DPOModel
from rto.types import Role

NAMES = sorted(point.name for point in entry_points(group=GROUP))
OURS = {
    *("sft", "dpo", "ipo", "ipo_sum", "rdpo", "simpo", "tdpo1", "tdpo2"),
    *("ppo", "rto", "reinforce_pp", "reinforce_baseline", "rloo", "grpo", "dr_grpo"),
    *("rpo", "dro", "kto", "reward_aware"),
}
NO_TOKENIZER = cast(Any, None)
"""Only the segments of RTO's "semi" variant read one."""


def configured(name: str, dpo: DPOModel | None = None, **fields: Any) -> RunConfig:
    settings = replace(settings_of(name), **fields)
    return RunConfig(algo=Algo(name, settings), dpo=dpo or DPOModel())


def built(name: str, dpo: DPOModel | None = None, **fields: Any) -> PolicyMethod:
    config = configured(name, dpo, **fields)
    return build(config, NO_TOKENIZER, mode=card(name).modes[0])


def message(name: str, mode: Mode, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(configured(name, **fields), NO_TOKENIZER, mode=mode)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_our_methods_are_installed() -> None:
    assert set(NAMES) >= OURS


@pytest.mark.parametrize("name", NAMES)
def test_every_method_builds_from_the_defaults_and_knows_its_name(name: str) -> None:
    for mode in card(name).modes:
        method = build(configured(name), NO_TOKENIZER, mode=mode)
        assert isinstance(method, PolicyMethod)
        assert method.card == card(name)
    assert card(name).name == name
    assert card(name).feedback in FEEDBACK_ORDER
    assert str(card(name)) == f"{card(name).title} ({card(name).paper})"


def test_titles_tell_the_methods_apart() -> None:
    assert len({card(name).title for name in NAMES}) == len(NAMES)


def test_an_unknown_name() -> None:
    assert message("gpro", "online") == "algo.name is 'gpro': did you mean grpo?"
    said = message("xyz", "online")
    assert said == f"algo.name is 'xyz': one of {', '.join(NAMES)}"
    with pytest.raises(UserError, match="did you mean dpo"):
        card("dpoo")


@pytest.mark.parametrize("name", ["rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq"])
def test_another_programs_name_for_a_method_is_told_ours(name: str) -> None:
    said = message(name, "offline")
    flags = said.partition("write ")[2].split()
    assert flags[:2] == ["--algo", "reward_aware"]
    config = parse_run("fit", flags).config
    assert card(config.algo.name).name == "reward_aware"
    assert build(config, NO_TOKENIZER, mode="offline").card == card("reward_aware")


@pytest.mark.parametrize(
    ("name", "mode", "command"),
    [("ppo", "offline", "rto train"), ("dpo", "online", "rto fit"), ("sft", "online", "rto fit")],
)
def test_the_other_mode_names_the_right_command(name: str, mode: Mode, command: str) -> None:
    assert message(name, mode) == (
        f"algo {name} does not train {mode}: use `{command} --algo {name}`"
    )


def test_a_setting_that_a_method_refuses_is_the_users() -> None:
    said = message("dr_grpo", "online", loss_reduction="sequence")
    assert said == (
        "algo.dr_grpo.loss_reduction is sequence: dr_grpo divides by a constant length, leave it "
        "unset"
    )


def critic_free(name: str, dpo: DPOModel | None = None, **fields: Any) -> CriticFree:
    method = built(name, dpo, **fields)
    assert isinstance(method, CriticFree)
    assert not isinstance(method, CriticMethod)
    return method


@pytest.mark.parametrize(
    ("name", "estimator", "in_loss", "reduction"),
    [
        ("reinforce_pp", "k1", False, "token"),
        ("reinforce_baseline", "k2", True, "token"),
        ("rloo", "k1", False, "token"),
        ("grpo", "k3", True, "sequence"),
        ("dr_grpo", "k3", True, "token"),
    ],
)
def test_a_method_has_its_papers_settings_until_a_flag_says_otherwise(
    name: str, estimator: str, in_loss: bool, reduction: str
) -> None:
    plain = critic_free(name)
    assert (plain.kl_estimator, plain.kl_use_loss, plain.loss_reduction) == (
        estimator,
        in_loss,
        reduction,
    )
    flagged = critic_free(name, kl_estimator="k2", kl_use_loss=not in_loss)
    assert flagged == replace(plain, kl_estimator="k2", kl_use_loss=not in_loss)


def test_settings_reach_a_method_without_a_critic() -> None:
    fields: dict[str, Any] = {
        "eps_clip": 0.1,
        "entropy_coef": 0.5,
        "reward_coef": 2.0,
        "reward_clip_range": (-1.0, 1.0),
        "kl_coef": 0.25,
        "kl_target": 3.0,
        "gamma": 0.5,
        "no_std_norm": True,
        "is_correction_enable": True,
        "baseline": "mean",
    }
    method = critic_free("rloo", **fields)
    longest = RunConfig().max_new_tokens
    assert method == RLOO.into(CriticFree, **fields, max_response_length=longest)
    assert (method.clip_low_high, method.is_correction) == ((0.1, 0.1), "tis")


@pytest.mark.parametrize("name", ["reinforce_pp", "reinforce_baseline", "rloo", "grpo", "dr_grpo"])
def test_the_token_reward_joins_in_where_a_dpo_policy_is_given(name: str) -> None:
    plain = critic_free(name)
    assert Role.DPO not in plain.roles
    paid = critic_free(name, DPOModel("d"), dpo_reward_scale=0.2)
    assert paid.roles == plain.roles | {Role.DPO}
    assert paid == replace(plain, token_rewards=(DpoTokenReward(scale=0.2),))
    assert critic_free(name, DPOModel("d"), dpo_reward_scale=0.0) == plain
    own = DPOModel("d", ref_model_name_or_path="other")
    assert Role.DPO_REFERENCE in critic_free(name, own).roles


LISTING = """
from rto.cli.main import main
main(["methods"])
print("JSON")
main(["methods", "--json"])
"""


def test_the_list_of_methods() -> None:
    """In a process of its own: the command redirects the libraries' logs for good."""
    command = [sys.executable, "-c", LISTING]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    table, text = done.stdout.split("JSON\n")
    rows = {row["name"]: row for row in json.loads(text)}
    assert sorted(rows) == NAMES
    assert {name for name in NAMES if f" {name} " not in table} == set()
    assert rows["rto"] == {
        "name": "rto",
        "title": "Reinforced Token Optimization",
        "paper": "arXiv 2404.18922",
        "feedback": "rewards",
        "offline": False,
        "online": True,
        "critic": True,
        "reference": True,
        "dpo model": True,
    }
    needs = {
        name: tuple(rows[name][x] for x in ("critic", "reference", "dpo model")) for name in OURS
    }
    assert needs["sft"] == needs["simpo"] == (False, False, False)
    assert needs["dpo"] == needs["kto"] == needs["grpo"] == (False, True, False)
    assert needs["ppo"] == (True, True, False)
    order = [FEEDBACK_ORDER.index(row["feedback"]) for row in json.loads(text)]
    assert order == sorted(order)
