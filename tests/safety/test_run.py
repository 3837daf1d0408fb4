from __future__ import annotations

import os
import socket
from pathlib import Path

from rto.safety.run import findings


def test_a_folder_that_everyone_may_write_to_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert [each.remedy for each in findings(tmp_path, None)] == [""]
    (tmp_path / "logs").chmod(0o777)
    (tmp_path / "last").symlink_to(tmp_path / "logs")
    wrong, _ = findings(tmp_path, None)
    assert str(wrong) == (f"{tmp_path}/logs can be written to by everyone: chmod -R o-w {tmp_path}")


def test_each_socket_of_the_run_is_told_and_one_that_others_reach_is_wrong(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("", 0)):
        found = {each.what: each.remedy for each in findings(tmp_path, os.getpid())}
    wrong = [what for what, remedy in found.items() if remedy]
    assert len(wrong) == 1
    assert wrong[0].startswith("tcp 0.0.0.0:")
    assert any(what.startswith("tcp 127.0.0.1:") for what in found)
    assert next(iter(found)).startswith(f"process {os.getpid()} and ")
