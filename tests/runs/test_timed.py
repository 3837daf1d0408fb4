"""Which runs the cost model times, with which lengths, and at the pace of which run."""

from __future__ import annotations

from pathlib import Path

import pytest
from timed_runs import GPUS, PARAMS, flags, modelled, read, time_of, write_measured

from rto.errors import UserError
from rto.planning.cost import iteration
from rto.planning.rates import Rates
from rto.runs.planned import planned, weigh
from rto.runs.timed import timed
from rto.sections.parse import parse_run


def test_a_run_on_eight_a100(tmp_path: Path) -> None:
    found = modelled(time_of(read(tmp_path, *GPUS)))
    job = found.job
    assert (job.machine.gpus, job.machine.card.name) == (8, "A100")
    assert (job.prompt_tokens, job.response_tokens) == (0.25 * 1024, 0.4 * 1024)
    assert job.setup.policy.shape.params == PARAMS
    assert job.scores_policy
    assert job.shares_prompts
    assert (found.lag, found.compared, found.rates) == (0, (), Rates())


def test_the_cache_is_that_of_the_plan(tmp_path: Path) -> None:
    config = read(tmp_path, *GPUS)
    settled, planner = planned("train", config)
    assert modelled(time_of(config)).job.cache_tokens == weigh(settled, planner).cache_tokens


def test_lengths_that_are_known_are_taken(tmp_path: Path) -> None:
    given = ("--plan.prompt_tokens", "100", "--plan.response_tokens", "1024")
    job = modelled(time_of(read(tmp_path, *GPUS, *given))).job
    assert (job.prompt_tokens, job.response_tokens) == (100, 1024)


@pytest.mark.parametrize("name", ["prompt_tokens", "response_tokens"])
def test_a_mean_is_not_above_the_longest(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"plan.{name} is 1025, the longest is 1024"):
        time_of(read(tmp_path, *GPUS, f"--plan.{name}", "1025"))


def test_one_optimizer_step_takes_the_log_probs_of_its_own_forward(tmp_path: Path) -> None:
    one = ("--train.batch_size", "1024", "--algo.kl.use_loss", "true")
    assert not modelled(time_of(read(tmp_path, *GPUS, *one))).job.scores_policy
    eight = ("--train.batch_size", "128", "--algo.kl.use_loss", "true")
    assert modelled(time_of(read(tmp_path, *GPUS, *eight))).job.scores_policy


def test_other_attention_reads_every_row_by_itself(tmp_path: Path) -> None:
    config = read(tmp_path, *GPUS, "--ds.attn_implementation", "flash_attention_2")
    assert not modelled(time_of(config)).job.shares_prompts


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--plan.gpus", "8xV100-80"), "knows these cards: A100-40"),
        ((*GPUS, "--train.device", "cpu"), "this is a CPU"),
        ((*GPUS, "--vllm.engine", "transformers"), "transformers samples here"),
    ],
)
def test_what_has_no_time_says_why(more: tuple[str, ...], said: str, tmp_path: Path) -> None:
    found = time_of(read(tmp_path, *more))
    assert isinstance(found, str)
    assert found.startswith("time: ")
    assert said in found
    for flag in ("--plan.nodes=2", f"--plan.from_run={tmp_path}"):
        with pytest.raises(UserError, match=r"is set, and there is no time: .*"):
            time_of(read(tmp_path, *more, flag))


def test_offline_training_has_no_time(tmp_path: Path) -> None:
    argv = flags(tmp_path)
    model = argv[argv.index("--actor.model_name_or_path") + 1]
    own = ["--actor.model_name_or_path", model, "--data.dataset", "org/pairs", *GPUS]
    settled, planner = planned("dpo", parse_run("dpo", own).config)
    found = timed(planner(settled), planner, weigh(settled, planner).capacity)
    assert found == "time: the cost model is of `rto train`"


def test_the_pace_of_a_run(tmp_path: Path) -> None:
    run = write_measured(tmp_path, update=1.5)
    found = modelled(time_of(read(tmp_path, *GPUS, "--plan.from_run", str(run))))
    assert {each.stage: round(each.factor, 3) for each in found.compared} == {
        "generate": 1, "score": 1, "update": 1.5, "sync": 1, "driver": 1,
    }  # fmt: skip
    assert (found.job.prompt_tokens, found.job.response_tokens) == (200, 300)
    plain = iteration(found.job, Rates())["update"].seconds
    assert iteration(found.job, found.rates)["update"].seconds == pytest.approx(1.5 * plain)


def test_a_pace_carries_over_to_other_lengths_and_more_gpus(tmp_path: Path) -> None:
    run = write_measured(tmp_path, update=1.5)
    more = ("--plan.gpus", "2x8xA100-80", "--actor.num_nodes", "2", "--critic.num_nodes", "2",
            "--ref.num_nodes", "2", "--vllm.num_engines", "16", "--plan.response_tokens", "600",
            "--plan.from_run", str(run))  # fmt: skip
    found = modelled(time_of(read(tmp_path, *more)))
    factors = {each.stage: each.factor for each in found.compared}
    assert factors["update"] == pytest.approx(1.5)
    assert factors["generate"] == pytest.approx(1)
    assert (found.job.prompt_tokens, found.job.response_tokens) == (200, 600)


def test_a_run_on_a_cpu_sets_no_pace(tmp_path: Path) -> None:
    run = write_measured(tmp_path, more=("--train.device", "cpu"))
    with pytest.raises(UserError, match=r"plan.from_run .*measured: .* this is a CPU"):
        time_of(read(tmp_path, *GPUS, "--plan.from_run", str(run)))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.yaml: name a run folder"):
        time_of(read(tmp_path, *GPUS, "--plan.from_run", str(tmp_path)))
