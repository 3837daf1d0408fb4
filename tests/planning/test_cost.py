"""Seconds of each stage: arithmetic in sight, an estimate by hand, and what may never happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned_jobs import LLAMA_1B, LLAMA_8B, TABLE, machine, rto_config, rto_job

from rto.planning.cost import checkpoint, driver, iteration, score, sync, update
from rto.planning.job import Workload, forward_flops
from rto.planning.network import all_gather, all_reduce
from rto.planning.rates import Rates

EIGHT, ONE = "rto-llama3-8b-8xa100", "rto-llama3-8b-1xa100"
P8, P1 = 8_030_261_248, 1_235_816_448
TOKENS = 1024 * 650
RATES = Rates()


def test_rto_on_eight_a100_as_it_was_estimated_by_hand() -> None:
    """By hand: 20 to 25 s of sampling, 24 s of scoring and 2 to 3 s of moves, 44 s of update, 2 to
    3 s of push, 95 s in all without host work. Within a tenth, the moves' rounding aside."""
    seen = iteration(rto_job(), RATES)
    assert 0.9 * 20 <= seen["generate"].seconds <= 1.1 * 25
    moves = seen["score"].parts["moving them to the GPU"]
    assert 2 <= moves <= 3
    assert seen["score"].seconds - moves == pytest.approx(24, rel=0.11)
    assert seen["update"].seconds == pytest.approx(44.5, rel=0.1)
    assert 2 <= seen["sync"].seconds <= 3
    without_checkpoints = seen.seconds - seen["checkpoint"].seconds
    assert without_checkpoints == pytest.approx(95, rel=0.1)
    assert (seen.bound.name, seen.bound.bound) == ("update", "products")


def test_rto_with_adapters_on_one_a100_as_it_was_estimated_by_hand() -> None:
    """By hand: 2 min, 3.5 min with 10 s of moves, 4 to 5 min; about 10 min in all."""
    job = rto_job(rto_config(ONE), on=machine(gpus=1))
    seen = iteration(job, RATES)
    assert 60 <= seen["generate"].seconds <= 150
    assert seen["score"].seconds == pytest.approx(215, rel=0.1)
    assert 240 <= seen["update"].seconds <= 300
    assert seen.seconds == pytest.approx(600, rel=0.1)


# Scoring


def test_scoring_is_a_forward_of_every_model() -> None:
    parts = score(rto_job(), RATES).parts
    peak = 8 * 312e12 * 0.5
    eight = forward_flops(LLAMA_8B, TOKENS, 325) / peak
    one = forward_flops(LLAMA_1B, TOKENS, 325) / peak
    assert parts["policy"] == pytest.approx(eight)
    assert parts["critic"] == pytest.approx(one)
    assert parts["frozen models"] == pytest.approx(2 * eight + one)
    assert parts["moving them to the GPU"] == pytest.approx(2 * (2 * P8 + P1) / (31.5e9 * 0.5))


def test_frozen_models_that_stay_are_not_moved() -> None:
    parts = score(rto_job(rto_config(EIGHT, "--ref.offload", "false")), RATES).parts
    assert "moving them to the GPU" not in parts


def test_one_optimizer_step_needs_no_forward_of_the_policy_before_it() -> None:
    assert "policy" not in score(rto_job(scores_policy=False), RATES).parts


def test_groups_on_their_own_gpus_score_at_once() -> None:
    shared = score(rto_job(), RATES)
    apart = score(rto_job(rto_config(EIGHT, "--train.colocate_all", "false")), RATES)
    longest = shared.parts["frozen models"] + shared.parts["moving them to the GPU"]
    assert apart.seconds == pytest.approx(longest)


# Update


def test_an_update_is_four_forwards_where_activations_are_computed_again() -> None:
    forwards = forward_flops(LLAMA_8B, TOKENS, 325) + forward_flops(LLAMA_1B, TOKENS, 325)
    assert update(rto_job(), RATES).parts["products"] == pytest.approx(
        4 * forwards / (8 * 312e12 * 0.4)
    )
    kept = ("--actor.gradient_checkpointing_enable", "false",
            "--critic.gradient_checkpointing_enable", "false")  # fmt: skip
    assert update(rto_job(rto_config(EIGHT, *kept)), RATES).parts["products"] == pytest.approx(
        3 * forwards / (8 * 312e12 * 0.4)
    )


def test_adapters_have_no_gradient_of_the_weights() -> None:
    config = rto_config(ONE, "--actor.gradient_checkpointing_enable", "false",
                        "--critic.gradient_checkpointing_enable", "false")  # fmt: skip
    job = rto_job(config, on=machine(gpus=1), critic=False)
    stage = update(job, RATES)
    forward = forward_flops(LLAMA_8B, TOKENS, 325)
    assert stage.parts["products"] == pytest.approx(2 * forward / (312e12 * 0.4))
    assert "collectives" not in stage.parts
    # AdamW reads and writes 28 bytes of each of 167,772,160 parameters, eight times.
    assert stage.parts["optimizer"] == pytest.approx(8 * 167_772_160 * 28 / (2039e9 * 0.7))


def test_the_optimizer_steps_its_rank_s_part_alone_from_stage_1_on() -> None:
    whole, first, part = (
        update(rto_job(rto_config(EIGHT, "--ds.zero_stage", stage)), RATES).parts["optimizer"]
        for stage in ("0", "1", "2")
    )
    assert first == part
    assert whole == pytest.approx(8 * part)
    assert part == pytest.approx(8 * (P8 + P1) / 8 * 28 / (2039e9 * 0.7))


def test_an_offloaded_optimizer_is_the_host_s_work() -> None:
    config = replace(rto_config(), ds=replace(rto_config().ds, adam_offload=True))
    parts = update(rto_job(config, critic=False), RATES).parts
    # All 8 B parameters on one node's cores; gradients in fp32 there, weights in bf16 back.
    step = P8 / 1.9e9 + P8 / 8 * 6 / (31.5e9 * 0.5)
    assert parts["optimizer on the host"] == pytest.approx(8 * step)
    assert "optimizer" not in parts


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_collectives_of_each_zero_stage(stage: int) -> None:
    # 16 rows of 650 tokens a rank and step, in forwards of 4,096: three.
    config = rto_config(EIGHT, "--ds.zero_stage", str(stage), "--train.max_tokens_per_gpu", "4096")
    found = update(rto_job(config, critic=False), RATES).parts["collectives"] / 8
    size = 2 * P8
    summed = all_reduce(machine(), 8, size, RATES)
    gathered = all_gather(machine(), 8, size, RATES)
    layered = all_gather(machine(), 8, size, RATES, calls=34)
    expected = {
        0: summed,
        1: summed + gathered,
        2: 3 * summed + gathered,
        3: 3 * (2 * layered + layered),
    }
    assert found == pytest.approx(expected[stage])


def test_a_limit_on_rows_makes_more_micro_batches() -> None:
    def collectives(*flags: str) -> float:
        return update(rto_job(rto_config(EIGHT, *flags)), RATES).parts["collectives"]

    # 16 rows a rank and step are four sums in place of one, and one gather: (8 + 1) / (2 + 1).
    assert collectives("--train.micro_batch_size", "4") == pytest.approx(
        3 * collectives(), rel=0.01
    )


def test_epochs_repeat_the_update() -> None:
    once, twice = (update(rto_job(rto_config(EIGHT, "--train.max_epochs", n)), RATES) for n in "12")
    assert twice.seconds == pytest.approx(2 * once.seconds)


def test_policy_and_critic_on_their_own_gpus_learn_at_once() -> None:
    shared = update(rto_job(), RATES)
    apart = update(rto_job(rto_config(EIGHT, "--train.colocate_all", "false")), RATES)
    policy = update(rto_job(critic=False), RATES)
    assert apart.seconds == pytest.approx(policy.seconds)
    assert apart.seconds < shared.seconds


# Push


def test_a_push_over_ipc_goes_gib_by_gib_to_every_engine() -> None:
    parts = sync(rto_job(), RATES).parts
    # 14.96 GiB are 15 pieces; each engine is called with 8 GPUs' handles.
    assert parts["calls for each GiB"] == pytest.approx(15 * 8 * (5e-4 + 8 * 2e-6))
    assert parts["copies and digests"] == pytest.approx(2 * P8 / 2**30 * 0.05)


def test_a_broadcast_leaves_rank_0_over_its_own_adapter() -> None:
    apart = rto_config(EIGHT, "--train.colocate_all", "false")
    two = rto_job(apart, on=machine(nodes=2))
    assert sync(two, RATES).parts["broadcast from rank 0"] == pytest.approx(2 * P8 / (25e9 * 0.78))
    small = rto_config(ONE, "--train.colocate_all", "false")
    one = rto_job(small, on=machine(gpus=8))
    assert sync(one, RATES).parts["broadcast from rank 0"] == pytest.approx(2 * P8 / (300e9 * 0.78))


def test_the_object_store_has_a_copy_more_for_each_doubling_of_nodes() -> None:
    def copies(engines: int, nodes: int) -> float:
        flags = ("--vllm.num_engines", str(engines), "--vllm.sync_backend", "object_store",
                 "--actor.num_nodes", str(nodes))  # fmt: skip
        job = rto_job(rto_config(EIGHT, *flags), on=machine(nodes=nodes))
        return sync(job, RATES).parts["copies in the object store"]

    assert copies(8, 1) == pytest.approx(2 * 2 * P8 / 1e9)
    assert copies(32, 4) == pytest.approx(4 * 2 * P8 / 1e9)


def test_stage_3_gathers_the_weights_before_scores_and_pushes() -> None:
    job = rto_job(rto_config(EIGHT, "--ds.zero_stage", "3"))
    gathered = all_gather(machine(), 8, 2 * P8, RATES, calls=34)
    assert sync(job, RATES).parts["gathering weights"] == pytest.approx(gathered)
    assert "gathering weights" in score(job, RATES).parts


# Checkpoints, driver


def test_an_iteration_bears_its_share_of_a_checkpoint() -> None:
    parts = checkpoint(rto_job(), RATES).parts
    assert parts["weights and optimizer"] == pytest.approx((P8 + P1) * 14 / 2e9 / 20)
    assert parts["export by one node"] == pytest.approx(2 * P8 / 2e9 / 20)
    rare = rto_config(EIGHT, "--ckpt.save_steps", "-1")
    assert checkpoint(rto_job(rare), RATES).seconds == 0


@pytest.mark.parametrize(
    ("responses", "longest", "seconds"), [(1024, 1024, 0.35), (8192, 4096, 13)]
)
def test_the_driver_as_its_benchmark_has_it(responses: int, longest: int, seconds: float) -> None:
    config = rto_config(EIGHT, "--data.max_len", str(2 * longest), "--rollout.batch_size",
                        str(responses), "--rollout.max_new_tokens", str(longest))  # fmt: skip
    rows = driver(rto_job(config), RATES).parts["rows"]
    assert rows == pytest.approx(seconds, rel=0.15)


# The whole


def test_sampling_ahead_is_bound_by_the_slowest_side() -> None:
    job = rto_job(rto_config(EIGHT, "--train.colocate_all", "false"))
    in_turn, one, many = (iteration(job, RATES, lag=lag) for lag in (0, 1, 9))
    loop = in_turn.seconds - in_turn["generate"].seconds - in_turn["score"].seconds
    assert in_turn.seconds / 10 < in_turn["generate"].seconds < loop
    # A response passes through all stages within two iterations.
    assert one.seconds == pytest.approx(max(loop, in_turn.seconds / 2))
    assert many.seconds == pytest.approx(loop)
    # One engine takes longer than all the rest, and cannot take new weights while it samples.
    alone = rto_config(EIGHT, "--train.colocate_all", "false", "--vllm.num_engines", "1")
    in_turn, ahead = (iteration(rto_job(alone), RATES, lag=lag) for lag in (0, 1))
    assert ahead.seconds == pytest.approx(in_turn["generate"].seconds + in_turn["sync"].seconds)
    # On shared GPUs there is nothing to hide it behind.
    assert iteration(rto_job(), RATES, lag=1).seconds == iteration(rto_job(), RATES).seconds


def test_a_stage_takes_as_many_times_longer_as_a_run_measured() -> None:
    plain = iteration(rto_job(), RATES)
    slow = iteration(rto_job(), replace(RATES, measured={"update": 1.5}))
    assert slow["update"].seconds == pytest.approx(1.5 * plain["update"].seconds)
    assert slow["score"] == plain["score"]


def grown(nodes: int) -> Workload:
    flags = [f"--{group}.num_nodes={nodes}" for group in ("actor", "critic", "ref")]
    config = rto_config(EIGHT, *flags, "--vllm.num_engines", str(8 * nodes))
    return rto_job(config, on=machine(nodes=nodes))


def test_more_nodes_never_slow_down_what_is_computed() -> None:
    shares = [iteration(grown(n), RATES) for n in (1, 2, 4, 8, 16)]
    for stage, part in (
        ("update", "products"),
        ("update", "optimizer"),
        ("score", "frozen models"),
        ("score", "policy"),
        ("generate", "reading prompts"),
        ("generate", "reading the cache"),
    ):
        values = [each[stage].parts[part] for each in shares]
        assert values == sorted(values, reverse=True), part
        assert values[-1] < values[0] / 8
    floor = [each["generate"].parts["reading weights"] for each in shares]
    assert floor == pytest.approx([1024 * 2 * (P8 - TABLE) / (2039e9 * 0.7)] * 5)


@pytest.mark.parametrize("better", ["tflops", "hbm", "nvlink", "pcie", "network"])
def test_no_better_card_is_slower(better: str) -> None:
    job = rto_job() if better == "nvlink" else grown(2)
    card = replace(job.machine.card, **{better: 2 * getattr(job.machine.card, better)})
    faster = replace(job, machine=replace(job.machine, card=card))
    assert iteration(faster, RATES).seconds < iteration(job, RATES).seconds
