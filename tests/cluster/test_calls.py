"""What the driver asks of the actors: each call arrives at its actor, with the arguments it had."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from handles import Answers, Ref, raised
from local_group import BigramRank, bigram, trainers
from token_rows import token_batch

from rto.cluster import groups
from rto.cluster.actors import TrainerSpec
from rto.cluster.calls import Engines, Scorers, Trainers, UpdateShare
from rto.cluster.groups import ActorGroup, Pending
from rto.errors import UserError
from rto.methods.sft import SFT
from rto.sections.run_config import RunConfig
from rto.types import LossNorm, Role, TrainBatch

SPEC = TrainerSpec("policy", "m", total_steps=3)
CONFIG = RunConfig()
ROWS = token_batch([[1], [2]], [[3], [4]], groups=[0, 1])


@dataclass
class Handle:
    """An actor as the driver sees it; a call of a method is noted and answered by its name."""

    rank: int
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        return Remote(self, method)


@dataclass(frozen=True)
class Remote:
    handle: Handle
    method: str

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        self.handle.calls.append((self.method, *args, *([kwargs] if kwargs else [])))
        return f"{self.method} of {self.handle.rank}"


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    """Two actors, whose references stand for the answers."""
    monkeypatch.setattr(Pending, "get", lambda pending: list(pending.refs))
    return [Handle(0), Handle(1)]


def group(handles: list[Handle]) -> ActorGroup:
    actors: list[Any] = [*handles]
    return ActorGroup("g", actors, timeout=1.0)


def test_ranks_start_with_a_number_each_and_meet_at_the_first(handles: list[Handle]) -> None:
    pending = Trainers(group(handles)).start(SPEC, CONFIG, "cpu", 3)
    rendezvous = "address of 0"
    assert handles[0].calls == [
        ("address",),
        ("start", SPEC, CONFIG, "cpu", 0, 2, rendezvous, 3),
    ]
    assert handles[1].calls == [("start", SPEC, CONFIG, "cpu", 1, 2, rendezvous, 3)]
    assert (pending.method, list(pending.refs)) == ("start", ["start of 0", "start of 1"])


def test_engines_start_with_a_number_each_and_the_gpus_that_they_share(
    handles: list[Handle],
) -> None:
    shared: list[Any] = [["a", "b"], ["c"]]
    Engines(group(handles)).start("m", CONFIG, "ipc", "cuda", "ranks", shared)
    assert handles[0].calls == [("start", "m", CONFIG, "ipc", "cuda", 0, "ranks", "a", "b")]
    assert handles[1].calls == [("start", "m", CONFIG, "ipc", "cuda", 1, "ranks", "c")]


def test_scorers_start_alike_and_score_a_shard_each(handles: list[Handle]) -> None:
    scorers = Scorers(group(handles))
    scorers.start({Role.DPO: "d"}, ["r"], CONFIG, "cpu")
    shards = [ROWS.take([0]), ROWS.take([1])]
    scorers.score(shards, frozenset({Role.DPO}))
    for handle, shard in zip(handles, shards, strict=True):
        assert handle.calls[0] == ("start", {Role.DPO: "d"}, ["r"], CONFIG, "cpu", 2)
        assert handle.calls[1] == ("score", shard, frozenset({Role.DPO}))


def test_a_call_on_all_ranks_is_the_same_on_each(handles: list[Handle]) -> None:
    policy, others = Trainers(group(handles)), [Handle(0), Handle(1)]
    policy.save("f", "state")
    policy.load("f", "state")
    policy.export("e")
    policy.send_weights()
    policy.init_weight_transfer(Engines(group(others)), "nccl", 4)
    assert policy.sent_digests() == "sent_digests of 0"
    assert policy.score_alike(ROWS, temperature=1.0) == ["score of 0", "score of 1"]
    for handle in handles:
        assert handle.calls == [
            ("save", "f", "state", {"behind": False}),
            ("load", "f", "state"),
            ("export", "e"),
            ("send_weights",),
            ("init_weight_transfer", others, "nccl", 4),
            ("sent_digests",),
            ("score", ROWS, {"temperature": 1.0}),
        ]


def test_a_revision_follows_what_may_have_changed_the_weights(handles: list[Handle]) -> None:
    policy = Trainers(group(handles))
    share = UpdateShare(TrainBatch(ROWS), [[[0]]], None)
    for change in (
        lambda: policy.start(SPEC, CONFIG, "cpu", 2),
        lambda: policy.update(SFT(), [share, share], [], single_step=False),
        lambda: policy.load("f", "state"),
    ):
        before = policy.revision
        change()
        assert policy.revision == before + 1
    before = policy.revision
    policy.save("f", "state")
    policy.export("e")
    policy.score_alike(ROWS, temperature=1.0)
    policy.export_weights()
    policy.send_weights()
    assert policy.revision == before


@pytest.mark.parametrize(("answers", "all_hold"), [((True, True), True), ((True, False), False)])
def test_engines_hold_a_version_together(
    handles: list[Handle],
    monkeypatch: pytest.MonkeyPatch,
    answers: tuple[bool, bool],
    all_hold: bool,
) -> None:
    monkeypatch.setattr(Pending, "get", lambda pending: list(answers))
    assert Engines(group(handles)).keep(3) is all_hold
    assert [handle.calls for handle in handles] == [[("keep", 3)]] * 2


def test_a_shard_for_every_actor_or_none(handles: list[Handle]) -> None:
    with pytest.raises(ValueError, match="zip"):
        Trainers(group(handles)).score([ROWS])


def test_ranks_that_share_rows_are_sent_the_same_and_answer_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    four = [Handle(rank) for rank in range(4)]
    policy = Trainers(group(four), shared_by=2)
    shards = [ROWS.take([0]), ROWS.take([1])]
    assert policy.num_shards == len(shards)
    pending = policy.score(shards)
    assert [handle.calls for handle in four] == [[("score", shards[i])] for i in (0, 0, 1, 1)]
    told = [Handle(rank) for rank in range(4)]
    shares = [UpdateShare(TrainBatch(shard), [[[0]]], None) for shard in shards]
    Trainers(group(told), shared_by=2).update(SFT(), shares, [], single_step=False)
    assert [handle.calls[0][2] for handle in told] == [shares[i].batch for i in (0, 0, 1, 1)]
    monkeypatch.setattr(groups, "ray", Answers())
    refs: list[Any] = [Ref(f"answer of {rank}") for rank in range(4)]
    assert replace(pending, refs=refs).get() == ["answer of 0", "answer of 2"]
    refs[1].answer = raised(UserError("no room"))
    with pytest.raises(UserError, match="no room"):
        replace(pending, refs=refs).get()


def test_a_model_is_packed_where_all_its_ranks_are() -> None:
    class Packed(BigramRank):
        def packs(self) -> bool:
            return True

    class Padded(BigramRank):
        def packs(self) -> bool:
            return False

    assert trainers("policy", Packed(bigram()), Packed(bigram())).packs()
    assert not trainers("policy", Packed(bigram()), Padded(bigram())).packs()


def test_an_update_sends_a_share_to_every_rank(handles: list[Handle]) -> None:
    shares = [UpdateShare(TrainBatch(ROWS.take([row])), [[[0]]], None) for row in range(len(ROWS))]
    norms = [LossNorm(tokens=2, sequences=2, groups=2)]
    Trainers(group(handles)).update(SFT(), shares, norms, single_step=True)
    for handle, share in zip(handles, shares, strict=True):
        assert handle.calls == [
            ("update", SFT(), share.batch, [[[0]]], norms, None, True),
        ]
