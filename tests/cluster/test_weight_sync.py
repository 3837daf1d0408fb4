"""The parts of the weight-sync proof that need no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from local_group import BigramEngine, BigramRank, bigram, engines, trainers
from torch import Tensor

from rto.cluster.weight_sync import ClusterWeightSync, Probe, check_receipt, make_probe
from rto.errors import ProofError
from rto.weights.digest import WeightReceipt

SENT = {"a.weight": "11", "b.weight": "22"}


def test_a_probe_is_the_longest_prompts_halved() -> None:
    prompts = [[5], [1, 2, 3, 4, 5], [6, 7], [8, 9, 10], [11, 12], [13, 14, 15, 16]]
    probe = make_probe(prompts, tolerance=0.1)
    assert probe.pairs == [
        ([1, 2], [3, 4, 5]),
        ([13, 14], [15, 16]),
        ([8], [9, 10]),
        ([6], [7]),
    ]


def test_a_probe_cuts_long_prompts() -> None:
    probe = make_probe([list(range(100))], tolerance=0.1, max_len=8)
    assert probe.pairs == [([0, 1, 2, 3], [4, 5, 6, 7])]


def test_prompts_of_one_token_make_no_probe() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        make_probe([[1], [2]], tolerance=0.1)


def compared(probe: Probe, engine: list[list[float]], trainer: list[list[float]]) -> list[float]:
    figures = probe.compare(torch.tensor(trainer), engine)
    return [figures.mean, figures.largest]


def test_compare_aligns_the_responses_and_ignores_padding() -> None:
    # Sequences of 4 and 2 tokens: responses of 2 and 1.
    probe = make_probe([[1, 2, 3, 4], [5, 6]], tolerance=0.1)
    engine = [[-1.0, -2.0], [-3.0]]
    assert compared(probe, engine, [[-1.0, -2.0], [-3.0, 77.0]]) == [0, 0]
    got = compared(probe, engine, [[-1.0, -2.3], [-3.0, 77.0]])
    # One of three tokens is off by 0.3.
    assert got == pytest.approx([0.1, 0.3])


def test_compare_sees_a_shift_by_one_token() -> None:
    probe = make_probe([[1, 2, 3, 4]], tolerance=0.1)
    assert compared(probe, [[-1.0, -2.0]], [[-9.0, -1.0]])[1] == 8


def test_equal_digests_pass() -> None:
    check_receipt(SENT, WeightReceipt(dict(SENT), ()), engine=0)


@pytest.mark.parametrize(
    ("received", "unassigned", "message"),
    [
        ({**SENT, "b.weight": "23"}, (), "engine 1 received other weights: 'b.weight' differs"),
        ({"a.weight": "11"}, (), "'b.weight' did not arrive"),
        ({**SENT, "c.weight": "33"}, (), "'c.weight' was not sent"),
        (SENT, ("z", "y"), "engine 1 left 2 parameters unassigned: y, z"),
    ],
)
def test_a_difference_is_named(
    received: dict[str, str], unassigned: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ProofError, match=message):
        check_receipt(SENT, WeightReceipt(received, unassigned), engine=1)


def test_the_first_difference_by_name_is_the_one_named() -> None:
    received = {"a.weight": "0", "b.weight": "0"}
    with pytest.raises(ProofError, match="'a.weight' differs"):
        check_receipt(SENT, WeightReceipt(received, ()), engine=0)


PUSH = [
    ("wake", "weights"), ("load_weights",), ("wake", "kv_cache"), ("receipt",),
    ("response_logprobs",),
]  # fmt: skip


def syncing(*several: BigramEngine, **changes: Any) -> ClusterWeightSync:
    """A trainer of two ranks and engines that begin with other weights."""
    settings: dict[str, Any] = {
        "policy": trainers("policy", BigramRank(bigram(seed=1)), BigramRank(bigram(seed=1))),
        "engines": engines(*several),
        "probe": make_probe([[1, 2, 3, 4], [5, 0]], tolerance=0.05),
        "transport": "object_store",
    }
    return ClusterWeightSync(**{**settings, **changes})


class Mangling(BigramEngine):
    """Receives other bytes than were sent."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        super().load_weights({"table": weights["table"] + 1.0})


class Ignoring(BigramEngine):
    """Receives the weights and goes on computing with its own."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        own = self.table
        super().load_weights(weights)
        self.table = own


def test_an_accepted_version_is_the_last_of_a_push_and_counts_up() -> None:
    several = [BigramEngine(bigram()) for _ in range(2)]
    first = BigramRank(bigram(seed=1))
    sync = syncing(*several, policy=trainers("policy", first, BigramRank(bigram(seed=1))))
    assert sync.push() == 0
    sync.policy.revision += 1
    assert [sync.push(), sync.version] == [1, 1]
    for engine in several:
        assert engine.notes == [*PUSH, ("accept", 0), *PUSH, ("accept", 1)]
        assert torch.equal(engine.table, bigram(seed=1))
    assert sync.figures == {"sync/probe_mean_abs_diff": 0.0, "sync/probe_max_abs_diff": 0.0}
    assert first.temperatures == [1.0, 1.0]


AGAIN = [("wake", "weights"), ("wake", "kv_cache"), ("response_logprobs",)]
"""A push of weights that are there."""


def test_weights_that_did_not_change_are_not_sent_again() -> None:
    """As after a self-check: the run's own first version is of the same number."""
    several = [BigramEngine(bigram()) for _ in range(2)]
    sync = syncing(*several)
    assert sync.push() == 0
    sync.go_on(0)
    assert sync.push() == 0
    assert sync.push() == 1
    carried = [("keep", 0), *AGAIN, ("accept", 0), ("keep", 0), *AGAIN, ("accept", 1)]
    for engine in several:
        assert engine.notes == [*PUSH, ("accept", 0), *carried]


def test_weights_that_one_engine_lost_are_sent_to_all() -> None:
    several = [BigramEngine(bigram()) for _ in range(2)]
    sync = syncing(*several)
    sync.push()
    several[1].sleep()
    assert sync.push() == 1
    for engine in several:
        assert engine.notes[-len(PUSH) - 1 :] == [*PUSH, ("accept", 1)]


def test_engines_that_compute_something_else_since_are_found() -> None:
    engine = BigramEngine(bigram())
    sync = syncing(engine)
    sync.push()
    engine.table = bigram()
    with pytest.raises(ProofError, match="computes other log-probs"):
        sync.push()
    engine.table = bigram(seed=1)
    assert sync.push() == 1
    assert [name for name, *_ in engine.notes].count("load_weights") == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Mangling, "engine 1 received other weights: 'table' differs"),
        (Ignoring, "engine 1 computes other log-probs than the trainer"),
    ],
)
def test_one_engine_that_is_not_proven_keeps_all_from_the_new_version(
    broken: type[BigramEngine], said: str
) -> None:
    several = [BigramEngine(bigram()), broken(bigram())]
    sync = syncing(*several)
    with pytest.raises(ProofError, match=said):
        sync.push()
    assert sync.version == -1
    assert not any(name == "accept" for engine in several for name, *_ in engine.notes)


def test_the_tolerance_of_the_probe_bounds_its_mean_gap() -> None:
    """The probe has the responses 3 4 and 0; an engine that is off by 0.09 on one of them is off by
    0.03 on average."""

    class Off(BigramEngine):
        def load_weights(self, weights: Mapping[str, Tensor]) -> None:
            super().load_weights(weights)
            self.table = self.table.clone()
            self.table[3, 4] -= 0.09

    for tolerance, passes in ((0.031, True), (0.029, False)):
        probe = make_probe([[1, 2, 3, 4], [5, 0]], tolerance=tolerance)
        sync = syncing(Off(bigram()), probe=probe)
        if passes:
            assert sync.push() == 0
            assert list(sync.figures.values()) == pytest.approx([0.03, 0.09], abs=1e-6)
        else:
            with pytest.raises(ProofError, match=r"0.03, largest 0.09, tolerance 0.029"):
                sync.push()


def test_the_other_transports_send_from_every_rank() -> None:
    """The engines' weights come around the driver: here from the rank's own hands."""
    engine = BigramEngine(bigram())

    class Sending(BigramRank):
        def send_weights(self) -> None:
            sent.append(self)
            engine.load_weights(self.export_weights())

    sent: list[Sending] = []
    ranks = [Sending(bigram(seed=1)) for _ in range(2)]
    sync = syncing(engine, policy=trainers("policy", *ranks), transport="nccl")
    assert sync.push() == 0
    assert sent == ranks


def test_log_probs_that_are_no_numbers_prove_nothing() -> None:
    broken = torch.full_like(bigram(), torch.nan)
    sync = syncing(BigramEngine(bigram()), policy=trainers("policy", BigramRank(broken)))
    with pytest.raises(ProofError, match="computes other log-probs"):
        sync.push()


def test_a_resumed_run_counts_its_versions_on() -> None:
    """After three pushes, 0 to 2, comes version 3; a self-check's own push counts for nothing."""
    engine = BigramEngine(bigram())
    sync = syncing(engine)
    sync.go_on(3)
    assert (sync.version, sync.push()) == (2, 3)
    sync.go_on(0)
    assert sync.push() == 0
    assert [note for note in engine.notes if note[0] == "accept"] == [("accept", 3), ("accept", 0)]


def test_a_push_is_known_by_the_digest_of_its_weights() -> None:
    def pushed(seed: int) -> ClusterWeightSync:
        sync = syncing(
            BigramEngine(bigram()), policy=trainers("policy", BigramRank(bigram(seed=seed)))
        )
        sync.push()
        return sync

    first, again, other = pushed(1), pushed(1), pushed(2)
    assert first.digest == again.digest != other.digest
    again.push()
    assert again.digest == first.digest, "of weights that were not sent again"
