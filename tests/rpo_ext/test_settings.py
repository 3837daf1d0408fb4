"""The settings of the methods with one number per response; --authors_code and what it sets."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rpo_ext.settings import DROSettings, KTOSettings, RPOSettings
from rto.errors import UserError
from rto.protocols import PolicyMethod
from rto.registry import build
from rto.sections.methods import Algo
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig


def authors(name: str, *flags: str) -> RunConfig:
    return parse_run("fit", ["--algo", name, "--authors_code", *flags]).config


def method(config: RunConfig) -> Any:
    return build(config, cast(Any, None), mode="offline")


def test_each_method_becomes_the_released_one() -> None:
    partition = method(authors("rpo", "--rpo_beta", "5"))
    assert (partition.estimator, partition.reduction, partition.tau) == ("batch_mean", "mean", 5)
    regression = method(authors("dro"))
    assert (regression.variant, regression.logprob_reduction) == ("shared_head", "mean")
    prospect = method(authors("kto", "--algo.kto.threshold", "label"))
    assert (prospect.variant, prospect.threshold) == ("matched_mean", "global_mean")
    assert (prospect.reduction, prospect.inverse_temperature) == ("mean", 1.0)


def test_it_overrides_the_objective_and_says_what_it_set() -> None:
    config = authors("rpo", "--algo.rpo.estimator", "ref")
    assert config.algo.settings.estimator == "batch_mean"
    assert config.algo.settings.says() == (
        "the authors' code: algo.rpo.estimator batch_mean, algo.rpo.reduction mean"
    )
    assert "authors_code: true" in dump(config, "fit")


def test_without_the_flag_nothing_changes() -> None:
    settings = parse_run("fit", ["--algo", "rpo"]).config.algo.settings
    assert settings == settings.resolved() == RPOSettings()
    assert settings.says() == ""


def test_a_method_that_the_released_code_does_not_have_refuses_it() -> None:
    with pytest.raises(UserError, match="read by --algo dro, kto, rpo; --algo reward_aware"):
        authors("reward_aware")


def test_what_is_left_unset_depends_on_the_variant() -> None:
    reductions = {
        variant: method(RunConfig(algo=Algo("dro", DROSettings(variant=variant)))).logprob_reduction
        for variant in ("value", "shared_head", "policy", "prompt_variance")
    }
    assert reductions == {
        "value": "sum", "shared_head": "mean", "policy": "sum", "prompt_variance": "sum"
    }  # fmt: skip
    betas = [
        method(RunConfig(algo=Algo("kto", KTOSettings(variant=variant)))).inverse_temperature
        for variant in ("mismatched", "matched_mean")
    ]
    assert betas == [0.1, 1.0]
    given: PolicyMethod = method(RunConfig(algo=Algo("kto", KTOSettings(beta=0.5))))
    assert cast(Any, given).inverse_temperature == 0.5
