"""Which policy version an engine may sample from."""

from __future__ import annotations

import pytest

from rto.errors import ProofError
from rto.weights.accepted_version import ProvenVersion


def test_a_version_may_be_sampled_from_once_its_receipt_was_read_and_it_was_accepted() -> None:
    version = ProvenVersion()
    version.weights_change()
    version.receipt_read()
    version.accept(3)
    version.require(3)
    with pytest.raises(ProofError, match="asked for policy version 2, engine has version 3"):
        version.require(2)


def test_no_weights_are_accepted_before_their_receipt_was_read() -> None:
    version = ProvenVersion()
    version.weights_change()
    with pytest.raises(ProofError, match="version 0 cannot be accepted before its weights are"):
        version.accept(0)
    with pytest.raises(ProofError, match="engine has no proven weights"):
        version.require(0)


def test_a_change_of_weights_takes_the_version_away() -> None:
    version = ProvenVersion()
    version.accept(1)
    version.weights_change()
    with pytest.raises(ProofError, match="no proven weights"):
        version.require(1)


def test_the_weights_that_an_engine_was_built_with_are_accepted_without_an_update() -> None:
    version = ProvenVersion()
    version.accept(0)
    version.require(0)


def test_a_version_is_held_until_the_weights_change() -> None:
    version = ProvenVersion()
    assert not version.holds(0)
    version.accept(0)
    assert version.holds(0)
    assert not version.holds(1)
    version.weights_change()
    assert not version.holds(0)
