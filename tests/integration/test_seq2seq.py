"""An encoder-decoder policy on the real pipeline: every offline method, then online, then alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from reward_models import build_reward_model
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from rto.cli.main import main
from rto.errors import UserError
from rto.models.families import load_policy
from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model
from rto.runs.execute import execute
from rto.sections.parse import parse_run
from rto.types import TokenBatch, pad

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]

REWARD_FUNC = """
def reward_func(queries, prompts, labels):
    return [float(len(set(query.split()))) for query in queries]
"""


@dataclass(frozen=True)
class Workplace:
    root: Path
    feedback: Path
    prompts: Path

    def run(self, command: str, name: str, *flags: str) -> list[dict[str, float]]:
        common = [
            *("--actor.model_name_or_path", str(self.root / "t5"), "--train.device", "cpu"),
            *("--ds.param_dtype", "fp32", "--actor.adam.lr", "1e-2", "--data.max_len", "96"),
            *("--data.cache_dir", str(self.root / "cache"), "--logger.tensorboard", "false"),
            *("--ckpt.output_dir", str(self.root / name), "--train.max_steps", "2"),
        ]
        folder = execute(command, parse_run(command, [*common, *flags]).config).folder
        start, ended = (
            load_file(self.root / each / "model.safetensors") for each in ("t5", f"{name}/last")
        )
        assert start.keys() == ended.keys()
        assert any(not torch.equal(start[key], ended[key]) for key in start)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    def fit(self, name: str, *flags: str, command: str = "fit") -> list[dict[str, float]]:
        stored = ["--data.feedback", str(self.feedback), "--data.eval_ratio", "0.2"]
        ranks = ["--actor.num_gpus_per_node", "2"]
        return self.run(command, name, *stored, "--train.batch_size", "4", *ranks, *flags)

    def train(self, name: str, *flags: str) -> list[dict[str, float]]:
        sampled = [
            *("--data.prompt_dataset", str(self.prompts), "--data.input_key", "prompt"),
            *("--reward.func_path", str(self.root / "reward.py"), "--rollout.batch_size", "4"),
            *("--rollout.n_samples_per_prompt", "4", "--rollout.max_new_tokens", "12"),
            *("--train.batch_size", "8", "--actor.num_gpus_per_node", "2"),
        ]
        return self.run("train", name, *sampled, *flags)


@pytest.fixture(scope="module")
def place(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    root = tmp_path_factory.mktemp("seq2seq")
    data = write_task(
        root / "data", seed=0, num_sft=1, num_pairs=1, num_prompts=16, num_eval=1, num_feedback=20
    )
    maker = ROOT / "examples" / "tools" / "tiny_t5.py"
    subprocess.run([sys.executable, maker, root / "t5", data.feedback], check=True, timeout=120)
    (root / "reward.py").write_text(REWARD_FUNC)
    return Workplace(root, Path(data.feedback), Path(data.prompts))


def test_rpo_on_one_and_two_ranks_is_one_run(place: Workplace) -> None:
    two = place.fit("rpo2", "--algo", "rpo", "--rpo_beta", "0.5")
    one = place.fit("rpo1", "--algo", "rpo", "--rpo_beta", "0.5", "--actor.num_gpus_per_node", "1")
    # The policy starts at the reference, so the first loss is that of the targets alone.
    assert one[0]["policy/log_ratio"] == pytest.approx(0, abs=1e-4)
    square = one[0]["rpo/target_mean"] ** 2 + one[0]["rpo/target_std"] ** 2
    assert one[0]["rpo/loss"] == pytest.approx(square / 2, rel=1e-4)
    for before, after in zip(one, two, strict=True):
        assert after["rpo/loss"] == pytest.approx(before["rpo/loss"], rel=1e-3)
    assert one[1]["rpo/loss"] != one[0]["rpo/loss"]


def test_sft_and_the_export_is_the_policy(place: Workplace) -> None:
    rows = place.fit("sft", command="sft")
    assert 0 < rows[1]["sft/loss"] < rows[0]["sft/loss"]
    last = str(place.root / "sft" / "last")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(last).eval()
    tokenizer = AutoTokenizer.from_pretrained(last)
    prompt, response = tokenizer("a b")["input_ids"], tokenizer("c d e")["input_ids"]
    assert (prompt[-1], response[-1]) == (1, 1)
    logits = theirs(input_ids=torch.tensor([prompt]), labels=torch.tensor([response])).logits
    expected = logits[0].log_softmax(-1)[range(len(response)), response]
    ours = load_policy(last, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids, mask = pad([prompt], 0, left=True)
    answer, answer_mask = pad([response], 0, left=False)
    tokens = TokenBatch(
        ids, mask, answer, answer_mask, torch.zeros(answer.shape), torch.tensor([True]),
        torch.tensor([0]),
    )  # fmt: skip
    torch.testing.assert_close(ours(tokens).logprobs[0], expected, atol=1e-5, rtol=1e-4)


def test_dpo_and_tdpo(place: Workplace) -> None:
    rows = place.fit("dpo", command="dpo")
    assert rows[0]["preference/loss"] == pytest.approx(math.log(2), abs=1e-5)
    rows = place.fit("tdpo", "--preference.loss", "tdpo2", command="dpo")
    assert rows[0]["preference/chosen_kl"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["preference/chosen_kl"] > 0


def test_dro_trains_an_encoder_for_the_values(place: Workplace) -> None:
    critic = ("--critic.adam.lr", "1e-2", "--critic.num_gpus_per_node", "2")
    rows = place.fit("dro", "--algo", "dro", "--critic.save_value_network", *critic)
    # Policy and reference are one and V is 0: both losses are half the mean of r^2.
    assert rows[0]["dro/loss"] == pytest.approx(rows[0]["critic/loss"], rel=1e-4)
    assert rows[0]["dro/baseline"] == 0
    assert rows[1]["dro/baseline"] != 0
    names = load_file(place.root / "dro" / "last_critic" / "model.safetensors").keys()
    assert "classifier.weight" in names
    assert not any("decoder" in name for name in names)


def test_the_authors_dro_and_kto(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    rows = place.fit("dro_authors", "--algo", "dro", "--authors_code")
    assert "the authors' code: algo.dro.variant shared_head" in capsys.readouterr().out
    assert "critic/loss" not in rows[0]
    rows = place.fit("kto_authors", "--algo", "kto", "--authors_code")
    assert rows[0]["kto/reference_point"] == pytest.approx(0, abs=1e-5)
    assert rows[0]["kto/loss"] == pytest.approx(0.5, abs=1e-5)


def test_kto_and_reward_aware_with_adapters(place: Workplace) -> None:
    rows = place.fit("kto", "--algo", "kto")
    assert rows[0]["kto/loss"] == pytest.approx(0.5, abs=1e-5)
    rows = place.fit("aware", "--algo", "reward_aware", "--ds.lora.rank", "4")
    entropy = rows[0]["reward_aware/target_entropy"] * math.log(4)
    assert rows[0]["reward_aware/loss"] == pytest.approx(math.log(4) - entropy, abs=1e-4)


def test_online_rollouts_come_from_proven_weights(place: Workplace) -> None:
    rows = place.train("grpo", "--algo", "grpo")
    for row in rows:
        assert row["sync/probe_mean_abs_diff"] < 1e-4
        assert row["sampler/abs_diff_mean"] < 1e-4
    assert rows[0]["kl/mean"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["kl/sequence"] != 0


def test_what_a_t5_cannot_do_is_one_line(place: Workplace) -> None:
    for command, flags, said in (
        ("fit", ["--algo", "rpo", "--data.apply_chat_template"], "tokenizer has no chat template"),
        ("reward", [], "a reward model starts from a decoder-only one"),
    ):
        with pytest.raises(UserError, match=said):
            place.run(command, "refused", "--data.feedback", str(place.feedback), *flags)
    with pytest.raises(
        UserError, match="vllm.tensor_parallel_size is 2 and transformers, not vLLM"
    ):
        place.train("refused", "--algo", "grpo", "--vllm.tensor_parallel_size", "2")


def test_a_run_answers(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.fit("answers", "--algo", "rpo")
    folder = str(place.root / "answers")
    flags = ["--generate.max_new_tokens", "8", "--ds.param_dtype", "fp32", "--train.device", "cpu"]
    assert main(["generate", "--model", folder, "--prompt", "the", *flags]) == 0
    assert "chat template none" in capsys.readouterr().out


def test_a_run_is_judged_against_its_start(place: Workplace) -> None:
    place.fit("judged", "--algo", "rpo")
    root = place.root
    build_base_model(root / "llama", 0)
    build_reward_model(root / "rm", root / "llama")
    code = main(
        [
            *("eval", "--model", str(root / "judged"), "--baseline", str(root / "t5")),
            *("--prompts", str(place.feedback), "--max_prompts", "6", "--temperature", "1"),
            *("--reference", str(root / "t5"), "--judge", f"reward:{root / 'rm'}"),
            *("--metrics", "words,rougeL,distinct_1", "--max_new_tokens", "12"),
            *("--ds.param_dtype", "fp32", "--train.device", "cpu"),
            *("--output_dir", str(root / "eval")),
        ]
    )
    assert code == 0
    found = json.loads((root / "eval" / "eval.json").read_text())
    ours, start = (found["figures"][name]["metrics"] for name in ("judged", "t5"))
    assert set(ours) == {"words", "rougeL", "distinct_1", "reward", "kl", "cut"}
    # The start is the reference: what transformers sampled from is what the scorer computes.
    assert start["kl"]["value"] == pytest.approx(0, abs=1e-4)
    assert ours["kl"]["value"] > 0.01
    won = found["win_rates"][f"reward:{root / 'rm'}"]
    assert won["num_prompts"] == 6
    assert 0 <= won["win_rate"]["mean"] <= 1
    answers = json.loads((root / "eval" / "judged" / "model_outputs.json").read_text())
    assert len({row["output"] for row in answers}) > 3
