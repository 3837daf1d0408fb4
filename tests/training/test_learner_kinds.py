"""What each kind of trainer reads of its model, scores by micro-batch, and keeps of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from token_rows import token_batch
from torch import Tensor

from rto.errors import UserError
from rto.functional.logprobs import HEAD_CHUNK
from rto.training.deepspeed import ZeroEngine
from rto.training.learner import CriticTrainer, PolicyTrainer, RankTrainer, ScoreTrainer
from rto.types import LossNorm, LossOutput, PolicyOutput, TokenBatch, TrainBatch

NORM = LossNorm(tokens=1, sequences=1, groups=1)
ROWS = token_batch([[1], [1, 1, 1], [1]], [[3, 2], [5, 6, 7, 2], [4]])


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    rendezvous = tmp_path_factory.mktemp("alone") / "meet"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Model:
    """An engine whose log-probs are minus the token ids over the temperature. Notes what it is
    asked for beside them."""

    device = torch.device("cpu")

    def __init__(self, *, zero_stage: int = 2, weight: float = 1.0) -> None:
        self.zero_stage = zero_stage
        self.weight = torch.tensor([weight])
        self.asked: list[dict[str, Any]] = []
        self.widths: list[tuple[int, int]] = []
        self.training = True

    def __call__(self, tokens: TokenBatch, *, temperature: float = 1.0, **asked: Any) -> Any:
        self.asked.append(asked)
        self.widths.append((len(tokens), tokens.response_ids.shape[1]))
        logprobs = -tokens.response_ids.float().masked_fill(~tokens.response_mask, 0) / temperature
        return PolicyOutput(logprobs) if asked else logprobs

    def eval(self) -> None:
        self.training = False

    def named_full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield "w", self.weight

    def save(self, directory: Path, tag: str) -> None:
        (directory / tag).mkdir(parents=True)

    def load(self, directory: Path, tag: str) -> None: ...


class Method:
    """Its losses say which of them was asked for, and with what."""

    def __init__(self, *outputs: str) -> None:
        self.outputs = frozenset(outputs)

    def loss(self, output: Any, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return LossOutput(torch.tensor(1.0))

    def value_loss(self, values: Any, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return LossOutput(torch.tensor(2.0))

    def score_loss(self, scores: Any, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return LossOutput(torch.tensor(3.0))


def made(*outputs: str) -> Any:
    return Method(*outputs)


def engine(**changes: Any) -> Any:
    return cast(ZeroEngine, Model(**changes))


@pytest.mark.parametrize(
    ("kind", "area", "loss"),
    [(PolicyTrainer, "policy", 1), (CriticTrainer, "critic", 2), (ScoreTrainer, "reward_model", 3)],
)
def test_each_kind_descends_a_loss_of_its_own(
    kind: type[RankTrainer], area: str, loss: float
) -> None:
    trainer = kind(engine())
    assert trainer.area == area
    assert float(trainer.loss(made(), None, TrainBatch(ROWS), NORM).loss) == loss


@pytest.mark.parametrize("outputs", [(), ("entropy",), ("value", "entropy")])
def test_a_policy_gives_what_the_method_reads_and_no_more(outputs: tuple[str, ...]) -> None:
    model = engine()
    PolicyTrainer(model).forward(ROWS, temperature=1.0, method=made(*outputs))
    (asked,) = model.asked
    assert asked["with_entropy"] is ("entropy" in outputs)
    assert asked["with_value"] is ("value" in outputs)
    assert asked["reference"] is None
    assert asked["num_chunks"] is None


def test_the_reference_is_read_by_methods_that_need_its_kl_alone() -> None:
    reference: Any = object()
    model = engine()
    trainer = PolicyTrainer(model, reference=reference)
    trainer.forward(ROWS, temperature=1.0, method=made("reference_kl"))
    trainer.forward(ROWS, temperature=1.0, method=made())
    assert [asked["reference"] for asked in model.asked] == [reference, None]
    with pytest.raises(ValueError, match="reads reference_kl and this trainer has no reference"):
        PolicyTrainer(engine()).forward(ROWS, temperature=1.0, method=made("reference_kl"))


@pytest.mark.parametrize(("chunk", "count"), [(1024, 1), (7, 1), (6, 2), (3, 3)])
def test_all_ranks_call_a_sharded_head_equally_often(
    chunk: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 7 response tokens."""
    monkeypatch.setitem(HEAD_CHUNK, "cpu", chunk)
    model = engine(zero_stage=3)
    PolicyTrainer(model).forward(ROWS, temperature=1.0)
    assert model.asked[0]["num_chunks"] == count


@pytest.mark.parametrize("max_tokens", [7, 14, 100])
def test_scores_come_back_in_the_order_of_the_rows_whatever_the_micro_batches(
    max_tokens: int,
) -> None:
    model = engine()
    found = PolicyTrainer(model).score(ROWS, max_tokens=max_tokens, temperature=0.5)
    expected = -ROWS.response_ids.float().masked_fill(~ROWS.response_mask, 0) / 0.5
    assert torch.equal(found, expected)
    assert not model.training
    assert sum(rows for rows, _ in model.widths) == len(ROWS)
    if max_tokens == 7:
        assert sorted(model.widths)[0][1] < 4, "short rows are read without the long ones' padding"


def test_an_average_of_the_weights_is_what_is_exported_saved_and_loaded(tmp_path: Path) -> None:
    """0.75 of 1 and 0.25 of 5 is 2."""
    model = engine(weight=1.0)
    trainer = PolicyTrainer(model, ema_beta=0.75)
    model.weight = torch.tensor([5.0])
    trainer._update_ema()
    assert [(name, w.tolist()) for name, w in trainer.named_weights()] == [("w", [2.0])]
    trainer.save(tmp_path, "state")
    other = PolicyTrainer(engine(weight=9.0), ema_beta=0.75)
    other.load(tmp_path, "state")
    assert [w.tolist() for _, w in other.named_weights()] == [[2.0]]


def test_without_an_average_the_weights_themselves_are_exported(tmp_path: Path) -> None:
    model = engine(weight=1.0)
    trainer = PolicyTrainer(model)
    model.weight = torch.tensor([5.0])
    trainer._update_ema()
    assert [w.tolist() for _, w in trainer.named_weights()] == [[5.0]]
    trainer.save(tmp_path, "state")
    with pytest.raises(UserError, match="was saved without train.enable_ema, switch that off"):
        PolicyTrainer(engine(), ema_beta=0.5).load(tmp_path, "state")
