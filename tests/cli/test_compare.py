"""What is compared: entries, and the runs that give each method the same budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_package import write_example

from rto.cli.compare import main
from rto.comparison.run import (
    SECONDS,
    ComparedMethod,
    ComparedRun,
    ComparisonPlan,
    chosen,
    entries,
    is_trained,
    planned_runs,
    rows_per_group,
)
from rto.comparison.tables import Judged
from rto.errors import UserError
from rto.registry import takes_token_reward
from rto.sections.parse import dump, parse_run

DPO_FLAGS = ["--dpo.model_name_or_path", "dpo_policy"]


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """16 sequences a step, 8 prompts x 4 samples an iteration, 4 and 2 responses to two prompts."""
    rows = [
        {"prompt": f"p{i}", "responses": [{"text": f"r{k}", "reward": k} for k in range(size)]}
        for i, size in enumerate((4, 2))
    ]
    feedback = tmp_path / "feedback.jsonl"
    feedback.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("--train.batch_size", "16", "--rollout.batch_size", "8"),
        *("--rollout.n_samples_per_prompt", "4", "--data.feedback", str(feedback)),
    ]


def plan(
    base: list[str], algos: str, *, seeds: int = 1, budget: int = 256, **more
) -> ComparisonPlan:
    return ComparisonPlan(
        base=base,
        entries=entries(algos),
        seeds=seeds,
        budget=budget,
        prompts="prompts.jsonl",
        root=Path("root"),
        **more,
    )


def planned(base: list[str], algos: str, **more) -> list[ComparedRun]:
    return list(planned_runs(plan(base, algos, **more)))


def test_entries() -> None:
    assert entries("dpo,rpo:online,grpo+rto,rpo,rto,kto:offline,grpo+rto:online") == [
        ComparedMethod("dpo", "dpo", "offline"),
        ComparedMethod("rpo:online", "rpo", "online"),
        ComparedMethod("grpo+rto", "grpo", "online", token_reward=True),
        ComparedMethod("rpo", "rpo", "offline"),
        ComparedMethod("rto", "rto", "online", token_reward=True),
        ComparedMethod("kto:offline", "kto", "offline"),
        ComparedMethod("grpo+rto:online", "grpo", "online", token_reward=True),
    ]


def test_a_name_given_twice_is_compared_with_itself() -> None:
    found = entries("ppo,dpo,ppo,ppo")
    assert [entry.label for entry in found] == ["ppo", "dpo", "ppo'", "ppo''"]
    assert [entry.algo for entry in found] == ["ppo", "dpo", "ppo", "ppo"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("ppo,dpoo", "algo.name is 'dpoo': did you mean dpo?"),
        ("grpo+rtox", "algo.name is 'grpo+rtox': did you mean grpo?"),
        ("dpo:online", "--algos dpo:online: dpo trains offline"),
        ("ppo:offline", "--algos ppo:offline: ppo trains online"),
        ("rpo:both", "--algos rpo:both: rpo trains offline, online"),
    ],
)
def test_entries_that_cannot_be(names: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        entries(names)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("algos", "batch_size", "max_steps"),
    [
        ("ppo", 16, 256 // (8 * 4)),
        ("rpo:online", 16, 256 // (8 * 4)),
        ("sft", 16, 256 // 16),
        ("dpo", 16 // 2, 256 // 16),
        # 3 responses to a prompt on average: 5 prompts are nearest to 16 sequences.
        ("rpo", 5, 256 // 16),
    ],
)
def test_every_method_trains_on_the_budget(
    flags: list[str], algos: str, batch_size: int, max_steps: int
) -> None:
    (run,) = planned(flags, algos)
    train = run.config.train
    assert (train.batch_size, train.max_steps) == (batch_size, max_steps)
    assert run.config.algo.name == algos.partition(":")[0]
    assert train.max_epochs == (1 if run.entry.mode == "online" else 1_000)


def test_online_passes_over_a_rollout_count(flags: list[str]) -> None:
    (run,) = planned([*flags, "--train.max_epochs", "2"], "ppo")
    assert (run.config.train.max_steps, run.config.train.max_epochs) == (256 // (8 * 4 * 2), 2)


def test_a_budget_below_one_step_is_one_step(flags: list[str]) -> None:
    runs = planned(flags, "ppo,dpo", budget=3)
    assert [run.config.train.max_steps for run in runs] == [1, 1]


def test_an_offline_batch_divides_over_the_ranks(flags: list[str]) -> None:
    """5 prompts of 3 responses would be nearest to 16 sequences; of 4 and 6 for two ranks, 6 is."""
    runs = planned([*flags, "--actor.num_gpus_per_node", "2"], "rpo,dpo")
    assert [run.config.train.batch_size for run in runs] == [6, 8]


def test_what_one_unit_of_a_batch_holds(flags: list[str]) -> None:
    config = parse_run("train", flags).config
    found = {name: rows_per_group(config, name) for name in ("sft", "dpo", "simpo", "rpo")}
    assert found == {"sft": 1, "dpo": 2, "simpo": 2, "rpo": (4 + 2) / 2}


def test_runs_of_one_name_have_seeds_of_their_own(flags: list[str]) -> None:
    runs = planned(flags, "ppo,dpo,ppo", seeds=2)
    assert [(run.entry.label, run.seed) for run in runs] == [
        *(("ppo", 0), ("ppo", 1), ("dpo", 0), ("dpo", 1), ("ppo'", 2), ("ppo'", 3))
    ]
    assert [run.config.train.seed for run in runs] == [run.seed for run in runs]
    assert len({run.folder for run in runs}) == 6


def test_folders_are_named_after_the_run(flags: list[str]) -> None:
    folders = [str(run.folder) for run in planned(flags, "rpo:online,grpo+rto", seeds=2)]
    assert folders == [
        f"{Path.cwd()}/root/runs/{name}-seed{seed}"
        for name in ("rpo-online", "grpo-rto")
        for seed in (0, 1)
    ]


def test_only_those_who_read_it_get_the_dpo_policy(flags: list[str]) -> None:
    runs = planned([*flags, *DPO_FLAGS], "ppo,rto,grpo,grpo+rto")
    given = {run.entry.label: run.config.dpo.model_name_or_path for run in runs}
    assert given == {"ppo": None, "rto": "dpo_policy", "grpo": None, "grpo+rto": "dpo_policy"}


def test_only_a_method_that_reads_a_dpo_policy_has_a_token_reward() -> None:
    assert takes_token_reward("grpo")
    assert takes_token_reward("rto")
    for name in ("ppo", "rpo", "dpo"):
        assert not takes_token_reward(name)


def test_a_method_of_another_package_has_a_token_reward_if_it_reads_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class says nothing of the sections that it reads; its roles do."""
    monkeypatch.syspath_prepend(write_example(tmp_path))
    assert not takes_token_reward("rwr")
    with pytest.raises(UserError, match="rwr has no token reward; write rwr"):
        entries("rwr+rto")


def test_a_grid_is_every_combination(flags: list[str]) -> None:
    grid = {"actor.adam.lr": ["1e-5", "1e-6"], "algo.kl.init_coef": ["0.1", "0.2"]}
    runs = planned(flags, "ppo", seeds=2, grid=grid)
    found = {(r.config.actor.adam.lr, r.config.algo.settings.kl_coef) for r in runs}
    assert found == {(1e-5, 0.1), (1e-5, 0.2), (1e-6, 0.1), (1e-6, 0.2)}
    assert len({run.name for run in runs}) == len(runs) == 4 * 2
    assert runs[0].name == "ppo-lr-1e-5-init_coef-0.1-seed0"


def test_a_grid_may_change_what_the_budget_buys(flags: list[str]) -> None:
    runs = planned(flags, "ppo", grid={"rollout.n_samples_per_prompt": ["2", "8"]})
    assert [run.config.train.max_steps for run in runs] == [256 // (8 * 2), 256 // (8 * 8)]


@pytest.mark.parametrize("axis", ["actor.adam.lr", "actor.adam.lr=", "="])
def test_a_grid_that_is_no_list_is_one_line(tmp_path: Path, axis: str) -> None:
    root = tmp_path / "out"
    argv = ["--algos", "ppo", "--prompts", "p.jsonl", "--output_dir", str(root), "--grid", axis]
    with pytest.raises(UserError) as caught:
        main(argv)
    assert str(caught.value) == f"--grid {axis!r}: write NAME=VALUE,VALUE"
    assert not root.exists()


def test_a_grid_over_an_unknown_setting(flags: list[str]) -> None:
    with pytest.raises(UserError, match=r"unknown flag --actor\.adam\.lrr: did you mean"):
        planned(flags, "ppo", grid={"actor.adam.lrr": ["1"]})


def judged(*rewards: float) -> Judged:
    return Judged(np.array(rewards)[:, None], kl=0.0, length=1.0)


def test_without_a_grid_all_prompts_judge(flags: list[str]) -> None:
    one = plan(flags, "ppo,dpo", seeds=2)
    runs, start = list(planned_runs(one)), judged(0, 0)
    scores = {run.name: judged(i, i) for i, run in enumerate(runs)}
    methods, judged_start = chosen(one, runs, scores, start)
    assert {name: [float(x.rewards.mean()) for x in r] for name, r in methods.items()} == {
        "ppo": [0, 1],
        "dpo": [2, 3],
    }
    assert judged_start is start


def test_the_prompts_that_select_do_not_judge(flags: list[str]) -> None:
    """The first point is better on prompts 0 and 2, which select, and worse on those that judge."""
    searched = plan(flags, "ppo", seeds=2, grid={"actor.adam.lr": ["1e-5", "1e-6"]})
    runs = list(planned_runs(searched))
    first, second = judged(9, 1, 9, 2), judged(0, 50, 0, 50)
    scores = {run.name: first if "1e-5" in run.name else second for run in runs}
    methods, start = chosen(searched, runs, scores, judged(5, 6, 7, 8))
    assert [run.rewards.tolist() for run in methods["ppo"]] == [[[1], [2]]] * 2
    assert start.rewards.tolist() == [[6], [8]]


def test_a_finished_run_is_known_by_its_settings(flags: list[str], tmp_path: Path) -> None:
    (run,) = planned_runs(replace(plan(flags, "rpo"), root=tmp_path))
    run.folder.mkdir(parents=True)
    file, text = run.folder / "config.yaml", dump(run.config, run.command)
    file.write_text(text)
    assert not is_trained(run)
    (run.folder / SECONDS).write_text("1.0\n")
    assert is_trained(run)
    file.write_text("".join(x for x in text.splitlines(True) if "layout" not in x))
    assert is_trained(run)
    file.write_text(text.replace("max_len: 2048", "max_len: 1024"))
    assert not is_trained(run)
    file.write_text("of_another_version: 1\n")
    assert not is_trained(run)
