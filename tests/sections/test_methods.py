"""The settings of a run's method, and what becomes of a package that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_package import write_distribution

from rto.errors import UserError
from rto.methods.settings.policy_gradient import GRPO, RTOSettings
from rto.methods.settings.preference import RDPOSettings
from rto.sections.methods import Algo, fields_of, methods_of
from rto.sections.parse import parse_run


def test_a_method_comes_with_its_own_settings() -> None:
    assert Algo("grpo").settings == GRPO
    assert Algo("rto", RTOSettings(kl_coef=0.5)).settings.kl_coef == 0.5
    with pytest.raises(UserError, match="algo.name is 'grpo' with settings of Reinforced Token"):
        Algo("grpo", RTOSettings())
    with pytest.raises(UserError, match="algo.name is 'gpro': did you mean grpo"):
        Algo("gpro")


def test_the_fields_that_a_method_adds_come_before_its_bases() -> None:
    names = list(fields_of("rto"))
    assert names[:3] == ["dpo_reward_scale", "dpo_reward_clip", "dpo_reward_variant"]
    assert names.index("lambd") < names.index("kl_coef")
    assert list(fields_of("rdpo")) == ["alpha", "beta", "nll_coef"]
    assert not {"card", "reduction"} & fields_of("ipo").keys()


def test_a_command_runs_the_methods_that_train_its_way() -> None:
    assert methods_of("sft") == {"sft"}
    assert methods_of("dpo") == {"dpo", "ipo", "ipo_sum", "rdpo", "simpo", "tdpo1", "tdpo2"}
    assert {"rpo", "kto", "sft", "dpo"} < methods_of("fit")
    assert not {"ppo", "rto"} & methods_of("fit")
    assert {"ppo", "rto", "rpo"} < methods_of("train")
    assert not {"sft", "dpo"} & methods_of("train")


def test_into_carries_the_fields_that_both_have() -> None:
    other = RDPOSettings(beta=0.5, alpha=0.25).into(RTOSettings, kl_coef=0.1)
    assert other == RTOSettings(card=RDPOSettings().card, kl_coef=0.1)


BROKEN = {
    "fails": ("raise RuntimeError('no such chip')", "RWR", "RuntimeError: no such chip; mend or"),
    "function": ("def RWR(config, tokenizer): ...", "RWR", "is no frozen dataclass: see docs/ext"),
    "absent": ("", "RWR", "cannot be loaded: AttributeError"),
    "default": (
        "from dataclasses import dataclass\nfrom rto.card import Card\n"
        "from rto.sections.ranges import Positive\n"
        "@dataclass(frozen=True)\nclass RWR:\n    beta: Positive = -1.0\n"
        "    card = Card('rwr', 't', 'p', 'rewards', ('offline',))\n",
        "RWR",
        "algo.rwr.beta is -1.0: must be above 0",
    ),
    "name": (
        "from dataclasses import dataclass\nfrom rto.card import Card\n"
        "@dataclass(frozen=True)\nclass RWR:\n"
        "    card = Card('other', 't', 'p', 'rewards', ('offline',))\n",
        "RWR",
        "calls itself other: give card that name",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_package_that_cannot_be_loaded_is_one_line_and_harms_no_other_method(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name, said = BROKEN[kind]
    module = f"rto_broken_{kind}"
    (tmp_path / f"{module}.py").write_text(source)
    write_distribution(tmp_path, "rto-broken", "rwr", f"{module}:{name}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        parse_run("fit", ["--algo", "rwr"])
    text = str(caught.value)
    assert text.startswith("algo.name is 'rwr': ")
    assert said in text
    assert "\n" not in text
    assert parse_run("fit", ["--algo", "rpo"]).config.algo.name == "rpo"
    assert "rwr" not in methods_of("fit")
