"""Offline stages on actors of this process: what is trained, judged, kept, and gone on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_group import bigram, bigram_logprobs
from local_run import LocalSession, cpu_plan
from stored import stored
from tiny_tokenizers import tiny_tokenizer

from rto.data.examples import Example, Rated, collate_groups
from rto.methods.preference import DPO
from rto.methods.reward_model import RewardModel
from rto.methods.sft import SFT
from rto.protocols import Method
from rto.runs import offline
from rto.runs.offline import OfflineRun, find_checkpoint, loss_metric, reference_models, run_offline
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt, DeepSpeed, Eval, Logger
from rto.sections.training import Actor, Critic, Frozen, Train
from rto.tracking.run_folder import RunFolder
from rto.types import Role

EOS = 5
TEXTS = [(Example((i,), (1 + i % 3, 4, EOS), True),) for i in range(4)]
"""Demonstrations whose second token is always 4."""
PAIRS = [
    (Example((i,), (2, EOS), True), Example((i,), (3, 3, EOS), True)) for i in (0, 1, 2, 3, 4, 1)
]
"""2 is preferred to 3, whatever the prompt."""


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> LocalSession:
    local = LocalSession()
    monkeypatch.setattr(offline, "session", local)
    return local


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def planned(
    model: str,
    method: Method,
    rows: Sequence[Sequence[Example]],
    *,
    steps: int = 4,
    held_out: Sequence[Sequence[Example]] = (),
    best_key: str = "",
    kind: Any = "policy",
    **sections: Any,
) -> OfflineRun:
    common = {
        "actor": Actor(model_name_or_path=model),
        "data": Data(cache_dir=f"{model}.cache", max_len=16),
        "train": Train(batch_size=2, max_epochs=9, max_steps=steps, device="cpu"),
        "ckpt": Ckpt(save_steps=2),
        "ds": DeepSpeed(param_dtype="fp32"),
        "logger": Logger(tensorboard=False),
    }
    config = RunConfig(**{**common, **sections})
    return OfflineRun(
        config=config,
        method=method,
        kind=kind,
        plan=cpu_plan(config),
        tokenizer=tiny_tokenizer(),
        train=stored(rows),
        held_out=stored(held_out or rows).select(np.arange(len(held_out))),
        num_steps=steps,
        visited=np.arange(len(rows)),
        best_key=best_key,
    )


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def table_in(folder: Path) -> torch.Tensor:
    return torch.load(folder / "table", weights_only=True)


def test_every_step_is_logged_and_the_policy_that_it_ends_with_is_exported(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    with RunFolder(tmp_path / "run") as folder:
        metrics = run_offline(planned(model, SFT(), TEXTS, held_out=TEXTS[:1]), folder, None)
        rows = logged(folder)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    losses = [row["sft/loss"] for row in rows]
    assert sum(losses[2:]) < sum(losses[:2]), "the second pass over the same rows"
    (actors,) = session.opened
    table = actors.ranks["policy"].table
    assert torch.equal(table_in(folder.last), table)
    tokens = collate_groups(TEXTS[:1], pad_token_id=0)
    nll = -float(bigram_logprobs(table, tokens).mean())
    assert metrics["eval/nll_per_token"] == pytest.approx(nll)
    assert rows[-1]["eval/nll_per_token"] == pytest.approx(nll), "of the run's last step"


def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    def run(folder: RunFolder, steps: int) -> None:
        config = Ckpt(save_steps=2, load_enable=True)
        made = planned(model, SFT(), TEXTS, steps=steps, ckpt=config)
        run_offline(made, folder, find_checkpoint(made.config, made.method, folder.checkpoints))

    with RunFolder(tmp_path / "whole") as whole:
        run(whole, 4)
    with RunFolder(tmp_path / "parts") as parts:
        run(parts, 2)
        run(parts, 4)
    assert torch.equal(table_in(whole.last), table_in(parts.last))
    losses = [[row["sft/loss"] for row in logged(folder)] for folder in (whole, parts)]
    assert losses[0] == losses[1]
    assert [row["iteration"] for row in logged(parts)] == [0, 1, 2, 3]


def test_a_checkpoint_is_looked_for_where_that_is_asked(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    made = planned(model, SFT(), TEXTS)
    with RunFolder(tmp_path / "run") as folder:
        run_offline(made, folder, None)
        assert find_checkpoint(made.config, made.method, folder.checkpoints) is None
        asked = planned(model, SFT(), TEXTS, ckpt=Ckpt(load_enable=True))
        found = find_checkpoint(asked.config, asked.method, folder.checkpoints)
    assert found is not None
    assert found.step == 3


def test_the_reference_that_the_policy_starts_from_is_scored_by_the_policys_ranks(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    """Before the first step policy and reference are one."""
    with RunFolder(tmp_path / "run") as folder:
        run_offline(planned(model, DPO(), PAIRS), folder, None)
        rows = logged(folder)
    (actors,) = session.opened
    assert (actors.models, actors.ended) == (None, [])
    assert rows[0]["preference/loss"] == pytest.approx(np.log(2))
    assert rows[-1]["preference/loss"] < rows[0]["preference/loss"]


def test_another_reference_has_an_actor_until_all_rows_are_scored(
    session: LocalSession, model: str, tmp_path: Path
) -> None:
    """The first step's margin is that of the policy's log-ratios to the other model's table."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"other": 1}')
    session.parts = {"frozen": {Role.REFERENCE: bigram(3)}}
    made = planned(
        model, DPO(), PAIRS, ref=Frozen(str(other)), train=Train(batch_size=6, max_epochs=4)
    )
    with RunFolder(tmp_path / "run") as folder:
        run_offline(made, folder, None)
        first = logged(folder)[0]
    (actors,) = session.opened
    assert actors.models is not None
    assert dict(actors.models.paths) == {Role.REFERENCE: str(other)}
    assert session.needs[0].models["scorer"] == [str(other)]
    assert actors.ended == ["scorer"]
    tokens = collate_groups(PAIRS, pad_token_id=0)
    ratio = (bigram_logprobs(bigram(), tokens) - bigram_logprobs(bigram(3), tokens)).sum(-1)
    margins = 0.1 * (ratio[0::2] - ratio[1::2])
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    assert DPO().beta == 0.1
    assert first["preference/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_best_of_what_was_judged_is_told_and_exported(
    session: LocalSession, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The margin grows with every step, so the last one is the best."""
    made = planned(
        model,
        DPO(),
        PAIRS,
        held_out=PAIRS[:2],
        best_key="eval/margin",
        eval=Eval(steps=2),
    )
    with RunFolder(tmp_path / "run") as folder:
        metrics = run_offline(made, folder, None)
        rows = logged(folder)
    assert [row["iteration"] for row in rows if "eval/margin" in row] == [1, 3]
    assert torch.equal(table_in(folder.best), table_in(folder.last))
    assert metrics["eval/margin"] == rows[-1]["eval/margin"] > rows[1]["eval/margin"] > 0
    assert "best: step 4, eval/margin " in capsys.readouterr().out


def test_a_run_ends_where_held_out_rows_get_no_better(
    session: LocalSession, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out pairs prefer what training teaches to avoid: the first evaluation is the best, and
    `last` is of the second, whose number is its patience."""
    turned = [(rejected, chosen) for chosen, rejected in PAIRS[:2]]
    made = planned(
        model,
        DPO(),
        PAIRS,
        steps=8,
        held_out=turned,
        best_key="eval/margin",
        eval=Eval(steps=1, patience=1),
    )
    with RunFolder(tmp_path / "run") as folder:
        run_offline(made, folder, None)
        assert [row["iteration"] for row in logged(folder)] == [0, 1]
    said = capsys.readouterr().out
    assert "best: step 1, eval/margin" in said
    assert "stopped early: 1 evaluations in a row were no better" in said


@pytest.mark.parametrize("held_out", [2, 0])
def test_a_reward_model_leaves_the_constants_of_its_scores(
    held_out: int, session: LocalSession, model: str, tmp_path: Path
) -> None:
    """Of held-out pairs where there are some, else of those it was trained on."""
    made = planned(
        model,
        RewardModel(),
        PAIRS,
        held_out=PAIRS[:held_out],
        kind="score",
    )
    with RunFolder(tmp_path / "run") as folder:
        metrics = run_offline(made, folder, None)
    judged = PAIRS[:held_out] or PAIRS
    (actors,) = session.opened
    scores = actors.ranks["policy"].score(collate_groups(judged, pad_token_id=0))
    constants = json.loads((folder.last / "config.json").read_text())
    assert constants["rank"] == "score"
    assert constants["mean"] == pytest.approx(float(scores.mean()))
    assert constants["std"] == pytest.approx(float(scores.std(correction=0)))
    area = "eval" if held_out else "train"
    assert metrics[f"{area}/mean"] == constants["mean"]
    assert {name.split("/")[0] for name in metrics} == {area}


def test_a_reference_needs_an_actor_where_the_policy_does_not_start_from_it() -> None:
    def models(reads: set[Role], *, ref: str | None) -> dict[Role, str]:
        config = RunConfig(actor=Actor(model_name_or_path="a"), ref=Frozen(ref))
        return dict(reference_models(config, frozenset(reads)).paths)

    assert models({Role.REFERENCE}, ref=None) == {}
    assert models({Role.REFERENCE}, ref="a") == {}
    assert models({Role.REFERENCE}, ref="b") == {Role.REFERENCE: "b"}
    assert models({Role.UNRELATED}, ref="b") == {Role.REFERENCE: "b"}
    assert models({Role.REWARD}, ref="b") == {}


@pytest.mark.parametrize(
    ("method", "kind", "name"),
    [
        (SFT(), "policy", "sft/loss"),
        (DPO(), "policy", "preference/loss"),
        (RewardModel(), "score", "reward_model/loss"),
    ],
)
def test_the_loss_that_is_shown_is_one_that_is_logged(
    method: Method, kind: str, name: str, session: LocalSession, model: str, tmp_path: Path
) -> None:
    rows = TEXTS if name == "sft/loss" else PAIRS
    made = planned(model, method, rows, steps=1, kind=kind)
    assert loss_metric(made) == name
    with RunFolder(tmp_path / "run") as folder:
        run_offline(made, folder, None)
        assert name in logged(folder)[0]


def test_a_critic_starts_from_its_own_model_or_from_the_policys(
    session: LocalSession, model: str
) -> None:
    class Valued(SFT):
        @property
        def roles(self) -> frozenset[Role]:
            return frozenset({Role.CRITIC})

    rated = [(Rated((0,), (1, EOS), True, 1.0),)] * 2
    for path, expected in ((None, model), ("c", "c")):
        made = planned(model, Valued(), rated, critic=Critic(model_name_or_path=path))
        with session(made.config, made.plan, logs=Path()) as actors:
            learner = offline._start(made, actors)
        assert list(learner.groups) == ["policy", "critic"]
        spec = actors.ranks["critic"].spec
        assert spec is not None
        assert (spec.kind, spec.model_path, spec.total_steps) == ("critic", expected, 4)
