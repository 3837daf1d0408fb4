"""SFT, then DPO on the same file of feedback, then a look at the curves: from Python.

    python examples/python/sft_and_dpo.py MODEL feedback.jsonl runs/python

Each function is the command of its name, with the same settings and checks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import rto


def main(model: str, feedback: str, folder: str) -> None:
    data = {"feedback": feedback, "eval_ratio": 0.25, "max_len": 128}
    train = {"batch_size": 4, "max_steps": 2}
    sft = rto.sft(
        actor={"model_name_or_path": model, "adam": {"lr": 1e-4}},
        data=data,
        train=train,
        ckpt={"output_dir": Path(folder) / "sft"},
    )
    dpo = rto.dpo(
        actor=sft.model,
        data=data,
        train=train,
        eval={"steps": 1},
        ckpt={"output_dir": Path(folder) / "dpo"},
    )
    print(dpo.metrics[["preference/loss", "eval/accuracy"]])
    print(f"{dpo.state}: {dpo.results}")
    print(f"the best of its policies is in {dpo.best}")


if __name__ == "__main__":
    main(*sys.argv[1:])
