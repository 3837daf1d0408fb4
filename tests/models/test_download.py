"""The files of a hub model, brought to this machine's cache; and a directory that lacks one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from rto.errors import UserError
from rto.models import download, source
from rto.models.download import bring, missing, needed

COMMIT = "0" * 40
LLAMA = {
    "README.md": 100,
    "config.json": 700,
    "generation_config.json": 100,
    "model-00001-of-00002.safetensors": 5 * 10**9,
    "model-00002-of-00002.safetensors": 2 * 10**9,
    "model.safetensors.index.json": 300,
    "original/consolidated.00.pth": 7 * 10**9,
    "pytorch_model.bin": 7 * 10**9,
    "tokenizer.json": 900,
    "tokenizer.model": 400,
}
LOADED = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
]


@dataclass
class Hub:
    """A hub with one model, whose files are written to the cache as the library does it."""

    files: dict[str, int]
    cache: Path
    downloaded: list[str] = field(default_factory=list)
    fails: Exception | None = None

    @property
    def snapshot(self) -> Path:
        return self.cache / "models--some--model" / "snapshots" / COMMIT

    def model_info(self, path: str, *, files_metadata: bool) -> Any:
        assert (path, files_metadata) == ("some/model", True)
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in self.files.items()]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def hf_hub_download(self, path: str, name: str) -> None:
        if self.fails is not None:
            raise self.fails
        refs = self.cache / "models--some--model" / "refs"
        refs.mkdir(parents=True, exist_ok=True)
        (refs / "main").write_text(COMMIT)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        text = "{}"
        if name.endswith(".index.json"):
            text = json.dumps({"weight_map": {"a": LOADED[-2], "b": LOADED[-1], "c": LOADED[-1]}})
        (self.snapshot / name).write_text(text)
        self.downloaded.append(name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    found = Hub(dict(LLAMA), tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source, "hub_problem", lambda: "")
    monkeypatch.setattr(download, "HfApi", lambda: found)
    monkeypatch.setattr(download, "hf_hub_download", found.hf_hub_download)
    return found


def test_what_loading_reads_is_downloaded_and_told(hub: Hub) -> None:
    said: list[str] = []
    bring("some/model", said.append)
    assert hub.downloaded == LOADED
    assert said[0] == "downloading some/model: 0.0 of 7.0 GB"
    assert said[-1] == "downloading some/model: 5.0 of 7.0 GB"
    bring("some/model", said.append)
    assert (len(hub.downloaded), len(said)) == (len(LOADED), len(LOADED)), "once"


def test_what_the_cache_has_of_this_version_is_not_downloaded_again(hub: Hub) -> None:
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        hub.hf_hub_download("some/model", name)
    before, said = len(hub.downloaded), list[str]()
    bring("some/model", said.append)
    assert set(hub.downloaded[before:]) == set(LOADED) - set(hub.downloaded[:before])
    assert said[0].endswith("0.0 of 2.0 GB")


def test_weights_of_one_kind_are_read() -> None:
    bins = ["config.json", "pytorch_model.bin", "tf_model.h5", "model.onnx", "a.py"]
    assert needed(bins) == ["config.json", "pytorch_model.bin"]
    assert needed([*bins, "model.safetensors"]) == ["config.json", "model.safetensors"]
    templates = ["additional_chat_templates/tool.jinja", "onnx/config.json", "chat_template.jinja"]
    assert needed(templates) == [templates[0], templates[2]]


def test_a_download_that_fails_is_one_line(hub: Hub) -> None:
    hub.fails = OSError(28, "No space left on device")
    with pytest.raises(UserError) as caught:
        bring("some/model", print)
    said = str(caught.value)
    assert said.startswith("some/model: cannot be downloaded: OSError: [Errno 28] No space left")
    assert "HF_HOME" in said
    assert len(said.splitlines()) == 1


def test_a_hub_id_without_a_part_of_its_weights_is_not_whole(hub: Hub) -> None:
    hub.files.pop("model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"some/model: model-00002-of-00002.safetensors is not he"):
        bring("some/model", print)


@pytest.mark.parametrize("why", ["asked to", "no connection"])
def test_offline_the_cache_has_to_hold_it(
    hub: Hub, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "asked to":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(source, "hub_problem", lambda: "no route")
    with pytest.raises(UserError, match="not in this machine's cache"):
        bring("some/model", print)
    hub.hf_hub_download("some/model", "config.json")
    with pytest.raises(UserError, match="some/model: its weights is not here: download it first"):
        bring("some/model", print)
    for name in LOADED:
        hub.hf_hub_download("some/model", name)
    before = len(hub.downloaded)
    bring("some/model", print)
    assert len(hub.downloaded) == before


def test_a_directory_has_to_hold_its_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    bring(str(folder), print)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert missing(str(folder)) == ["model-2.safetensors"]
    with pytest.raises(UserError, match="model-2.safetensors is not here: complete it"):
        bring(str(folder), print)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match=r"index.json: cannot read it: JSONDecodeError"):
        bring(str(folder), print)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="no weights in this directory"):
        bring(str(folder), print)
