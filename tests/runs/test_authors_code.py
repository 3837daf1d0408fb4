"""--authors_code: which objective, for which method, and that it says so."""

from __future__ import annotations

import pytest

from rpo_ext.builders import dro, kto, rpo
from rto.errors import UserError
from rto.runs.authors_code import told, with_authors_code
from rto.sections.methods import Algo
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig


def authors(name: str, *flags: str) -> RunConfig:
    parsed = parse_run("fit", ["--algo", name, "--authors_code", *flags])
    return with_authors_code("fit", parsed.config)


class NoTokenizer:
    """The three builders read none."""


def test_each_method_becomes_the_released_one() -> None:
    tokenizer: object = NoTokenizer()
    partition = rpo(authors("rpo", "--rpo_beta", "5"), tokenizer)  # pyright: ignore[reportArgumentType]
    assert (partition.estimator, partition.reduction, partition.tau) == ("batch_mean", "mean", 5)
    regression = dro(authors("dro"), tokenizer)  # pyright: ignore[reportArgumentType]
    assert (regression.variant, regression.reduction) == ("shared_head", "mean")
    prospect = kto(authors("kto"), tokenizer)  # pyright: ignore[reportArgumentType]
    assert (prospect.variant, prospect.reduction, prospect.beta) == ("matched_mean", "mean", 1.0)


def test_it_overrides_a_config_file_and_tells_what_it_set() -> None:
    config = authors("rpo", "--algo.rpo.estimator", "ref")
    assert config.algo.rpo.estimator == "batch_mean"
    assert told(config) == (
        "the authors' code: algo.rpo.estimator batch_mean, algo.rpo.reduction mean"
    )
    assert "authors_code: true" in dump(config)
    assert with_authors_code("fit", config) == config


def test_without_the_flag_nothing_changes() -> None:
    config = parse_run("fit", ["--algo", "rpo"]).config
    assert with_authors_code("fit", config) is config


def test_elsewhere_it_is_refused() -> None:
    with pytest.raises(UserError, match="read by --algo dro, kto, rpo; --algo reward_aware"):
        authors("reward_aware")
    with pytest.raises(UserError, match="a flag of `rto fit`, not of `rto train`"):
        with_authors_code("train", RunConfig(algo=Algo(name="rpo", authors_code=True)))
    with pytest.raises(UserError, match="code has rpo, dro, kto, not dpo"):
        with_authors_code("fit", RunConfig(algo=Algo(name="dpo", authors_code=True)))
