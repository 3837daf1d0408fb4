"""Hub ids where no hub answers: one quick line, or what the cache has."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from tiny_tokenizers import tiny_tokenizer

from rto.errors import UserError
from rto.models import source
from rto.models.load import load_config, load_tokenizer
from rto.models.skeleton import Needs, check_model


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing listens on port 9; the cache is empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source.hub_problem.cache_clear()
    yield
    source.hub_problem.cache_clear()


def snapshot(model: Path, name: str) -> Path:
    """The cache holds ``model`` under this id."""
    root = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    shutil.copytree(model, root / "snapshots" / ("0" * 40))
    return root / "snapshots" / ("0" * 40)


@pytest.mark.parametrize("load", [load_config, load_tokenizer])
def test_one_quick_line(load) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="some/model: no such directory here, .* cache") as caught:
        load("some/model")
    assert time.monotonic() - start < 10
    assert "127.0.0.1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("path", ["./gone", "../gone", "-x/y", "a/b/c", "a b"])
def test_what_cannot_be_a_hub_id_is_not_looked_for(path: str) -> None:
    with pytest.raises(UserError, match="neither a directory that exists nor a hub id"):
        load_config(path)


def test_asked_to_stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        load_config("some/model")


def test_what_is_cached_is_read(tiny_model_dir: Path) -> None:
    folder = snapshot(tiny_model_dir, "some/model")
    assert load_config("some/model").model_type == "llama"
    check_model("some/model", "policy", Needs(tiny_tokenizer(), {"data.max_len": 64}))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="some/model: model.safetensors is damaged"):
        check_model("some/model", "policy", Needs(tiny_tokenizer(), {}))


def test_weights_that_are_not_here_are_not_fetched(tiny_model_dir: Path) -> None:
    folder = snapshot(tiny_model_dir, "some/model")
    (folder / "model.safetensors").unlink()
    check_model("some/model", "policy", Needs(tiny_tokenizer(), {"data.max_len": 256}))
    with pytest.raises(UserError, match="data.max_len is 257"):
        check_model("some/model", "policy", Needs(tiny_tokenizer(), {"data.max_len": 257}))
