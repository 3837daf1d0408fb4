"""Every switch of PPO at once, on the real pipeline; then LoRA in bf16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model
from rto.runs.execute import execute
from rto.sections.parse import parse_run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

REWARD_FUNC = """
def reward_func(queries, prompts, labels):
    assert all(query.startswith(prompt) for query, prompt in zip(queries, prompts))
    return [float(len(set(query.split()))) / 10 for query in queries]
"""


@pytest.fixture(scope="module")
def workplace(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("options")
    build_base_model(root / "base", 0)
    write_task(root / "data", seed=0, num_sft=8, num_pairs=4, num_prompts=24, num_eval=4)
    (root / "reward_func.py").write_text(REWARD_FUNC)
    rows = [json.loads(line) for line in (root / "data" / "sft.jsonl").read_text().splitlines()]
    texts = [json.dumps({"prompt": row["response"]}) for row in rows]
    (root / "text.jsonl").write_text("\n".join(texts))
    return root


def run(root: Path, name: str, *flags: str) -> tuple[Path, list[dict[str, float]]]:
    common = [
        *("--actor.model_name_or_path", str(root / "base"), "--train.device", "cpu"),
        *("--reward.func_path", str(root / "reward_func.py")),
        *("--data.prompt_dataset", str(root / "data" / "prompts.jsonl")),
        *("--data.input_key", "prompt", "--data.max_len", "48", "--rollout.max_new_tokens", "16"),
        *("--rollout.batch_size", "8", "--train.batch_size", "4", "--train.max_steps", "3"),
        *("--ckpt.output_dir", str(root / name), "--logger.tensorboard", "false"),
    ]
    folder = execute("train", parse_run("train", [*common, *flags]).config).folder
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return folder, [json.loads(line) for line in lines]


def test_every_switch_of_ppo_at_once(workplace: Path) -> None:
    folder, rows = run(
        workplace,
        "switches",
        *("--algo", "ppo", "--ds.param_dtype", "fp32", "--actor.adam.lr", "1e-2"),
        *("--critic.freezing_steps", "1", "--train.enable_ema", "--train.ema_beta", "0.5"),
        *("--algo.kl.target", "0.001", "--algo.kl.horizon", "100", "--algo.kl.estimator", "k2"),
        *("--actor.entropy_coef", "0.01", "--actor.dual_clip", "3"),
        *("--actor.eps_clip_low_high", "0.2", "0.3", "--algo.loss_reduction", "sequence"),
        *("--algo.advantage.is_correction_enable", "--critic.save_value_network"),
        *("--data.pretrain_dataset", str(workplace / "text.jsonl"), "--algo.ptx_coef", "0.1"),
    )
    frozen, *trained = rows
    assert "policy/loss" not in frozen
    assert "critic/loss" in frozen
    assert frozen["sync/probe_mean_abs_diff"] < 1e-4
    for row in trained:
        for name in ("policy/loss", "policy/entropy", "policy/sampler_weight", "sft/loss"):
            assert name in row
    # The policy does not move in iteration 0, so KL 0 < target lowers the coefficient by
    # 1 - 0.2 * 8 / 100; in the last one it moved far beyond the target.
    assert rows[0]["kl/mean"] == pytest.approx(0, abs=1e-9)
    assert rows[1]["kl/coef"] == pytest.approx(0.01 * (1 - 0.2 * 8 / 100))
    assert rows[2]["kl/mean"] > 0.001
    # The export is the moving average: neither the start nor far from it.
    start = load_file(workplace / "base" / "model.safetensors")
    ended = load_file(folder / "last" / "model.safetensors")
    assert any(not torch.equal(start[name], ended[name]) for name in start)
    assert (folder / "last_critic" / "config.json").is_file()


def test_transformers_samples_in_place_of_vllm(workplace: Path) -> None:
    folder, rows = run(
        workplace,
        "transformers",
        *("--algo", "rloo", "--rollout.n_samples_per_prompt", "2", "--ds.param_dtype", "fp32"),
        *("--actor.adam.lr", "1e-2", "--vllm.engine", "transformers", "--vllm.num_engines", "2"),
    )
    assert all(row["sync/probe_mean_abs_diff"] < 1e-4 for row in rows)
    assert rows[0]["kl/mean"] == pytest.approx(0, abs=1e-6)
    assert rows[2]["kl/sequence"] != 0
    assert (folder / "last" / "model.safetensors").is_file()


def test_lora_in_bf16_trains_adapters_and_syncs_merged_weights(workplace: Path) -> None:
    folder, rows = run(
        workplace,
        "lora",
        *("--algo", "ppo", "--ds.param_dtype", "bf16", "--ds.lora.rank", "4"),
        *("--actor.adam.lr", "1e-2", "--critic.adam.lr", "1e-2"),
        *("--actor.gradient_checkpointing_enable", "--train.micro_batch_size", "2"),
    )
    assert rows[0]["kl/mean"] == pytest.approx(0, abs=1e-3)
    assert rows[2]["kl/sequence"] != 0
    assert all(row["sync/probe_mean_abs_diff"] < 0.05 for row in rows)
    start = load_file(workplace / "base" / "model.safetensors")
    ended = load_file(folder / "last" / "model.safetensors")
    assert start.keys() == ended.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(start[name].bfloat16(), ended[name])
    # Only the linear layers carry adapters.
    assert torch.equal(start["model.norm.weight"].bfloat16(), ended["model.norm.weight"])
    AutoModelForCausalLM.from_pretrained(folder / "last")
