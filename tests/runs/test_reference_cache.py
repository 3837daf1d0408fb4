"""Reference log-probs on disk: whose they are, and what a damaged file does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rto.data.examples import Example, Rated
from rto.errors import UserError
from rto.runs.reference_cache import cache_path, fingerprint, load_logprobs, saving_logprobs

ROWS = [Example((1, 2), (3, 4, 5), True), Example((6,), (7,), False)]
LOGPROBS = [torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-3.25])]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def path_of(model: Path, rows: list[Example] = ROWS, *, precision: str = "bf16") -> Path:
    return cache_path(str(model.parent / "cache"), model=str(model), precision=precision, rows=rows)


def save(path: Path, computed: Iterable[tuple[int, Tensor]]) -> None:
    with saving_logprobs(path, ROWS) as write:
        for row, logprobs in computed:
            write(row, logprobs)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[::-1],
        ROWS[:1],
        [Example((1, 2), (3, 4, 6), True), ROWS[1]],
        [Example((1, 9), (3, 4, 5), True), ROWS[1]],
        # The same ids in the same order, divided otherwise.
        [Example((1,), (2, 3, 4, 5), True), ROWS[1]],
        [Example((1, 2), (3, 4), True), Example((5, 6), (7,), False)],
    ],
)
def test_other_rows_have_another_file(model: Path, rows: list[Example]) -> None:
    assert path_of(model, rows) != path_of(model)


def test_the_same_rows_have_the_same_file(model: Path) -> None:
    """What the log-probs do not depend on does not count: a reward, how the response ended."""
    rated = [Rated((1, 2), (3, 4, 5), False, 0.5), Rated((6,), (7,), True, -1.0)]
    assert path_of(model, [*rated]) == path_of(model)
    assert path_of(model).parent == model.parent / "cache"


def test_another_precision_has_another_file(model: Path) -> None:
    assert path_of(model, precision="fp32") != path_of(model)


def test_other_weights_have_another_file(model: Path) -> None:
    before = path_of(model)
    (model / "tokenizer.json").write_text("not a weight")
    assert path_of(model) == before
    (model / "model.safetensors").write_bytes(b"other weights")
    resized = path_of(model)
    (model / "model-2.bin").write_bytes(b"")
    added = path_of(model)
    os.utime(model / "config.json", ns=(0, 0))
    assert len({before, resized, added, path_of(model)}) == 4


def test_a_copy_of_the_model_elsewhere_is_another_model(model: Path) -> None:
    copy = model.parent / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((model / name).read_bytes())
        stat = (model / name).stat()
        os.utime(copy / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(str(copy)) != fingerprint(str(model))
    assert fingerprint(str(model)) == fingerprint(f"{model}/../model")


def test_where_files_are_kept(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def folder(cache_dir: str | None) -> Path:
        return cache_path(cache_dir, model=str(model), precision="bf16", rows=ROWS).parent

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert folder(None) == tmp_path / "home" / ".cache" / "rto"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder(None) == tmp_path / "xdg" / "rto"
    assert folder("~/mine") == tmp_path / "home" / "mine"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "reference-1.safetensors"
    save(path, enumerate(LOGPROBS))
    found = load_logprobs(path, ROWS)
    assert all(torch.equal(a, b) for a, b in zip(found, LOGPROBS, strict=True))
    assert [file.name for file in path.parent.iterdir()] == ["reference-1.safetensors"]


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "reference-1.safetensors"
    save(path, enumerate(LOGPROBS))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"reference-1\.safetensors is damaged .* remove it") as got:
        load_logprobs(path, ROWS)
    assert "\n" not in str(got.value)


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def half() -> Iterator[tuple[int, Tensor]]:
        yield 0, LOGPROBS[0]
        raise OSError("no space left on device")

    new, old = tmp_path / "reference-1.safetensors", tmp_path / "reference-2.safetensors"
    save(old, enumerate(LOGPROBS))
    content = old.read_bytes()
    for path in (new, old):
        with pytest.raises(OSError, match="no space left"):
            save(path, half())
    assert old.read_bytes() == content
    assert list(tmp_path.iterdir()) == [old]


def test_rows_may_come_in_any_order_and_are_an_ordinary_file(tmp_path: Path) -> None:
    path = tmp_path / "reference-1.safetensors"
    save(path, [(1, LOGPROBS[1]), (0, LOGPROBS[0])])
    assert torch.equal(load_file(path)["logprobs"], torch.cat(LOGPROBS))
