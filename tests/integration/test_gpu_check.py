"""The steps of the GPU check that start DeepSpeed, Ray and vLLM, on a CPU with tiny models.

They take minutes and run with the tests of `make test-learn`.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks.gpu import engine, page, push, run
from benchmarks.gpu.colocated import engine_and_trainer
from benchmarks.gpu.place import Place, rows_of

pytestmark = [pytest.mark.integration, pytest.mark.learn]


@pytest.mark.parametrize("name", ["update:8b-lora-zero3", "train"])
def test_a_step_ends_with_figures(name: str, tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    assert run.main(["--cpu", "--tiny", name, "--out", str(out)]) == 0
    written = page.read(out)
    assert written is not None
    (entry,) = written[1]
    assert len(entry.figures) >= 8
    if name == "train":
        assert entry.figures["iterations"] == 2
        assert 0 <= entry.figures["largest sampler gap"] < 1e-3
    else:
        assert entry.figures["last loss"] < entry.figures["first loss"]


@pytest.mark.usefixtures("cluster")
def test_an_engine_samples_beside_a_trainer_and_takes_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Place("cpu", True, tmp_path)
    with engine_and_trainer(tiny, "1b") as pair:
        for module in (engine, push):
            monkeypatch.setattr(module, "engine_and_trainer", lambda place, name: nullcontext(pair))
        started, *_ = phases = list(rows_of(engine.measure, tiny, "1b", 0))
        first, later = rows_of(push.measure, tiny, "1b", 0)
    assert started.figures["cache tokens"] > 1000
    assert [row.name for row in phases if "tokens/s" in row.figures] == [
        "1b: first samples",
        "1b: second samples",
    ]
    for row in (first, later):
        assert 0 < row.figures["transfer s"] < row.figures["push s"]
        assert 0 <= row.figures["largest probe gap"] < 1e-3
