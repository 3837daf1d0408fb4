"""`rto plan` on the shipped configurations, with models of known size that have no weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from known_shapes import write_known
from tiny_tokenizers import tiny_tokenizer

from rto.cli.main import main
from rto.resources import CONFIGS


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("sizes")
    return {name: str(write_known(name, root)) for name in ("1b", "8b", "70b")}


@pytest.fixture
def plan(sizes: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `rto plan` prints of a shipped configuration with models of these sizes."""

    def run(config: str, *more: str, policy: str = "8b", reward: str = "1b", code: int = 0) -> str:
        argv = ["--config", str(CONFIGS / f"{config}.yaml")]
        argv += ["--actor.model_name_or_path", sizes[policy]]
        if config.startswith(("rto", "ppo")):
            argv += ["--reward.model_name_or_path", sizes[reward]]
        if config.startswith("rto"):
            argv += ["--dpo.model_name_or_path", sizes[policy]]
        stage = [] if config.startswith(("rto", "ppo")) else [config.split("-")[0]]
        assert main(["plan", *stage, *argv, *more]) == code
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    return run


def test_rto_8b_on_eight_a100(plan: Callable[..., str]) -> None:
    told = plan("rto-llama3-8b-8xa100", "--plan.gpus", "8xA100-80")
    assert "policy of 8,030.3 M parameters; critic of 1,235.8 M parameters" in told
    for phase in ("start", "sampling", "scoring", "update", "push", "checkpoint"):
        assert f"│ {phase} │" in told
    assert "KV cache holds 123,504 tokens, 60 rows of 2,048" in told
    # The reference and the DPO policy are one model here: a scorer holds it once.
    assert "frozen: 8,030.3 M, 1,235.8 M" in told
    assert "fits 8xA100-80: 11.9 GiB are left of the fullest GPU, in push" in told


def test_ppo_with_a_critic_of_8b(plan: Callable[..., str]) -> None:
    told = plan("ppo-llama3-8b-8xa100", "--plan.gpus", "8xA100-80", reward="8b")
    assert "critic of 7,504.9 M parameters" in told
    assert "fits 8xA100-80: 9.6 GiB are left" in told
    refused = plan(
        "ppo-llama3-8b-8xa100", "--plan.gpus", "8xA100-80", "--ds.zero_stage", "2",
        reward="8b", code=2,
    )  # fmt: skip
    assert "It fits with --ds.zero_stage 3" in refused


def test_rto_8b_by_adapters_on_one_a100(plan: Callable[..., str]) -> None:
    told = plan("rto-llama3-8b-1xa100", "--plan.gpus", "1xA100-80")
    # Rank 64 on seven matrices of 32 layers: 64 x (in + out).
    adapters = 64 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert f"{adapters / 1e6:,.1f} M of them in adapters" in told
    assert "fits 1xA100-80: 18.4 GiB are left" in told


def test_70b_on_one_card_is_refused_with_what_would_do(plan: Callable[..., str]) -> None:
    told = plan("rto-llama3-8b-1xa100", "--plan.gpus", "1xA100-80", policy="70b", code=2)
    assert "rto: does not fit 1xA100-80: scoring takes" in told
    assert "No number of these GPUs makes it fit; the fewest larger ones are" in told


def test_an_offline_stage_is_named_first(plan: Callable[..., str]) -> None:
    told = plan("dpo-llama3-8b-8xa100", "--plan.gpus", "8xA100-80")
    assert "Direct Preference Optimization" in told
    assert "│ sampling │" not in told
    assert "fits 8xA100-80: 37.3 GiB are left of the fullest GPU, in update" in told


def test_more_gpus_than_there_are(plan: Callable[..., str]) -> None:
    told = plan("rto-llama3-8b-8xa100", "--plan.gpus", "4xA100-80", code=2)
    assert "plan.gpus is 4xA100-80, but the run asks for 8 GPUs" in told
    spread = plan("rto-llama3-8b-8xa100", "--plan.gpus", "2x4xA100-80", code=2)
    assert "actor.num_gpus_per_node is 8 and a node of plan.gpus 2x4xA100-80 has 4" in spread


def test_a_small_model_on_this_machine(
    plan: Callable[..., str], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([
        "plan", "sft", "--actor.model_name_or_path", str(tiny_model_dir),
        "--data.feedback", "rows.jsonl", "--train.batch_size", "8", "--train.device", "cpu",
    ])  # fmt: skip
    told = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "memory of a machine, GiB" in told
    assert "fits this machine:" in told


def test_what_is_missing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["plan", "--plan.gpus", "8xA100-80"]) == 2
    assert "actor.model_name_or_path is not set" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    tiny_tokenizer().save_pretrained(tmp_path / "empty")
    assert main(["plan", "sft", "--actor.model_name_or_path", str(tmp_path / "empty")]) == 2
    assert "no config.json in this directory" in capsys.readouterr().err
