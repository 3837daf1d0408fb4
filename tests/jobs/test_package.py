from __future__ import annotations

import os
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from rto.errors import UserError
from rto.jobs import package as module
from rto.jobs.package import check, package, secrets, uri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout in small, with what Ray leaves out by itself and what a job tells it to."""
    root = tmp_path / "checkout"
    files = {
        "a.py": b"x = 1\n" * 100,
        "data/rows.bin": bytes(3000),
        "data/deep/big.bin": bytes(9000),
        ".gitignore": b"*.log\n/ignored/\n",
        "run.log": b"left out",
        "ignored/x": b"left out",
        "runs/x/weights": b"left out",
        ".git/config": b"left out",
        "data/__pycache__/a.pyc": b"left out",
        "\u00e4.txt": b"umlaut",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "empty").mkdir()
    os.symlink(root / "a.py", root / "link.py")
    return root


def test_it_is_what_ray_uploads(folder: Path, tmp_path: Path) -> None:
    found = package(folder, ["/runs/"])
    archive = tmp_path / "package.zip"
    excludes = [*get_runtime_env_default_excludes(), "/runs/"]
    create_package(str(folder), archive, include_gitignore=True, excludes=excludes)
    with ZipFile(archive) as file:
        sizes = {each.filename: each.file_size for each in file.infolist()}
    assert found.files == sizes
    assert {"a.py", "link.py", "empty/", "data/deep/big.bin"} <= sizes.keys()
    assert found.size == archive.stat().st_size
    assert found.largest[:2] == [("data/deep/big.bin", 9000), ("data/rows.bin", 3000)]


def test_gitignore_is_heeded_as_ray_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "run.log" not in package(folder, []).files
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert "run.log" in package(folder, []).files


def test_only_the_ten_largest_are_named(folder: Path) -> None:
    for number in range(20):
        (folder / f"f{number:02}").write_bytes(bytes(100 + number))
    largest = package(folder, ["/runs/", "data"]).largest
    assert [name for name, _ in largest[:3]] == ["a.py", "link.py", "f19"]
    assert len(largest) == 10


def test_a_package_has_one_name_until_a_file_changes(folder: Path) -> None:
    before = uri(folder, ["/runs/"])
    assert uri(folder, ["/runs/"]) == before
    (folder / "runs" / "x" / "weights").write_text("other")
    assert uri(folder, ["/runs/"]) == before
    (folder / "a.py").write_text("x = 2\n")
    assert uri(folder, ["/runs/"]) != before


def test_a_package_that_ray_refuses_names_its_largest_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = package(folder, ["/runs/"])
    check(found)
    monkeypatch.setattr(module, "GCS_STORAGE_MAX_SIZE", found.size + 1)
    check(found)
    monkeypatch.setattr(module, "GCS_STORAGE_MAX_SIZE", found.size)
    with pytest.raises(UserError, match=r"RAY_max_grpc_message_size.*data/deep/big\.bin \(0\.01"):
        check(found)


@pytest.mark.parametrize(
    "name",
    [".env", ".env.prod", "k/server.pem", "id_rsa", ".netrc", ".git-credentials", "x.key"],
)
def test_a_file_for_secrets_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("planted")
    with pytest.raises(UserError, match=r"is a file for secrets.*excludes") as refused:
        check(package(folder, ["/runs/"]))
    assert str(folder / name) in str(refused.value)
    check(package(folder, ["/runs/", name.rpartition("/")[2]]))


@pytest.mark.parametrize(
    "line",
    [
        'API_KEY = "planted1234"',
        "export DB_PASSWORD=planted1234",
        '  "auth_token": "planted/1234",',
        "url = 'https://me:planted@host/x'",
        "hub: hf_plantedPlanted1234",
        "-----BEGIN RSA PRIVATE KEY-----",
        "log in with ghp_planted1234planted5678",
    ],
)
def test_a_text_with_a_secret_is_refused(folder: Path, line: str) -> None:
    (folder / "settings.py").write_text(f"first\n{line}\n")
    assert list(secrets(package(folder, []))) == [("settings.py", "holds a secret in line 2")]
    with pytest.raises(UserError) as refused:
        check(package(folder, []))
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "token = words[0]",
        "best_key: str = 'reward'",
        "password = os.environ['PASSWORD_1']",
        "API_KEY=$API_KEY_1",
        "max_key_length = 12345678",
        "see https://host/path?x=1",
        'headers = {"Authorization": f"Bearer {self.key}"}',
    ],
)
def test_a_program_that_speaks_of_secrets_is_not(folder: Path, line: str) -> None:
    (folder / "settings.py").write_text(f"{line}\n")
    assert list(secrets(package(folder, []))) == []


def test_examples_of_secret_files_and_other_files_are_not(folder: Path) -> None:
    (folder / ".env.example").write_text("API_KEY=planted1234")
    (folder / "id_rsa.pub").write_text("ssh-rsa AAAA")
    (folder / "weights.bin").write_bytes(b"API_KEY=planted1234\n\0")
    assert list(secrets(package(folder, []))) == []


def test_the_search_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "large.txt").write_text("API_KEY=planted1234\n" + "x" * 100)
    assert len(list(secrets(package(folder, [])))) == 1
    monkeypatch.setattr(module, "LARGEST_READ", 100)
    assert list(secrets(package(folder, []))) == []
    monkeypatch.setattr(module, "LARGEST_READ", 1000)
    monkeypatch.setattr(module, "MOST_READ", 100)
    assert list(secrets(package(folder, []))) == []
    for number in range(5):
        (folder / f"{number}.txt").write_text("API_KEY=planted1234\n")
    assert 1 <= len(list(secrets(package(folder, [])))) < 5, "of all files together"
