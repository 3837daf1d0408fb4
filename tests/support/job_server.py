"""A job server on loopback that answers as Ray's does, with the jobs that a test gives it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from rto.jobs.submission import Submission

START = 1_700_000_000_000


@dataclass
class Jobs:
    """What the server holds and was asked: job id -> its fields in Ray's JSON."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    looks_until_stopped: int = 0
    """How often a job that was told to stop is asked for before it has stopped."""
    stopping: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    """Ray's names of those that need not be uploaded."""
    not_yet: int = 0
    """How many jobs are refused because the head has just started."""
    address: str = ""

    def add(self, job_id: str, status: str, metadata: Mapping[str, str], **more: object) -> None:
        self.jobs[job_id] = {
            "type": "SUBMISSION",
            "submission_id": job_id,
            "status": status,
            "entrypoint": "rto train",
            "start_time": START + len(self.jobs) * 1000,
            "metadata": dict(metadata),
            **more,
        }

    def look(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        if job_id in self.stopping:
            if self.looks_until_stopped == 0:
                job["status"] = "STOPPED"
            self.looks_until_stopped -= 1
        return job


class _Handler(BaseHTTPRequestHandler):
    held: Jobs

    def do_GET(self) -> None:
        held, parts = self.held, self.path.strip("/").split("/")
        if self.path == "/api/version":
            self._say({"ray_version": "2.60.0"})
        elif parts[1] == "packages":
            found = f"{parts[2]}://{parts[3]}" in held.packages
            self._say({} if found else "no such package", 200 if found else 404)
        elif self.path == "/api/jobs/":
            self._say([held.look(each) for each in held.jobs])
        elif parts[2] == "broken":
            self._say("the head is out of order", 500)
        elif parts[2] not in held.jobs:
            self._say(f"Job {parts[2]} does not exist", 404)
        elif parts[-1] == "logs":
            self._say({"logs": f"the log of {parts[2]}\n"})
        else:
            self._say(held.look(parts[2]))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        if self.path.endswith("/stop"):
            self.held.stopping.add(self.path.split("/")[3])
            self._say({"stopped": True})
            return
        if self.held.not_yet:
            self.held.not_yet -= 1
            self._say("No available agent to submit job, please try again later.", 500)
            return
        self.held.submitted.append(body)
        self._say({"job_id": "raysubmit_new", "submission_id": "raysubmit_new"})

    def _say(self, value: object, code: int = 200) -> None:
        content = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def job_server() -> Iterator[Jobs]:
    held = Jobs()
    handler = type("Handler", (_Handler,), {"held": held})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    held.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield held
    server.shutdown()
    thread.join()
    server.server_close()


def a_submission(run_folder: str | None, folder: str = "/", **more: Any) -> Submission:
    line = "rto sft --data.dataset d.jsonl"
    return Submission("a job", line, folder, {}, {"num_cpus": 0}, run_folder, **more)


def write_job(folder: Path, **content: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"name": "n", "entrypoint": "python -c 1", **content}))
    return path


def write_run(folder: Path, *, steps: int = 2, checkpoint: bool = True) -> Path:
    """A run folder with the metrics of so many steps."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    rows = [{"iteration": i, "policy/loss": 0.5, "reward/mean": 1.25} for i in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    about = {"command": "train", "status": "interrupted", "began": "2026-01-01T00:00:00+00:00"}
    (folder / "run.json").write_text(json.dumps(about))
    if checkpoint:
        (folder / "checkpoints" / f"step_{steps - 1:08d}").mkdir(parents=True)
    return folder
