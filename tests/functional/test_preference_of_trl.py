"""Our preference losses against the code of the installed TRL: equal to 1.16.0.

Importing ``trl``'s trainers takes 17 seconds, so the methods that hold the losses are compiled
from its source and called with the attributes they read. R-DPO and TDPO are not in TRL 1.16, nor
in OpenRLHF 0.11.2.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rto.functional.preference import dpo_loss, ipo_loss, simpo_loss
from rto.types import LossNorm, LossOutput

spec = importlib.util.find_spec("trl")
if spec is None or spec.origin is None:
    pytest.skip("trl is not installed", allow_module_level=True)
ROOT = Path(spec.origin).parent

PAIRS, T, V = 3, 6, 11
LENGTHS = torch.tensor([6, 2, 4, 1, 3, 5])
"""Of chosen, rejected, chosen, ..."""
MASK = torch.arange(T) < LENGTHS.unsqueeze(-1)
NORM = LossNorm(tokens=int(LENGTHS.sum()), sequences=2 * PAIRS, groups=PAIRS)


def method(file: str, name: str) -> Any:
    """One method of TRL's source as a function."""
    tree = ast.parse((ROOT / file).read_text())
    found = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    found.decorator_list = []
    future = ast.parse("from __future__ import annotations").body
    scope: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "math": math,
        "is_peft_model": lambda model: False,
        "disable_gradient_checkpointing": lambda *args: contextlib.nullcontext(),
        "selective_log_softmax": lambda logits, ids: (
            logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        ),
    }
    exec(compile(ast.Module([*future, found], type_ignores=[]), file, "exec"), scope)
    return scope[name]


def rows(seed: int) -> Tensor:
    return -3 * torch.rand(2 * PAIRS, T, generator=torch.Generator().manual_seed(seed))


def chosen_first(x: Tensor) -> Tensor:
    """TRL's order: all chosen rows, then all rejected ones."""
    return torch.cat([x[0::2], x[1::2]])


def trl_dpo(loss_type: str, beta: float) -> tuple[Tensor, dict[str, list[float]]]:
    """TRL's loss and metrics of rows 0 (policy) and 1 (reference), after one prompt token."""
    mask, logprobs, reference = (chosen_first(x) for x in (MASK, rows(0), rows(1)))
    first = torch.zeros(2 * PAIRS, 1, dtype=torch.bool)
    seen = torch.zeros(2 * PAIRS, T)
    outputs = SimpleNamespace(
        log_probs=logprobs * mask, entropy=seen, mean_logits=seen, is_top1=seen.bool()
    )
    summed = (reference * mask).sum(-1)
    recorded: dict[str, list[float]] = defaultdict(list)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _total_train_tokens=0,
        _metrics={"eval": recorded},
    )
    inputs = {
        "input_ids": torch.zeros(2 * PAIRS, T + 1, dtype=torch.long),
        "completion_mask": torch.cat([first, mask], 1).long(),
        "ref_chosen_logps": summed[:PAIRS],
        "ref_rejected_logps": summed[PAIRS:],
    }
    compute = method("trainer/dpo_trainer.py", "_compute_loss")
    return compute(trainer, lambda **kwargs: outputs, inputs, False), recorded


def compare(ours: LossOutput, theirs: Tensor, recorded: dict[str, list[float]]) -> None:
    torch.testing.assert_close(ours.loss, theirs)
    names = {"chosen": "chosen", "rejected": "rejected", "margins": "margin"}
    for trl, name in names.items():
        (value,) = recorded[f"rewards/{trl}"]
        assert float(ours.metrics[f"preference/{name}"]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo(beta: float):
    ours = dpo_loss(logprobs=rows(0), ref_logprobs=rows(1), mask=MASK, norm=NORM, beta=beta)
    compare(ours, *trl_dpo("sigmoid", beta))
    (accuracy,) = trl_dpo("sigmoid", beta)[1]["rewards/accuracies"]
    assert float(ours.metrics["preference/accuracy"]) == pytest.approx(accuracy)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_ipo_per_token_is_trls_and_the_sum_is_not(beta: float):
    """TRL logs the rewards of IPO from summed log-ratios, we those that enter its loss."""
    theirs, _ = trl_dpo("ipo", beta)
    losses = [
        ipo_loss(
            logprobs=rows(0),
            ref_logprobs=rows(1),
            mask=MASK,
            norm=NORM,
            beta=beta,
            reduction=reduction,
        ).loss
        for reduction in ("mean", "sum")
    ]
    torch.testing.assert_close(losses[0], theirs)
    assert float(losses[1] - theirs) != pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_simpo(label_smoothing: float):
    """From logits: TRL's CPO averages the log-probs of the labels and takes gamma absolute."""
    rng = torch.Generator().manual_seed(4)
    logits = torch.randn(2 * PAIRS, T + 1, V, generator=rng)
    ids = torch.randint(V, (2 * PAIRS, T), generator=rng)
    ignored = torch.full((2 * PAIRS, 1), -100)
    labels = torch.cat([ignored, ids.masked_fill(~MASK, -100)], 1)
    batch_logps = method("experimental/cpo/cpo_trainer.py", "get_batch_logps")
    logps = chosen_first(batch_logps(logits, labels, average_log_prob=True))
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        alpha=0.0,
        loss_type="simpo",
        beta=2.5,
        simpo_gamma=0.5,
        label_smoothing=label_smoothing,
    )
    losses, chosen, rejected = method("experimental/cpo/cpo_trainer.py", "cpo_loss")(
        trainer, logps[:PAIRS], logps[PAIRS:]
    )
    ours = simpo_loss(
        logprobs=logits[:, :-1].log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1),
        mask=MASK,
        norm=NORM,
        beta=2.5,
        gamma=0.5,
        label_smoothing=label_smoothing,
    )
    torch.testing.assert_close(ours.loss, losses.mean())
    torch.testing.assert_close(ours.metrics["preference/chosen"], chosen.mean())
    torch.testing.assert_close(ours.metrics["preference/rejected"], rejected.mean())
