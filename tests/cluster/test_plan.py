"""Which actors a run has, and what each gets: arithmetic on CPU, shared GPUs and own GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rto.cluster.plan import Plan, check_overlap, choose_transport, plan_actors, scoring_parts
from rto.errors import UserError
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import Actor, Critic, Frozen, Reward, RolloutSection, Train


def config(*, colocate: bool = True, width: int = 1, engines: int = 1) -> RunConfig:
    """Four policy ranks, two critic ranks, three scorers."""
    return RunConfig(
        actor=Actor(num_gpus_per_node=4),
        critic=Critic(num_gpus_per_node=2),
        ref=Frozen(num_gpus_per_node=3),
        train=Train(colocate_all=colocate),
        vllm=VLLM(num_engines=engines, tensor_parallel_size=width, sync_backend="object_store"),
    )


def online(settings: RunConfig, **changes: Any) -> Plan:
    common: dict[str, Any] = {"num_cpus": 8.0, "online": True, "critic": True, "frozen": True}
    return plan_actors(settings, **{**common, **changes})


def bundles_of(plan: Plan, group: str) -> list[int]:
    """The bundle of each actor of the group: of an engine that spans several, its first."""
    spec = plan.groups[group]
    return [spec.bundle_of(rank) for rank in range(spec.num_actors)]


@pytest.mark.parametrize(
    ("roles", "want"),
    [
        ({}, {"policy": 4, "critic": 2, "scorer": 3, "engine": 1}),
        ({"critic": False}, {"policy": 4, "scorer": 3, "engine": 1}),
        ({"critic": False, "frozen": False, "online": False}, {"policy": 4}),
    ],
)
def test_groups_follow_what_the_method_needs(roles: dict[str, bool], want: dict[str, int]) -> None:
    plan = online(config(), device="cpu", **roles)
    assert {name: spec.num_actors for name, spec in plan.groups.items()} == want
    assert plan.num_actors == sum(want.values())


@pytest.mark.parametrize("cores", [1.0, 2.0, 8.0, 64.0])
def test_cpu_actors_share_the_cores_and_never_ask_for_more(cores: float) -> None:
    plan = online(config(), device="cpu", num_cpus=cores)
    assert plan.total("CPU") <= cores
    assert plan.total("GPU") == 0
    shares = {spec.num_cpus for spec in plan.groups.values()}
    assert len(shares) == 1
    assert 0 < shares.pop() <= 1
    assert not plan.colocated


def test_cpu_bundles_hold_one_actor_each() -> None:
    plan = online(config(), device="cpu", num_cpus=2.0)
    # 2 cores over 10 actors.
    assert plan.bundles["critic"] == [{"CPU": 0.2}, {"CPU": 0.2}]
    assert bundles_of(plan, "critic") == [0, 1]


def test_colocated_groups_share_the_gpus_of_the_widest() -> None:
    plan = online(config(engines=2), device="cuda")
    assert (plan.colocated, plan.beside_engine) == (True, "ranks")
    assert list(plan.bundles) == ["shared"]
    assert plan.total("GPU") == 4
    assert bundles_of(plan, "policy") == [0, 1, 2, 3]
    assert bundles_of(plan, "critic") == [0, 1]
    assert bundles_of(plan, "engine") == [0, 1]


def test_a_colocated_bundle_has_a_core_for_each_actor_in_it() -> None:
    plan = online(config(engines=4), device="cuda")
    for bundle, resources in enumerate(plan.bundles["shared"]):
        here = [name for name in plan.groups if bundle in bundles_of(plan, name)]
        assert sum(plan.groups[name].num_cpus for name in here) == resources["CPU"]
        assert sum(plan.groups[name].num_gpus for name in here) <= resources["GPU"]


def test_a_colocated_engine_spans_the_bundles_of_its_tensor_parallel_ranks() -> None:
    plan = online(config(engines=2, width=2), device="cuda")
    assert bundles_of(plan, "engine") == [0, 2]
    assert plan.total("GPU") == 4


@pytest.mark.parametrize(
    ("engines", "width", "backend", "fits"),
    [
        (4, 1, "auto", True), (2, 2, "auto", True), (1, 4, "ipc", True),
        (5, 1, "auto", False), (3, 2, "auto", False), (1, 1, "auto", False), (1, 2, "ipc", False),
        (1, 1, "object_store", True), (4, 1, "object_store", True), (5, 1, "object_store", False),
    ],
)  # fmt: skip
def test_every_gpu_of_a_colocated_engine_has_a_policy_rank(
    engines: int, width: int, backend: Any, fits: bool
) -> None:
    """There are four."""
    settings = config(engines=engines, width=width)
    settings = replace(settings, vllm=replace(settings.vllm, sync_backend=backend))
    apart = replace(settings, train=Train(colocate_all=False))
    assert online(apart, device="cuda").num_actors == online(settings, device="cpu").num_actors
    assert "engine" not in online(settings, device="cuda", online=False).groups
    if fits:
        assert online(settings, device="cuda").total("GPU") == 4
        return
    with pytest.raises(UserError, match=f"share those of 4 policy ranks.*engines {4 // width}"):
        online(settings, device="cuda")


def test_the_critics_ranks_divide_into_those_that_share_rows() -> None:
    """Four policy ranks, two of the critic."""
    shared = [replace(config(), ds=DeepSpeed(sequence_parallel_size=size)) for size in (2, 4)]
    assert online(shared[0], device="cpu").groups["critic"].num_actors == 2
    with pytest.raises(UserError, match="is 4 and critic.num_nodes x critic.num_gpus_per_node is"):
        online(shared[1], device="cpu")
    assert "critic" not in online(shared[1], device="cpu", critic=False).groups


def test_separate_groups_have_gpus_of_their_own() -> None:
    plan = online(config(colocate=False, engines=2, width=2), device="cuda")
    assert (plan.colocated, plan.beside_engine) == (False, "nothing")
    # 4 policy + 2 critic + 3 scorers + 2 engines of 2.
    assert plan.total("GPU") == 13
    assert {name: spec.num_gpus for name, spec in plan.groups.items()} == {
        "policy": 1, "critic": 1, "scorer": 1, "engine": 2,
    }  # fmt: skip
    for name, spec in plan.groups.items():
        assert spec.bundle_set == name
        assert all(bundle["GPU"] == spec.num_gpus for bundle in plan.bundles[name])


def spread(settings: RunConfig, **nodes: int) -> RunConfig:
    """With these numbers of nodes."""
    changed = {name: replace(vars(settings)[name], num_nodes=n) for name, n in nodes.items()}
    return replace(settings, **changed)


def test_nodes_multiply_ranks() -> None:
    settings = config(engines=4, width=2)
    plan = online(spread(settings, actor=2), device="cuda")
    assert plan.total("GPU") == 8
    assert plan.nodes == {"shared": [0, 0, 0, 0, 1, 1, 1, 1]}
    assert bundles_of(plan, "engine") == [0, 2, 4, 6], "each on the GPUs of two ranks of one node"


def test_colocated_groups_are_on_as_many_nodes_as_they_say() -> None:
    """The policy has 1 x 4 ranks, the critic 2 x 2, the scorers 3 x 3."""
    plan = online(spread(config(), critic=2, ref=3), device="cuda")
    assert plan.nodes == {"shared": [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]}
    assert bundles_of(plan, "policy") == [0, 1, 2, 3]
    assert bundles_of(plan, "critic") == [0, 1, 4, 5]
    assert bundles_of(plan, "scorer") == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_groups_apart_are_on_as_many_nodes_as_they_say_and_engines_anywhere(device: Any) -> None:
    plan = online(spread(config(colocate=False), actor=2, ref=2), device=device)
    assert plan.nodes == {
        "policy": [0, 0, 0, 0, 1, 1, 1, 1], "critic": [0, 0], "scorer": [0, 0, 0, 1, 1, 1],
    }  # fmt: skip


def test_the_actors_of_a_cpu_node_share_its_cores() -> None:
    """On one of two nodes: 4 + 2 + 3 ranks and at most 2 of 3 engines."""
    plan = online(spread(config(engines=3), actor=2, ref=2), device="cpu", num_cpus=5.5)
    assert {spec.num_cpus for spec in plan.groups.values()} == {0.5}


@pytest.mark.parametrize(
    ("width", "per_node", "fits"), [(2, 4, True), (4, 6, False), (3, 4, False)]
)
def test_a_colocated_engine_stays_within_a_node(width: int, per_node: int, fits: bool) -> None:
    settings = replace(
        config(width=width, engines=2 * per_node // width),
        actor=Actor(num_nodes=2, num_gpus_per_node=per_node),
        train=Train(batch_size=2 * per_node),
    )
    if fits:
        assert online(settings, device="cuda").total("GPU") == 2 * per_node
        return
    with pytest.raises(UserError, match=f"size {width} does not divide .* {per_node}, so that"):
        online(settings, device="cuda")


def test_a_colocated_engine_takes_the_gpus_of_the_ranks_and_counts_for_none_itself() -> None:
    plan = online(config(), device="cuda")
    shares = {name: spec.num_gpus for name, spec in plan.groups.items()}
    assert shares["engine"] == 0
    assert min(share for name, share in shares.items() if name != "engine") > 0


@pytest.mark.parametrize(
    ("engine", "backend", "device", "colocated", "transport"),
    [
        ("transformers", "auto", "cuda", True, "object_store"),
        ("vllm", "auto", "cpu", False, "object_store"),
        ("vllm", "auto", "cuda", True, "ipc"),
        ("vllm", "auto", "cuda", False, "nccl"),
        ("vllm", "object_store", "cuda", True, "object_store"),
    ],
)
def test_the_transport_fits_where_the_engines_are(
    engine: Any, backend: Any, device: str, colocated: bool, transport: str
) -> None:
    config = RunConfig(vllm=VLLM(engine=engine, sync_backend=backend))
    assert choose_transport(config, device=device, colocated=colocated) == transport


@pytest.mark.parametrize(
    ("given", "served", "expected"),
    [(None, False, 1), (None, True, 4), (1, True, 1), (3, False, 3), (3, True, 3)],
)
def test_a_reward_server_gets_the_responses_in_parts(
    given: int | None, served: bool, expected: int
) -> None:
    urls = ["http://127.0.0.1:1"] if served else []
    chosen = replace(
        config(colocate=False),
        rollout=RolloutSection(scoring_parts=given),
        reward=Reward(remote_url=urls),
    )
    assert scoring_parts(chosen, online(chosen, device="cuda"), frozen=True) == expected


@pytest.mark.parametrize(
    ("sleep", "frozen", "default"), [(True, True, 1), (True, False, 4), (False, True, 4)]
)
def test_models_that_wait_for_an_engines_gpu_score_all_at_once(
    sleep: bool, frozen: bool, default: int
) -> None:
    shared = replace(
        config(engines=4),
        vllm=VLLM(num_engines=4, enable_sleep=sleep),
        reward=Reward(remote_url=["http://127.0.0.1:1"]),
    )
    plan = online(shared, device="cuda")
    assert scoring_parts(shared, plan, frozen=frozen) == default
    asked = replace(shared, rollout=RolloutSection(scoring_parts=2))
    if default == 4:
        check_overlap(asked, plan, frozen=frozen)
        return
    with pytest.raises(
        UserError, match=r"rollout\.scoring_parts is 2: .*train\.colocate_all false"
    ):
        check_overlap(asked, plan, frozen=frozen)


def test_what_drops_groups_sees_the_whole_iteration() -> None:
    reward = Reward(remote_url=["http://127.0.0.1:1"], on_failure="drop_group")
    lossy = replace(config(colocate=False), reward=reward)
    plan = online(lossy, device="cuda")
    assert scoring_parts(lossy, plan, frozen=False) == 1
    with pytest.raises(UserError, match=r"scoring_parts is 2: reward\.on_failure drop_group"):
        check_overlap(replace(lossy, rollout=RolloutSection(scoring_parts=2)), plan, frozen=False)
