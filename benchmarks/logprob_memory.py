"""Peak memory of selected log-probs at a vocabulary of 49k: chunked against whole logits.

Each side runs in a process of its own; what counts is the peak resident size above that of the
same process after its imports, its inputs and a first small call.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from benchmarks.common import ROOT, Figure, Options, script

HIDDEN, VOCABULARY = 576, 49_152
NAME = "logprob_memory_ratio"


def measure(options: Options) -> list[Figure]:
    count = 2048 if options.quick else 4096
    chunked, whole = (growth(side, count) for side in ("chunked", "whole"))
    detail = f"{count} tokens, fp32: {chunked / 1024:.0f} MiB against {whole / 1024:.0f} MiB"
    return [Figure(NAME, chunked / whole, detail)]


def growth(side: str, count: int) -> int:
    """KiB by which the peak of a fresh process grows."""
    command = [sys.executable, "-m", "benchmarks.logprob_memory", side, str(count)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(subprocess.check_output(command, cwd=ROOT, env=environment, text=True))


def peak_growth(side: str, count: int) -> int:
    import torch

    from rto.functional.logprobs import chunked_logprobs

    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    hidden, ids = torch.randn(count, HIDDEN), torch.randint(VOCABULARY, (count,))

    def run(rows: int) -> None:
        if side == "chunked":
            chunked_logprobs(hidden[:rows], head, ids[:rows])
        else:
            all_logprobs = head(hidden[:rows]).float().log_softmax(-1)
            all_logprobs.gather(-1, ids[:rows].unsqueeze(-1)).squeeze(-1)

    with torch.no_grad():
        run(8)
        before = peak()
        run(count)
    return peak() - before


def peak() -> int:
    """Most KiB that this process was resident in."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1024 if sys.platform == "darwin" else 1
    )


if __name__ == "__main__":
    if sys.argv[1:2] in (["chunked"], ["whole"]):
        print(peak_growth(sys.argv[1], int(sys.argv[2])))
    else:
        script(measure)
