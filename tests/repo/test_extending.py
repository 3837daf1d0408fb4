"""The package of docs/extending.md, installed as a stranger would install it."""

from __future__ import annotations

import importlib
import json
import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from example_package import block
from torch import Tensor

from rto.errors import UserError
from rto.protocols import PolicyMethod
from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model
from rto.registry import build
from rto.runs.online import OnlineRun
from rto.runs.prepare import prepare_online
from rto.sections.methods import Algo
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch, TokenBatch

LINES = 40
REWARD_FUNC = "def reward_func(queries, prompts, labels):\n    return [1.0 for _ in queries]\n"

GROUP = torch.tensor([5, 5, 5, 2, 2])
LENGTHS = (2, 1, 3, 3, 2)
REWARDS = torch.tensor([1.0, -0.5, 2.0, 0.25, 0.25])
NORM = LossNorm(tokens=sum(LENGTHS), sequences=5, groups=2)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package and nothing else."""
    source, target = tmp_path_factory.mktemp("rto-rwr"), tmp_path_factory.mktemp("target")
    (source / "pyproject.toml").write_text(block("toml"))
    (source / "rto_rwr.py").write_text(block("python"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *alone, "--target", target, source], check=True, timeout=120)
    return target


@pytest.fixture
def package(installed: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(installed)
    module = importlib.import_module("rto_rwr")
    assert Path(str(module.__file__)).parent == installed
    return module


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `rto fit` and `rto train` need for a dry run on a tiny model and the toy task."""
    root = tmp_path_factory.mktemp("task")
    build_base_model(root / "base", 0)
    data = write_task(
        root / "data", seed=0, num_sft=1, num_pairs=1, num_prompts=8, num_eval=1, num_feedback=8
    )
    (root / "reward.py").write_text(REWARD_FUNC)
    common = [
        *("--actor.model_name_or_path", str(root / "base"), "--train.device", "cpu"),
        *("--data.apply_chat_template", "--data.max_len", "96", "--train.batch_size", "4"),
    ]
    sampled = [
        *("--data.prompt_dataset", str(data.prompts), "--data.input_key", "prompt"),
        *("--reward.func_path", str(root / "reward.py"), "--rollout.batch_size", "4"),
    ]
    stored = ["--data.feedback", str(data.feedback)]
    return {
        "fit": [*common, *stored],
        "train": [*common, *sampled],
    }


def rto(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rto.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "120"},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_module_is_short() -> None:
    assert len(block("python").splitlines()) < LINES


def test_the_method_is_listed(installed: Path) -> None:
    done = rto(installed, "methods", "--json")
    assert done.returncode == 0, done.stderr
    assert [row for row in json.loads(done.stdout) if row["name"] == "rwr"] == [
        {
            "name": "rwr",
            "title": "Reward-weighted regression",
            "paper": "ICML 2007",
            "feedback": "rewards",
            "offline": True,
            "online": True,
            "critic": False,
            "reference": False,
            "dpo model": False,
        }
    ]


def test_it_fits_by_name(installed: Path, flags: dict[str, list[str]]) -> None:
    chosen = ["fit", "--algo", "rwr", "--algo.rwr.beta", "0.3", "--dry_run"]
    done = rto(installed, *chosen, *flags["fit"])
    assert done.returncode == 0, done.stderr
    assert "Reward-weighted regression (ICML 2007)" in done.stdout


def test_its_settings_are_in_the_help(installed: Path) -> None:
    done = rto(installed, "fit", "--algo", "rwr", "--help", "algo.rwr")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert text == (
        "algo.rwr: Reward-weighted regression (ICML 2007). Imitates each response with its weight, "
        "softmax(r / beta) over its prompt's responses. --algo.rwr.beta 1 Temperature of the "
        "weights: the smaller, the more the best response counts. Takes a number above 0."
    )
    assert "rwr" in rto(installed, "fit", "--help").stdout


def test_its_settings_come_from_flags_and_files(package: ModuleType, tmp_path: Path) -> None:
    def algo(*argv: str) -> Algo:
        return parse_run("fit", ["--algo", "rwr", *argv]).config.algo

    assert algo() == Algo("rwr", package.RWR(beta=1.0))
    assert algo("--algo.rwr.beta", "0.5") == Algo("rwr", package.RWR(beta=0.5))
    file = tmp_path / "run.yaml"
    file.write_text("algo: {name: rwr, rwr: {beta: 0.25}}\n")
    assert algo("--config", str(file)).settings.beta == 0.25
    assert algo("--config", str(file), "--algo.rwr.beta", "2").settings.beta == 2
    written = dump(parse_run("fit", ["--config", str(file)]).config, "fit")
    assert yaml.safe_load(written)["algo"] == {"name": "rwr", "rwr": {"beta": 0.25}}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("fit --algo rwr --algo.rwr.beta 0", "--algo.rwr.beta is 0.0: must be above 0"),
        ("fit --algo rwr --algo.rwr.bet 1", "did you mean --algo.rwr.beta?"),
        ("fit --algo rpo --algo.rwr.beta 1", "is read by --algo rwr; --algo rpo does not read it"),
        ("dpo --algo.rwr.beta 1", "is read by `rto fit` and `rto train`; `rto dpo` does not"),
        ("fit --algo rwr --rpo_beta 1", "is read by --algo rpo; --algo rwr does not read it"),
    ],
)
@pytest.mark.usefixtures("package")
def test_its_settings_are_refused_like_those_of_any_method(argv: str, said: str) -> None:
    command, *flags = argv.split()
    with pytest.raises(UserError) as caught:
        parse_run(command, flags)
    assert said in str(caught.value)


def test_it_trains_by_name(package: ModuleType, flags: dict[str, list[str]]) -> None:
    def prepared(responses: str) -> OnlineRun:
        more = [
            "--algo",
            "rwr",
            "--algo.rwr.beta",
            "3",
            "--rollout.n_samples_per_prompt",
            responses,
        ]
        config = parse_run("train", [*flags["train"], *more]).config
        return prepare_online(config, partial(build, mode="online"))

    run = prepared("2")
    assert run.method == package.RWR(beta=3)
    with pytest.raises(UserError, match="set rollout.n_samples_per_prompt to 2 or more"):
        prepared("1")


def scored(fill: float) -> tuple[ScoredBatch, Tensor]:
    """Five responses to two prompts, and the policy's log-probs; padding holds ``fill``."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    tokens = TokenBatch(
        prompt_ids=torch.ones(5, 2, dtype=torch.long),
        prompt_mask=torch.ones(5, 2, dtype=torch.bool),
        response_ids=torch.zeros(mask.shape, dtype=torch.long),
        response_mask=mask,
        sampler_logprobs=torch.zeros(mask.shape),
        finished=torch.ones(5, dtype=torch.bool),
        group=GROUP,
    )
    rng = torch.Generator().manual_seed(0)
    logprobs = (-torch.rand(mask.shape, generator=rng)).masked_fill(~mask, fill)
    return ScoredBatch(tokens, {Role.REWARD: REWARDS}), logprobs


def loss(method: Any, batch: ScoredBatch, logprobs: Tensor, rows: list[int]) -> Tensor:
    targets, _ = method.targets(batch)
    return method.loss(PolicyOutput(logprobs[rows]), targets.take(rows), NORM).loss


def naive(logprobs: Tensor, beta: float) -> float:
    """The formula, a response at a time, averaged over the two prompts."""
    total = 0.0
    for j, length in enumerate(LENGTHS):
        mates = [k for k in range(5) if GROUP[k] == GROUP[j]]
        weight = math.exp(REWARDS[j] / beta) / sum(math.exp(REWARDS[k] / beta) for k in mates)
        total -= weight * sum(float(logprobs[j, t]) for t in range(length))
    return total / 2


@pytest.mark.parametrize("beta", [0.3, 1.0, 10.0])
def test_the_loss_is_the_formula(package: ModuleType, beta: float) -> None:
    batch, logprobs = scored(fill=math.nan)
    found = loss(package.RWR(beta=beta), batch, logprobs, list(range(5)))
    assert float(found) == pytest.approx(naive(logprobs, beta), rel=1e-6)


def test_shards_add_up_and_padding_has_no_gradient(package: ModuleType) -> None:
    batch, logprobs = scored(fill=math.nan)
    method = package.RWR()
    logprobs.requires_grad_()
    parts = [loss(method, batch, logprobs, rows) for rows in ([4, 0], [2], [1, 3])]
    whole = loss(method, batch, logprobs, list(range(5)))
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(whole, logprobs)
    mask = batch.tokens.response_mask
    assert gradient[~mask].abs().max() == 0
    # Equal rewards share the second prompt: -1/2 each, over two prompts.
    assert gradient[3:][mask[3:]].tolist() == pytest.approx([-0.25] * 5)


def test_it_is_a_value_with_the_settings_of_the_configuration(package: ModuleType) -> None:
    config = RunConfig(algo=Algo("rwr", package.RWR(beta=0.3)))
    method: Any = build(config, Any, mode="offline")  # pyright: ignore[reportArgumentType]
    assert method == package.RWR(beta=0.3)
    assert isinstance(method, PolicyMethod)
    assert pickle.loads(pickle.dumps(method)) == method
