"""Layouts on simulated clusters of up to 16 x 8 GPUs: every actor is where the plan says."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated_cluster import IMPOSSIBLE, LARGE, LAYOUTS, SMALL

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[1] / "support" / "simulated_cluster.py"


def marked(names: Sequence[str]) -> list[Any]:
    """Sixteen nodes take two minutes to start: they run with the tests of `make test-learn`."""
    return [
        pytest.param(name, marks=pytest.mark.learn) if LAYOUTS[name].nodes > SMALL else name
        for name in names
    ]


NAMES = marked(list(LAYOUTS))
WITH_GPUS = marked([name for name, layout in LAYOUTS.items() if layout.gpus])


class Found:
    """What the actors of each layout said, and what else there was to see."""

    def __getitem__(self, name: str) -> Any:
        large = name in LAYOUTS and LAYOUTS[name].nodes > SMALL
        return simulate(LARGE if large else SMALL)[name]


@pytest.fixture
def found() -> Found:
    return Found()


@functools.cache
def simulate(nodes: int) -> dict[str, Any]:
    """In a process of its own: this one may have a Ray."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(nodes)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_every_bundle_is_on_the_node_that_was_chosen(found: Found, name: str) -> None:
    plan = LAYOUTS[name].plan()
    assert found[name]["bundles"] == found[name]["planned"]
    for bundle_set, nodes in found[name]["planned"].items():
        numbers = plan.nodes.get(bundle_set, ())
        pairs = set(zip(numbers, nodes, strict=True)) if numbers else set()
        assert len(pairs) == len({number for number, _ in pairs}) == len({n for _, n in pairs})


@pytest.mark.parametrize("name", NAMES)
def test_every_actor_is_on_its_bundle(found: Found, name: str) -> None:
    plan = LAYOUTS[name].plan()
    assert set(found[name]["seats"]) >= set(plan.groups)
    for group, spec in plan.groups.items():
        planned = found[name]["planned"][spec.bundle_set]
        for rank, (node, gpus) in found[name]["seats"][group].items():
            assert node == planned[spec.bundle_of(int(rank))], (group, rank)
            assert len(gpus) == round(max(spec.num_gpus, spec.num_gpus > 0))


@pytest.mark.parametrize("name", WITH_GPUS)
def test_gpus_are_shared_as_the_plan_says_and_no_other_way(found: Found, name: str) -> None:
    """Of two actors on one GPU, both are of the same bundle."""
    plan = LAYOUTS[name].plan()
    users = defaultdict(set)
    for group, spec in plan.groups.items():
        for rank, (node, gpus) in found[name]["seats"][group].items():
            for gpu in gpus:
                users[node, gpu].add((spec.bundle_set, spec.bundle_of(int(rank))))
    assert users
    assert {len(bundles) for bundles in users.values()} == {1}


@pytest.mark.parametrize("name", ["1x1 colocated", "1x8 colocated, engines of 4"])
def test_a_colocated_engine_is_given_the_gpus_of_its_ranks(found: Found, name: str) -> None:
    width = LAYOUTS[name].config.vllm.tensor_parallel_size
    ranks = [gpus for _, gpus in found[name]["seats"]["policy"].values()]
    given = found[name]["seats"]["engine's GPUs"]
    assert [[int(gpu) for (gpu,) in each] for each in given] == [
        [gpu for (gpu,) in ranks[i : i + width]] for i in range(0, len(ranks), width)
    ]


def test_nothing_that_needs_a_gpu_is_on_the_head(found: Found) -> None:
    (head,) = found["head"]
    for name, layout in LAYOUTS.items():
        if layout.nodes > SMALL:
            continue
        on_head = [head in nodes for nodes in found[name]["planned"].values()]
        assert not layout.gpus or not any(on_head), name


def test_the_driver_on_a_head_without_gpus_runs_on_the_clusters(found: Found) -> None:
    assert (found["device"], found["cores"]) == ("cuda", 64)
    assert found["heavy"] == [], "a driver has no use for what computes"


def test_models_are_looked_at_on_the_node_that_loads_them(found: Found) -> None:
    whole, lacks = found["looked at"]
    assert whole == "ready"
    assert re.fullmatch(r"node [0-9.]+: .*/model: no weights in this directory: it needs .*", lacks)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one GPU too many", "1 node with 8 GPUs and 64 CPUs; the run asks for 1 node with 4 GPUs "
         "and 4 CPUs for policy; 1 node with 4 GPUs and 4 CPUs for scorer; 1 x 1 GPU and 1 CPU "
         "for engine. There is no node left for 1 GPU and 1 CPU of engine: ask for less "
         "(vllm.num_engines"),
        ("a node too many", "2 nodes with 8 GPUs and 64 CPUs; the run asks for 3 nodes with 8"),
        ("nodes of fewer GPUs", "less (num_nodes, num_gpus_per_node of actor, critic, ref)"),
        ("an engine wider than a node", "for 16 GPUs and 1 CPU of engine: ask for less "
         "(vllm.num_engines, vllm.tensor_parallel_size), or join nodes with more GPUs"),
        ("an engine over two nodes", "would span two nodes: use a divisor"),
        ("fewer engines than ranks", "use as many (vllm.num_engines 8)"),
        ("no GPU at all", "or join nodes with more GPUs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_what_is_asked_and_what_is_there(
    found: Found, name: str, said: str
) -> None:
    assert said in found[name]
    assert len(found[name].splitlines()) == 1
    assert set(IMPOSSIBLE) >= {name}
