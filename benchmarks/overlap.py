"""Seconds of an iteration whose reward server is slow, at each ``train.async_lag``, over the least
that it can take at lag 1.

With lag N an iteration takes at least as long as its longest stage, and at least an (N + 1)-th of
all of them: a response is sampled, scored and trained on within N + 1 iterations. At lag 0 the same
is measured of an iteration that is scored in parts (``rollout.scoring_parts``).
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.common import ENVIRONMENT, ROOT, WORK, Figure, Options, script, story_prompts, toy

STAGES = ("generate", "score", "update", "sync")
PROMPTS, GROUP_SIZE, NEW_TOKENS = 16, 4, 48
SAMPLES = PROMPTS * GROUP_SIZE
DELAY = 4.0
"""Seconds that the server takes for the responses of an iteration, a part of it for a part of
them."""
ITERATIONS = 8
"""After two that warm up."""
LAGS = (0, 1, 2)
PARTS = 4


def measure(options: Options) -> list[Figure]:
    count, delay = (1, 0.1) if options.quick else (ITERATIONS, DELAY)
    with slow_server(delay) as url:
        seen = {lag: iteration_seconds(lag, url, count) for lag in LAGS}
        cut_up = iteration_seconds(0, url, count, parts=PARTS)["iteration"]
    whole = {lag: rows["iteration"] for lag, rows in seen.items()}
    longest = max(STAGES, key=seen[0].__getitem__)
    least = max(seen[0][longest], whole[0] / 2)
    apart = ", ".join(f"{stage} {seen[0][stage]:.2f}" for stage in STAGES)
    detail = (
        f"iteration {whole[0]:.2f} s at lag 0 ({apart}; longest: {longest}), {whole[1]:.2f} s at "
        f"lag 1, {whole[2]:.2f} s at lag 2, {cut_up:.2f} s at lag 0 in {PARTS} parts; a server "
        f"that takes {delay:g} s for {SAMPLES} responses, quickstart's model, median of {count}"
    )
    return [Figure("async_iteration_over_least", whole[1] / least, detail)]


def iteration_seconds(lag: int, url: str, count: int, *, parts: int = 1) -> Mapping[str, float]:
    """Of an iteration and of its stages, by name."""
    folder = WORK / f"overlap-{lag}-{parts}"
    shutil.rmtree(folder, ignore_errors=True)
    flags = {
        "algo": "grpo",
        "actor.model_name_or_path": toy(),
        "reward.remote_url": url,
        "reward.remote_batch_size": SAMPLES,
        "rollout.batch_size": PROMPTS,
        "rollout.n_samples_per_prompt": GROUP_SIZE,
        "rollout.max_new_tokens": NEW_TOKENS,
        "rollout.scoring_parts": parts,
        "train.batch_size": SAMPLES,
        "train.max_steps": 2 + count,
        "train.num_episodes": 2 + count,
        "train.async_lag": lag,
        "train.self_check": "false",
        "train.device": "cpu",
        "data.prompt_dataset": story_prompts(),
        "data.input_key": "prompt",
        "data.max_len": 128,
        "ds.param_dtype": "fp32",
        "ckpt.output_dir": folder,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "rto.cli.main", "train", *words]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][2:]
    return {
        name: statistics.median(row.get(f"time/{name}", 0.0) for row in rows)
        for name in ("iteration", *STAGES)
    }


@contextmanager
def slow_server(delay: float) -> Iterator[str]:
    """The address of a reward server that waits before it pays every response its length."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            queries = json.loads(self.rfile.read(size))["query"]
            time.sleep(delay * len(queries) / SAMPLES)
            answer = json.dumps({"rewards": [float(len(query)) for query in queries]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


if __name__ == "__main__":
    script(measure)
