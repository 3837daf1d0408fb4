from __future__ import annotations

import json
from pathlib import Path

import pytest

from rto.cli import doctor
from rto.cli.main import main
from rto.safety.finding import Finding
from rto.tracking.run_folder import RunFolder

FINE = [Finding("all is well")]


@pytest.fixture(autouse=True)
def _well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is wrong."""
    monkeypatch.setattr(doctor.machine, "findings", lambda: iter(FINE))
    monkeypatch.setattr(doctor.files, "findings", lambda: iter(FINE))
    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)


def test_a_line_for_each_and_0_where_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "ok     all is well\n" * 2


def test_what_is_wrong_stands_with_its_remedy_and_makes_it_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    assert main(["doctor"]) == 1
    said = "VLLM_ALLOW_INSECURE_SERIALIZATION is set: unset it, nothing here needs it"
    assert f"wrong  {said}\n" in capsys.readouterr().out


def test_a_run_folder_is_looked_at_with_the_process_that_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder(tmp_path / "run") as folder:
        main(["doctor", str(folder.path), "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found[2]["what"].startswith("process ")
    assert main(["doctor", str(folder.path)]) == 0
    assert f"ok     {folder.path}: no run is at work there" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "said"), [("nowhere", "no such folder"), ("", "names nothing")])
def test_what_is_no_folder_is_one_line(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
