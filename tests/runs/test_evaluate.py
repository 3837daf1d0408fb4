"""Several policies on one engine: weights handed over with their proof."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from local_group import BigramEngine, bigram, engines
from torch import Tensor

from rto.errors import ProofError
from rto.runs import evaluate


class Mangling(BigramEngine):
    """Receives other bytes than were sent."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        super().load_weights({"table": weights["table"] + 1.0})


def test_stored_weights_are_handed_over_with_their_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rto.cluster.calls.ray.put", lambda weights: weights)
    engine, weights = BigramEngine(bigram()), {"table": bigram(1)}
    evaluate._hand_over(engines(engine), weights)
    assert engine.notes == [("load_weights",), ("receipt",), ("accept", evaluate.VERSION)]
    assert torch.equal(engine.table, bigram(1))
    broken = Mangling(bigram())
    with pytest.raises(ProofError, match="engine 1 received other weights"):
        evaluate._hand_over(engines(BigramEngine(bigram()), broken), weights)
    assert not any(name == "accept" for name, *_ in broken.notes)
