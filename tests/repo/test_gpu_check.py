"""The GPU check on a CPU: its steps with tiny models, what they compute, and how it reports.

The steps that start Ray, vLLM or DeepSpeed are in tests/integration/test_gpu_check.py.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from local_group import BigramEngine, BigramRank, bigram, engines, trainers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.gpu import (
    card,
    colocated,
    engine,
    logprobs,
    models,
    packed,
    page,
    place,
    push,
    run,
    train,
    update,
)
from benchmarks.gpu.page import Entry, Header
from benchmarks.gpu.place import Place, Row
from benchmarks.gpu.planned import planned_gib
from benchmarks.gpu.steps import STEPS, Case, Step, chosen
from rto.cluster.weight_sync import ClusterWeightSync, make_probe
from rto.rollout.requests import Sampling
from rto.sections.parse import parse_run
from rto.types import Prompt

ROOT = Path(__file__).resolve().parents[2]
HEADER = Header("a card", "a machine", {"torch": "2", "git_commit": "abc"}, "2026-01-02", ["one"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place("cpu", True, tmp_path_factory.mktemp("gpu-check"))


# Its steps.


def test_every_step_is_a_module_that_measures() -> None:
    for step in STEPS:
        assert callable(importlib.import_module(f"benchmarks.gpu.{step.name}").measure)
    (listed,) = (step.cases for step in STEPS if step.name == "update")
    assert [case.name for case in listed] == list(update.CASES)
    offloaded = {name for name, training in update.CASES.items() if training.offload}
    assert {case.name for case in listed if case.cuda} == offloaded


def test_a_step_or_a_case_is_chosen_by_its_name() -> None:
    names = [(step.name, case.name) for step, case in chosen(["update:1b-zero2", "card"])]
    assert names == [("card", "card"), ("update", "1b-zero2")]
    assert len(chosen([])) == sum(len(step.cases) for step in STEPS)
    assert [case.name for _, case in chosen(["logprobs"])] == ["chunks", "whole-logits"]
    with pytest.raises(ValueError, match="unknown step 'nope': one of card:card, packed:own"):
        chosen(["nope"])


@pytest.mark.parametrize(
    ("measure", "case", "rows"),
    [
        (card.measure, "card", ["product", "copy on the card"]),
        (packed.measure, "own-prompts", ["own-prompts: packed", "own-prompts: padded"]),
        (packed.measure, "shared-prompts", ["shared-prompts: packed", "shared-prompts: padded"]),
        (logprobs.measure, "chunks", [f"chunks of {n}" for n in (16, 32, 64, 128, 256)]),
        (logprobs.measure, "whole-logits", ["whole logits"]),
    ],
)
def test_a_step_gives_finite_figures(
    tiny: Place, measure: place.Measure, case: str, rows: list[str]
) -> None:
    found = list(place.rows_of(measure, tiny, case, gib=10**6))
    assert [row.name for row in found if row.figures] == rows
    for row in found:
        assert all(math.isfinite(value) for value in row.figures.values())
        assert bool(row.figures) != bool(row.skipped)


@pytest.mark.parametrize(
    ("measure", "case", "why"),
    [
        (card.measure, "card", "needs CUDA"),
        (packed.measure, "own-prompts", "needs CUDA"),
        (packed.measure, "shared-prompts", "takes rows that share no prompt"),
        (update.measure, "1b-zero2-offload", "needs CUDA"),
    ],
)
def test_what_needs_cuda_says_so(tiny: Place, measure: place.Measure, case: str, why: str) -> None:
    assert [row.skipped for row in measure(tiny, case) if row.skipped] == [why]


def test_a_figure_that_is_not_finite_fails_its_case(tiny: Place) -> None:
    def measure(where: Place, case: str) -> Iterator[Row]:
        yield Row("good", {"s": 1.0})
        yield Row("bad", {"s": 1.0, "gap": math.nan})

    found = place.rows_of(measure, tiny, "x", gib=0)
    assert next(found).name == "good"
    with pytest.raises(ValueError, match="bad: gap is nan"):
        next(found)


def test_a_card_that_is_too_small_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "card_bytes", lambda where: 39 * 2**30)
    on_gpu = Place("cuda", False, Path())
    measured = iter([Row("x", {"s": 1.0})])
    (small,) = place.rows_of(lambda where, case: measured, on_gpu, "x", gib=40)
    assert small == Row("x", skipped="needs 40 GiB, the card has 39")
    assert next(place.rows_of(lambda where, case: measured, on_gpu, "x", gib=39)).figures
    on_cpu = Place("cpu", False, Path())
    measured = iter([Row("x", {"s": 1.0})])
    assert next(place.rows_of(lambda where, case: measured, on_cpu, "x", gib=40)).figures


# What they compute.


@pytest.mark.parametrize("name", models.SHAPES)
def test_a_shape_counts_its_parameters_as_transformers_does(name: str) -> None:
    shape = models.SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**asdict(shape)))
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_operations_are_those_of_weights_and_attended_pairs() -> None:
    size = models.Shape(10, 4, 6, 3, 2, 1)
    # q and o 4 x 4, k and v 4 x 2, three of 4 x 6.
    assert size.layer_weights == 16 + 16 + 8 + 8 + 72
    weights = 2 * 3 * 120 * (5 + 3)
    attention = 3 * 2 * 2 * (5 * 5 + 3 * 3) / 2 * 4
    assert size.forward_flop([5, 3], responses=6) == weights + attention + 2 * 40 * 6
    batch = models.random_rows([5, 3], vocabulary=10)
    responses = int(batch.response_mask.sum())
    forward = size.forward_flop([5, 3], responses)
    assert update.flop(size, batch, frozen_base=False) == 3 * forward
    assert update.flop(size, batch, frozen_base=True) == 2 * forward


def test_rows_have_their_lengths_and_neighbours_their_prompt() -> None:
    batch = models.random_rows([9, 9, 12, 12], vocabulary=50, per_prompt=2)
    assert batch.lengths.tolist() == [9, 9, 12, 12]
    assert batch.prompt_mask.sum(-1).tolist() == [3, 3, 4, 4]
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert batch.prompt_ids[0].equal(batch.prompt_ids[1])
    assert not batch.prompt_ids[1].equal(batch.prompt_ids[2])
    assert int(batch.response_ids[batch.response_mask].min()) >= models.FIRST_ID


def test_no_row_is_shorter_than_a_prompt_and_a_response_need() -> None:
    for total in range(4, 300):
        lengths = models.chat_lengths(total, longest=64)
        assert sum(lengths) == total
        assert min(lengths) >= 4


@pytest.mark.parametrize(("total", "longest"), [(16_384, 2048), (20_000, 64), (5, 64)])
def test_chat_lengths_add_up(total: int, longest: int) -> None:
    lengths = models.chat_lengths(total, longest=longest)
    assert sum(lengths) == total
    assert min(lengths) >= 4
    # The last one takes what would be too short for a row.
    assert max(lengths) <= longest + 3
    assert total < 1000 or len(set(lengths)) > 5


def test_a_model_is_made_once_and_again_for_another_shape(tmp_path: Path) -> None:
    where = Place("cpu", True, tmp_path)
    folder = models.model_folder(where, "1b")
    config = folder / "config.json"
    written = config.stat().st_mtime_ns
    assert models.model_folder(where, "8b") == folder
    assert config.stat().st_mtime_ns == written
    changed = {**json.loads(config.read_text()), "hidden_size": 256}
    config.write_text(json.dumps(changed))
    models.model_folder(where, "1b")
    assert json.loads(config.read_text())["hidden_size"] == models.TINY.hidden_size


def test_on_a_gpu_a_model_is_made_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(models.subprocess, "run", lambda command, **how: commands.append(command))
    folder = models.model_folder(Place("cuda", True, tmp_path), "1b")
    assert not folder.exists()
    ((_, *module, given),) = commands
    assert module == ["-m", "benchmarks.gpu.models"]
    assert '"device": "cuda"' in given
    monkeypatch.setattr("sys.argv", ["models", given.replace('"cuda"', '"cpu"')])
    models.main()
    assert models.model_folder(Place("cuda", True, tmp_path), "1b") == folder
    assert len(commands) == 1


def test_a_model_that_the_disk_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"GB free, the model needs 2\d{5}"):
        models.make(tmp_path / "a", "cpu", models.Shape(10**8, 10**6, 8, 1, 1, 1))
    assert not (tmp_path / "a").exists()


def per_row(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, ends_k: Tensor, *rest: int, **how: Any
) -> Tensor:
    """What ``varlen_attn`` computes on a GPU, row by row."""
    assert ends.dtype == torch.int32
    assert ends.equal(ends_k)
    assert how["window_size"] == (-1, 0)
    bounds = ends.tolist()
    assert list(rest) == [max(b - a for a, b in zip(bounds, bounds[1:], strict=False))] * 2
    outputs: list[Tensor] = []
    for begin, end in zip(bounds, bounds[1:], strict=False):
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        output = scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=how["scale"], enable_gqa=how["enable_gqa"]
        )
        outputs.append(output.transpose(0, 1))
    return torch.cat(outputs)


def test_varlen_attention_reads_the_rows_that_packing_reads(
    tiny: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "varlen_attn", per_row)
    policy, batch = packed.load(tiny), packed.rows(tiny, "own-prompts")
    exact = packed.read_exactly(policy, batch)
    found = {}
    for way in packed.WAYS:
        found[way] = packed.read(policy, batch, packed.prepare(policy, batch, way))
        assert found[way].gap(exact, batch.response_mask) < 1e-5
        assert found[way].gradient_error(exact) < 1e-4
    assert {len(each.gradients) for each in found.values()} == {3}
    short = packed.Read(exact.logprobs + 1, {n: 2 * g for n, g in exact.gradients.items()})
    assert short.gap(exact, batch.response_mask) == pytest.approx(1)
    assert short.gradient_error(exact) == pytest.approx(1)


def test_packed_rows_that_are_less_exact_than_padded_ones_fail() -> None:
    packed.check_exact(0.019, 0.01)
    with pytest.raises(ValueError, match=r"packed rows differ by 0\.021 .* padded rows by 0\.01"):
        packed.check_exact(0.021, 0.01)


def test_a_card_is_known_by_its_name() -> None:
    assert update.rate_of("NVIDIA H100 80GB HBM3") == 989e12
    assert update.rate_of("NVIDIA H100 PCIe") == 756e12
    assert update.rate_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert update.rate_of("NVIDIA T4") is None


def test_a_case_says_what_is_trained(tiny: Place) -> None:
    whole, adapters = (update.CASES[x].config(tiny) for x in ("1b-zero3", "8b-lora-zero2"))
    assert (whole.ds.zero_stage, whole.ds.lora.rank) == (3, 0)
    assert (adapters.ds.zero_stage, adapters.ds.lora.rank) == (2, update.LORA_RANK)
    assert adapters.actor.gradient_checkpointing_enable
    offload = update.CASES["1b-zero2-offload"].config(Place("cuda", True, tiny.work))
    assert offload.ds.adam_offload
    assert offload.ds.dtype == "bf16"


def test_the_plan_is_asked_about_the_rank_that_is_measured(tiny: Place) -> None:
    asked = {
        name: planned_gib(update.CASES[name].config(tiny))
        for name in update.CASES
        if not update.CASES[name].offload
    }
    assert all(value > 0 for figures in asked.values() for value in figures.values())
    held = {name: figures["planned GiB"] for name, figures in asked.items()}
    # fp32: weights and two states of Adam.
    assert held["1b-zero0"] == pytest.approx(12 * models.TINY.parameters / 2**30, rel=0.5)
    for figures in asked.values():
        assert figures["planned peak GiB"] > figures["planned GiB"]


def test_lines_of_metrics_become_medians_after_the_first_iteration() -> None:
    stages = ["iteration", "generate", "score", "update", "sync"]
    lines = [
        {
            **{f"time/{stage}": time + number for number, stage in enumerate(stages)},
            "sampler/abs_diff_mean": gap,
            "sync/probe_mean_abs_diff": gap / 2,
        }
        for time, gap in ((100.0, 0.4), (1.0, 0.1), (3.0, 0.2), (2.0, 0.3))
    ]
    assert train.figures_of(lines, 4) == {
        "iterations": 4,
        "iteration s": 2.0,
        "sample s": 3.0,
        "score s": 4.0,
        "update s": 5.0,
        "push s": 6.0,
        "largest sampler gap": 0.4,
        "largest probe gap": 0.2,
    }
    with pytest.raises(ValueError, match="4 lines of metrics, not 5"):
        train.figures_of(lines, 5)
    lines[2]["loss"] = math.inf
    with pytest.raises(ValueError, match="iteration 2: loss is inf"):
        train.figures_of(lines, 4)


@pytest.mark.parametrize(("device", "small"), [("cpu", True), ("cuda", False)])
def test_the_run_of_rto_is_one_that_is_accepted(
    tmp_path: Path, device: Any, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, "reward_model", lambda where, model: model)
    flags = train.flags(Place(device, small, tmp_path), tmp_path / "m", tmp_path / "run")
    config = parse_run("train", flags).config
    assert config.train.device == device
    assert config.train.max_steps == (2 if small else 10)
    assert config.ds.param_dtype == ("bf16" if device == "cuda" else "fp32")
    drawn = config.train.num_episodes * 48 // config.rollout.batch_size
    assert drawn >= train.iterations(Place(device, small, tmp_path))


# An engine and a trainer, both bigram tables of this process.


@dataclass(frozen=True)
class LocalPipeline:
    sync: ClusterWeightSync
    generator: Any


@dataclass
class LocalPair:
    """As ``colocated.Pair`` is: what the card holds is how often it was asked."""

    pipeline: LocalPipeline
    engines: Any
    run: Any
    start_seconds: tuple[float, float] = (2.0, 3.0)
    asked: int = field(default=0)

    def of_engine(self, question: Callable[[Any], int]) -> int:
        assert question is colocated.cache_tokens
        return 4096

    def card_gib(self) -> float:
        self.asked += 1
        return float(self.asked)


@dataclass(frozen=True)
class LocalRun:
    prompts: list[Prompt]


@dataclass(frozen=True)
class LocalGenerator:
    sampling: Sampling


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> BigramEngine:
    """Of both steps, the engine; it begins with other weights than the trainer."""
    there = BigramEngine(bigram(1))
    group = engines(there)
    probe = make_probe([[1, 2, 3, 4]], tolerance=1e-6)
    sync = ClusterWeightSync(
        trainers("policy", BigramRank(bigram(0))), group, probe, "object_store"
    )
    pair = LocalPair(
        LocalPipeline(sync, LocalGenerator(Sampling(4))),
        group,
        LocalRun([Prompt(0, (1, 2), ""), Prompt(1, (3,), "")]),
    )

    def opened(where: Place, name: str) -> AbstractContextManager[LocalPair]:
        assert name in models.SHAPES
        return nullcontext(pair)

    for module in (engine, push):
        monkeypatch.setattr(module, "engine_and_trainer", opened)
    return there


class AskedActor:
    """An actor that runs a function on itself, as Ray's do."""

    def __init__(self, engine: object) -> None:
        self.engine = engine

    def __ray_call__(self, question: Callable[[AskedActor], int]) -> int:
        return question(self)


def test_the_engines_process_is_asked_for_its_cache(tiny: Place) -> None:
    config = SimpleNamespace(cache_config=SimpleNamespace(kv_cache_size_tokens=4096))
    llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config))
    group = engines(cast(Any, AskedActor(SimpleNamespace(_llm=llm))))
    pipeline = cast(Any, SimpleNamespace(generator=SimpleNamespace(engines=group)))
    pair = colocated.Pair(tiny, cast(Any, None), pipeline, (0.0, 0.0))
    assert pair.of_engine(colocated.cache_tokens) == 4096
    assert pair.card_gib() == 0


def test_an_engine_is_seen_asleep_awake_sampling_and_asleep_again(
    tiny: Place, local: BigramEngine
) -> None:
    found = list(engine.measure(tiny, "8b-lora"))
    assert found[0] == Row(
        "8b-lora: started", {"engine s": 2.0, "trainer s": 3.0, "cache tokens": 4096.0}
    )
    assert [(row.name, row.figures["card GiB"]) for row in found[1:]] == [
        ("8b-lora: engine asleep", 1.0),
        ("8b-lora: engine awake", 2.0),
        ("8b-lora: first samples", 3.0),
        ("8b-lora: second samples", 4.0),
        ("8b-lora: asleep again", 5.0),
    ]
    called = [note[0] for note in local.notes]
    assert called[-3:] == ["generate", "generate", "sleep"]
    assert found[3].figures["tokens/s"] > 0


def test_pushes_are_timed_as_a_whole_and_their_transfer(
    tiny: Place, local: BigramEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(tick * tick for tick in range(10**6))  # Each push takes longer.
    monkeypatch.setattr(push.time, "perf_counter", lambda: float(next(clock)))
    first, later = push.measure(tiny, "wide")
    size = models.TINY.parameters * 4 / 1e9
    for row, name, seconds, transfer in (
        (first, "wide: first", 9.0, 3.0),
        (later, "wide: later", 57.0, 19.0),
    ):
        assert row.name == name
        assert row.figures == {
            "GB": size,
            "push s": seconds,
            "transfer s": transfer,
            "s per GB": seconds / size,
            "largest probe gap": pytest.approx(0, abs=1e-6),
        }
    # Each push of a run wakes the engine.
    assert [note[0] for note in local.notes].count("sleep") == push.PUSHES
    assert local.notes[-2] == ("accept", push.PUSHES - 1)


def test_medians_of_pushes_and_their_largest_gap() -> None:
    made = [push.Push(*seen) for seen in ((1.0, 0.5, 0.1), (9.0, 0.7, 0.3), (2.0, 0.6, 0.2))]
    assert push.row("x", made, 4.0).figures == {
        "GB": 4.0,
        "push s": 2.0,
        "transfer s": 0.6,
        "s per GB": 0.5,
        "largest probe gap": 0.3,
    }


# How it runs and reports.


def test_without_a_card_it_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "card_name", lambda environment: "")
    assert run.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "no CUDA device here: run `make gpu-check CUDA=1`" in said.err


def test_the_card_is_asked_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = "import sys; sys.stdout.write('a card\\n')"
    monkeypatch.setattr(run, "CARD", fake)
    assert run.card_name(run.Options().environment) == "a card"
    assert run.Options().environment["CUDA_VISIBLE_DEVICES"]


def test_an_unknown_step_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run.main(["--cpu", "nope"])
    assert error.value.code == 2
    assert "unknown step 'nope'" in capsys.readouterr().err


def test_a_dry_run_leaves_json_lines_and_a_page_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "page.md"
    assert run.main(["--cpu", "--tiny", "card", "--out", str(out)]) == 0
    header, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert header["card"] == "none"
    assert header["commands"][0].startswith("python -m benchmarks.gpu.run --cpu --tiny card")
    assert {"torch", "git_commit"} <= header["versions"].keys()
    assert [line["name"] for line in lines][:2] == ["product", "copy on the card"]
    kept = page.read(out)
    assert kept is not None
    assert [asdict(entry) for entry in kept[1]] == lines
    assert "| product | " in out.read_text()


@pytest.mark.parametrize(
    ("module", "limit", "said"),
    [
        ("no_such_step", 60, "exit code 1: .*No module named benchmarks.gpu.no_such_step"),
        ("card", 0, "took more than 0 s: "),
    ],
)
def test_a_case_that_fails_or_hangs_says_so_and_where(
    module: str, limit: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STEPS", (Step(module, "", "", (Case("a", limit),)),))
    step = run.STEPS[0]
    (entry,) = run.run_case(step, step.cases[0], run.Options(cpu=True, tiny=True))
    assert (entry.step, entry.case, entry.figures) == (module, "a", {})
    assert re.match(said, entry.failed)
    assert f"runs/bench/gpu/logs/{module}-a.log" in entry.failed


def test_the_words_of_a_failed_step_are_kept_with_its_rows(
    tiny: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(where: Place, case: str) -> Iterator[Row]:
        yield Row("first", {"s": 1.0})
        raise ValueError("the loss went up\nand up")

    lines = tmp_path / "rows.jsonl"
    monkeypatch.setattr("sys.argv", ["x", "a-case", "--cpu", "--tiny", "--json", str(lines)])
    monkeypatch.setattr(place, "end_on_signals", lambda: None)
    with pytest.raises(ValueError, match="went up"):
        place.script(measure)
    rows = [Row(**json.loads(line)) for line in lines.read_text().splitlines()]
    assert rows[0] == Row("first", {"s": 1.0})
    assert rows[1] == Row("a-case", failed="ValueError: the loss went up")


def test_one_failed_case_is_exit_code_1_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_case(step: Step, case: Case, options: run.Options) -> Iterator[Entry]:
        failed = "exit code 1: why" if case.name == "own-prompts" else ""
        yield Entry(step.name, case.name, case.name, failed=failed)

    monkeypatch.setattr(run, "run_case", run_case)
    out = tmp_path / "page.md"
    assert run.main(["--cpu", "packed", "--out", str(out)]) == 1
    kept = page.read(out)
    assert kept is not None
    assert [entry.case for entry in kept[1]] == ["own-prompts", "shared-prompts"]
    assert run.main(["--cpu", "packed:shared-prompts", "--out", str(out)]) == 0
    assert "failed: exit code 1: why" in out.read_text()


def entry(case: str, step: str = "packed", **said: Any) -> Entry:
    return Entry(step, case, case, **said)


def test_lines_of_the_same_card_and_versions_stay() -> None:
    old = [entry("own-prompts"), entry("shared-prompts")]
    cases = chosen(["packed:own-prompts"])
    header, kept = run.going_on(HEADER, (HEADER, old), cases)
    assert (header.commands, kept) == (["one"], old[1:])
    newer = Header("a card", "a machine", HEADER.versions, "2026-02-02", ["two"])
    assert run.going_on(newer, (HEADER, old), cases)[0].commands == ["one", "two"]
    assert run.going_on(newer, (HEADER, old), chosen([])) == (newer, [])
    for changed in ({"card": "another"}, {"versions": {"torch": "3"}}):
        other = Header(**{**asdict(newer), **changed})
        assert run.going_on(other, (HEADER, old), cases) == (other, [])
    assert run.going_on(newer, None, cases) == (newer, [])


def test_lines_are_in_the_order_of_the_steps() -> None:
    mixed = [entry("chunks", "logprobs"), entry("shared-prompts"), entry("own-prompts")]
    assert run.in_order(mixed) == mixed[::-1]


def test_a_table_has_a_column_per_figure_and_notes_where_there_are_some() -> None:
    rows = [
        entry("a", figures={"s": 0.12345, "GiB": 1234.5}),
        entry("b", figures={"s": 2.0}),
        entry("c", skipped="needs CUDA"),
        entry("d", failed="exit code 1: a|b"),
    ]
    assert page.table(rows).splitlines() == [
        "| case | s | GiB | note |",
        "| --- | --- | --- | --- |",
        "| a | 0.1235 | 1,234 |  |",
        "| b | 2 |  |  |",
        "| c |  |  | skipped: needs CUDA |",
        r"| d |  |  | failed: exit code 1: a\|b |",
    ]
    assert page.table(rows[:1]).splitlines()[0] == "| case | s | GiB |"


def test_a_page_says_what_ran_on_what(tmp_path: Path) -> None:
    path = tmp_path / "gpu.md"
    assert page.read(path) is None
    page.write(path, HEADER, [entry("a", figures={"s": 1.0})])
    assert page.read(path) == (HEADER, [entry("a", figures={"s": 1.0})])
    text = path.read_text()
    assert page.NOT_RUN not in text
    for said in ("Card: a card.", "Date: 2026-01-02.", "Command: `one`.", "git_commit abc."):
        assert said in text
    assert text.index("| a | 1 |") > text.index("## Packed rows")


def test_the_page_of_results_is_what_the_check_has_written() -> None:
    path = ROOT / "docs" / "results" / "gpu.md"
    written = page.read(path)
    expected = page.page(None, []) if written is None else page.page(*written)
    assert path.read_text(encoding="utf-8") == expected


def test_a_log_ends_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n  two  \n\n")
    assert run.last_line(log) == "two"
    log.write_text("")
    assert run.last_line(log) == "it printed nothing"
