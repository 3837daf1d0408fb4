from __future__ import annotations

import math
import pickle

import pytest
import torch

from rto.functional import preference
from rto.methods.preference import (
    DPO,
    IPO,
    RDPO,
    TDPO1,
    TDPO2,
    PreferenceBatch,
    Referenced,
    SimPO,
)
from rto.methods.settings.preference import IPO_SUM
from rto.protocols import PolicyMethod
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

NORM = LossNorm(tokens=25, sequences=6, groups=3)
KL = torch.rand(6, 7, generator=torch.Generator().manual_seed(9))

METHODS: list[PolicyMethod] = [
    DPO(),
    IPO(),
    IPO_SUM.into(IPO),
    RDPO(),
    TDPO1(),
    TDPO2(),
    SimPO(),
]
NAMES = [method.card.name for method in METHODS]
TDPO = {1: TDPO1, 2: TDPO2}
each_method = pytest.mark.parametrize("method", METHODS, ids=NAMES)


def loss(method: PolicyMethod, scored, *, fill: float = 0.0, kl: torch.Tensor = KL) -> LossOutput:
    batch: ScoredBatch = scored(fill=fill)
    targets, _ = method.targets(batch)
    return method.loss(PolicyOutput(batch[Role.POLICY], reference_kl=kl), targets, NORM)


def test_names_papers_and_what_each_reads():
    got = {m.card.name: (m.card.paper.removeprefix("arXiv "), set(m.outputs)) for m in METHODS}
    assert got == {
        "dpo": ("2305.18290", set()),
        "ipo": ("2310.12036", set()),
        "ipo_sum": ("2310.12036", set()),
        "rdpo": ("2403.19159", set()),
        "tdpo1": ("2404.11999", {"reference_kl"}),
        "tdpo2": ("2404.11999", {"reference_kl"}),
        "simpo": ("2405.14734", set()),
    }
    for method in METHODS:
        reads = frozenset() if method.card.name == "simpo" else {Role.REFERENCE}
        assert method.roles == reads
        assert method.whole_groups
        assert (method.card.feedback, method.card.modes) == ("pairs", ("offline",))
        assert pickle.loads(pickle.dumps(method)) == method
        assert method.adapt({}) == method


def test_defaults_are_the_papers():
    dpo, ipo, rdpo, tdpo, simpo = DPO(), IPO(), RDPO(), TDPO2(), SimPO()
    assert dpo.beta == ipo.beta == rdpo.beta == tdpo.beta == 0.1
    assert (rdpo.alpha, tdpo.alpha) == (0.001, 0.5)
    assert (simpo.beta, simpo.margin) == (2.0, 1.0)
    assert (ipo.card.name, tdpo.card.name) == ("ipo", "tdpo2")


@each_method
def test_the_loss_is_the_functions_with_the_methods_fields(method: PolicyMethod, scored):
    batch = scored()
    mask = batch.tokens.response_mask
    fields = {"logprobs": batch[Role.POLICY], "mask": mask, "norm": NORM}
    referenced = {**fields, "ref_logprobs": batch[Role.REFERENCE], "beta": 0.1}
    tdpo = {**referenced, "reference_kl": KL}
    expected = {
        "dpo": lambda: preference.dpo_loss(**referenced),
        "ipo": lambda: preference.ipo_loss(**referenced, reduction="mean"),
        "ipo_sum": lambda: preference.ipo_loss(**referenced, reduction="sum"),
        "rdpo": lambda: preference.rdpo_loss(**referenced, alpha=0.001),
        "tdpo1": lambda: preference.tdpo_loss(**tdpo, alpha=1.0, detach_chosen=False),
        "tdpo2": lambda: preference.tdpo_loss(**tdpo, alpha=0.5, detach_chosen=True),
        "simpo": lambda: preference.simpo_loss(**fields, beta=2.0, gamma=1.0),
    }[method.card.name]()
    got = loss(method, scored)
    assert torch.equal(got.loss, expected.loss)
    assert got.metrics == expected.metrics


@pytest.mark.parametrize(
    ("plain", "others"),
    [
        (IPO(), [IPO(beta=0.2), IPO(nll_coef=1.0), IPO(reduction="sum")]),
        (RDPO(), [RDPO(beta=0.2), RDPO(alpha=0.1), RDPO(nll_coef=1.0)]),
        (TDPO2(), [TDPO2(beta=0.2), TDPO2(alpha=0.1), TDPO2(nll_coef=1.0), TDPO1()]),
        (SimPO(), [SimPO(beta=1.0), SimPO(gamma=0.1), SimPO(label_smoothing=0.1)]),
        (SimPO(), [SimPO(gamma_beta_ratio=0.1), SimPO(nll_coef=1.0)]),
    ],
)
def test_every_field_reaches_the_loss(plain: PolicyMethod, others: list[PolicyMethod], scored):
    losses = {float(loss(method, scored).loss) for method in (plain, *others)}
    assert len(losses) == 1 + len(others)


@pytest.mark.parametrize("version", [1, 2])
def test_only_tdpo1_moves_the_chosen_divergence(version, scored):
    kl = KL.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(TDPO[version](), scored, kl=kl).loss, kl)
    assert bool(gradient[0::2].any()) == (version == 1)
    assert gradient[1::2].any()


def test_a_policy_that_is_its_reference_loses_log_2(scored):
    batch = scored()
    output = PolicyOutput(batch[Role.REFERENCE], reference_kl=torch.zeros(6, 7))
    for method in (DPO(), RDPO(alpha=0.0), TDPO1(), TDPO2()):
        targets, _ = method.targets(batch)
        assert float(method.loss(output, targets, NORM).loss) == pytest.approx(math.log(2))
    targets, _ = IPO().targets(batch)
    assert float(IPO(beta=0.25).loss(output, targets, NORM).loss) == pytest.approx(4)


def test_simpo_takes_gamma_or_its_ratio_to_beta(scored):
    assert SimPO(beta=2.5, gamma=0.5).margin == SimPO(beta=2.5, gamma_beta_ratio=0.2).margin
    same = [SimPO(beta=2.5, gamma=1.25), SimPO(beta=2.5, gamma_beta_ratio=0.5), SimPO(beta=2.5)]
    losses = [loss(method, scored).loss for method in same]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert SimPO(gamma=0.0).margin == SimPO(gamma_beta_ratio=0.0).margin == 0
    with pytest.raises(ValueError, match="gamma and gamma_beta_ratio are both set: give one"):
        SimPO(gamma=0.5, gamma_beta_ratio=0.2)


def test_simpo_needs_no_reference(scored):
    batch = scored()
    targets, _ = SimPO().targets(ScoredBatch(batch.tokens, {}))
    assert type(targets) is TrainBatch
    SimPO().loss(PolicyOutput(batch[Role.POLICY]), targets, NORM)


@pytest.mark.parametrize("version", [1, 2])
def test_tdpo_refuses_a_forward_without_the_kl(version, scored):
    batch = scored()
    method = TDPO[version]()
    targets, _ = method.targets(batch)
    with pytest.raises(ValueError, match="TDPO reads reference_kl"):
        method.loss(PolicyOutput(batch[Role.POLICY]), targets, NORM)


@each_method
def test_nan_in_the_padding_changes_nothing(method: PolicyMethod, scored):
    mask = scored().tokens.response_mask
    clean = loss(method, scored)
    dirty = loss(method, scored, fill=math.nan, kl=KL.masked_fill(~mask, math.nan))
    assert torch.equal(clean.loss, dirty.loss)
    assert clean.metrics == dirty.metrics


@each_method
def test_shards_of_whole_pairs_sum_to_the_batch(method: PolicyMethod, scored):
    batch = scored()
    targets, _ = method.targets(batch)

    def part(rows: list[int]) -> torch.Tensor:
        output = PolicyOutput(batch[Role.POLICY][rows], reference_kl=KL[rows])
        return method.loss(output, targets.take(rows), NORM).loss

    torch.testing.assert_close(part([4, 5]) + part([0, 1, 2, 3]), part(list(range(6))))


@each_method
def test_rows_that_are_not_pairs_are_refused(method: PolicyMethod, scored):
    batch = scored()
    with pytest.raises(ValueError, match="rows 0 and 1 of the pairs answer two prompts"):
        method.targets(batch.take([0, 2, 1, 3]))
    targets, _ = method.targets(batch)
    output = PolicyOutput(batch[Role.POLICY][1:5], reference_kl=KL[1:5])
    with pytest.raises(ValueError, match="rows 0 and 1 of the pairs answer two prompts"):
        method.loss(output, targets.take([1, 2, 3, 4]), NORM)


@pytest.mark.parametrize("method", [m for m in METHODS if isinstance(m, Referenced)])
def test_a_batch_without_a_reference_is_refused(method: PolicyMethod, scored):
    batch = scored()
    assert isinstance(method.targets(batch)[0], PreferenceBatch)
    with pytest.raises(ValueError, match="no scores of role 'reference'"):
        method.targets(ScoredBatch(batch.tokens, {}))
    with pytest.raises(TypeError, match="reads a PreferenceBatch"):
        method.loss(PolicyOutput(batch[Role.POLICY]), TrainBatch(batch.tokens), NORM)
