"""Flags and YAML -> RunConfig, and the errors on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rto.errors import UserError
from rto.sections.names import accepted, aliases, known_fields
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig

OPENRLHF = """
actor.model_name_or_path actor.adam.lr actor.eps_clip actor.eps_clip_low_high
actor.dual_clip actor.entropy_coef actor.max_norm actor.gradient_checkpointing_enable
actor.num_nodes actor.num_gpus_per_node critic.value_clip critic.freezing_steps
reward.normalize_enable reward.clip_range reward.remote_url algo.advantage.gamma
algo.advantage.lambd algo.advantage.no_std_norm algo.kl.init_coef algo.kl.target
algo.kl.estimator algo.kl.use_loss rollout.batch_size rollout.n_samples_per_prompt
rollout.temperature rollout.max_new_tokens train.batch_size train.micro_batch_size
train.max_epochs train.num_episodes train.seed train.colocate_all data.prompt_dataset
data.prompt_probs data.input_key data.label_key data.input_template
data.apply_chat_template data.max_len data.max_samples ds.zero_stage ds.adam_offload
ds.param_dtype vllm.num_engines vllm.tensor_parallel_size vllm.gpu_memory_utilization
vllm.enable_prefix_caching ckpt.output_dir ckpt.save_steps ckpt.max_num ckpt.load_enable
logger.wandb.project
"""
"""Flags that OpenRLHF 0.11 has under the same name."""


RTO = ["--algo", "rto"]


def config(*argv: str) -> RunConfig:
    return parse_run("train", argv).config


def message(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_run("train", argv)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_no_arguments_give_the_defaults() -> None:
    parsed = parse_run("train", [])
    assert parsed.config == RunConfig()
    assert parsed.dry_run is False


def test_names_of_openrlhf_are_known() -> None:
    assert set(OPENRLHF.split()) - set(accepted()) == set()


def test_both_ways_of_giving_a_value() -> None:
    assert config("--train.seed", "7") == config("--train.seed=7")
    assert config("--train.seed", "7").train.seed == 7


@pytest.mark.parametrize(
    ("short", "value"),
    [
        ("algo", "rto"),
        ("loss", "ipo"),
        ("dpo_reward_scale", "0.1"),
        ("dpo_reward_clip", "0.2"),
        ("rpo_beta", "2.5"),
        ("model", "some/where"),
        ("prompt", "hello"),
    ],
)
def test_short_spellings(short: str, value: str) -> None:
    command = {"loss": "dpo", "model": "generate", "prompt": "generate"}.get(short, "train")
    algo = {"rpo_beta": ["--algo", "rpo"], "dpo_reward_scale": RTO, "dpo_reward_clip": RTO}
    flags = algo.get(short, [])
    changed = parse_run(command, [*flags, f"--{short}", value]).config
    assert changed == parse_run(command, [*flags, f"--{aliases()[short]}", value]).config
    assert changed != RunConfig()


def test_every_short_spelling_stands_for_a_field() -> None:
    assert set(aliases().values()) <= set(accepted())
    assert set(aliases()) & set(known_fields()) == set()


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--ds.adam_offload"], True),
        (["--ds.adam_offload", "--train.seed", "1"], True),
        (["--ds.adam_offload", "true"], True),
        (["--ds.adam_offload", "false"], False),
        (["--ds.adam_offload=false"], False),
    ],
)
def test_boolean_flags_may_stand_alone(argv: list[str], value: bool) -> None:
    assert config(*argv).ds.adam_offload is value


def test_dry_run_may_stand_anywhere() -> None:
    assert parse_run("train", ["--dry_run", "--train.seed", "7"]).dry_run
    assert parse_run("train", ["--train.seed", "7", "--dry_run"]).config.train.seed == 7


def test_a_run_that_goes_on_or_starts_is_asked_for_in_two_spellings() -> None:
    assert config("--resume", "auto").ckpt.load_enable
    assert config("--resume=auto") == config("--ckpt.load_enable")
    assert not config().ckpt.load_enable


def test_supervise_is_how_a_run_is_started() -> None:
    parsed = parse_run("train", ["--supervise", "--train.seed", "7"])
    assert (parsed.supervise, parsed.config.train.seed) == (True, 7)
    assert not parse_run("train", []).supervise


@pytest.mark.parametrize("argv", [["a,b"], ["a", "b"], ['["a", "b"]']])
def test_lists_of_text(argv: list[str]) -> None:
    assert config("--data.prompt_dataset", *argv).data.prompt_dataset == ["a", "b"]


@pytest.mark.parametrize("argv", [["0.1,0.3"], ["0.1", "0.3"], ["[0.1, 0.3]"]])
def test_pairs_of_numbers(argv: list[str]) -> None:
    assert config("--actor.eps_clip_low_high", *argv).algo.settings.eps_clip_low_high == (0.1, 0.3)


def test_negative_numbers_are_values() -> None:
    assert config("--reward.clip_range", "-5", "5").algo.settings.reward_clip_range == (-5, 5)
    assert config("--critic.freezing_steps", "-1").critic.freezing_steps == -1


def test_null_unsets() -> None:
    assert config("--train.max_steps", "3", "--train.max_steps", "null").train.max_steps is None


def test_text_that_looks_like_yaml_stays_text() -> None:
    template = "Question: {}\nAnswer:"
    assert config("--data.input_template", template).data.input_template == template


def test_prompts_add_up_and_stay_as_they_are() -> None:
    prompts = ["[INST] a, b: c", "two\nlines", "\U0001f600 caf\u00e9 # \x7f \u2028", "null", "1"]
    argv = [part for prompt in prompts for part in ("--prompt", prompt)]
    assert parse_run("generate", argv).config.generate.prompt == prompts
    argv = [f"--generate.prompt={prompt}" for prompt in ["--dashes", "a=b"]]
    assert parse_run("generate", argv).config.generate.prompt == ["--dashes", "a=b"]


def test_other_lists_are_replaced_by_a_later_flag() -> None:
    argv = ["--data.dataset", "a", "--data.dataset", "b"]
    assert parse_run("sft", argv).config.data.dataset == ["b"]


def test_the_later_of_file_and_flag_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {seed: 1, batch_size: 64}\nactor: {adam: {lr: 1.0e-5}}\n")
    flags = config("--config", str(file), "--train.seed", "2")
    assert (flags.train.seed, flags.train.batch_size, flags.actor.adam.lr) == (2, 64, 1e-5)
    assert flags.actor.adam.betas == RunConfig().actor.adam.betas
    second = tmp_path / "more.yaml"
    second.write_text("train: {seed: 3}\n")
    both = config("--config", str(file), "--config", str(second))
    assert (both.train.seed, both.train.batch_size) == (3, 64)


def test_what_is_dumped_loads_again(tmp_path: Path) -> None:
    changed = config(
        *("--actor.eps_clip_low_high", "0.1", "0.3"),
        *("--data.prompt_dataset", "a,b", "--data.prompt_probs", "1,2"),
        *("--data.input_template", "Q: {} A:", "--algo", "rto", "--train.max_steps", "5"),
        *("--ds.lora.rank", "8", "--logger.wandb.enable"),
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump(changed), encoding="utf-8")
    assert config("--config", str(file)) == changed
    assert set(yaml.safe_load(dump(changed))) == {name.split(".")[0] for name in known_fields()}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--dpo_reward_scal", "0.1"], "unknown flag --dpo_reward_scal: did you mean --dpo_rew"),
        (["--algo.dpo_reward_scal", "1"], "did you mean --algo.dpo_reward_scale?"),
        (["--train.max_step=3"], "did you mean --train.max_steps?"),
        (["--drY_run"], "did you mean --dry_run?"),
        (["--zzzzzz", "1"], "unknown flag --zzzzzz"),
        (["--zzz", "1", "--train.sed=3", "--yyy"], "flags --zzz; --train.sed: did you mean --tra"),
        (["--rpo_alpha", "1"], "unknown flag --rpo_alpha: here --preference.nll_loss_coef"),
        (["train.seed", "3"], "unexpected argument 'train.seed': flags are written --name value"),
        (["--train.seed"], "--train.seed takes one value, got 0"),
        (["--train.seed", "1", "2"], "--train.seed takes one value, got 2: 1 2"),
        (["--data.prompt_dataset"], "--data.prompt_dataset needs at least one value"),
        (["--train.seed", "x"], "--train.seed is 'x': must be a whole number at least 0 and below"),
        (["--train.seed", "1e3"], "--train.seed is '1e3': must be a whole number"),
        (["--train.seed", "9" * 5000], "--train.seed is '9999"),
        (["--train.seed", "\u0663"], "must be a whole number"),
        (["--train.max_steps", "1:30"], "--train.max_steps is '1:30': must be a whole number"),
        (["--actor.adam.lr", "abc"], "--actor.adam.lr is 'abc': must be a number above 0 and at"),
        (["--actor.adam.lr", "1e400"], "--actor.adam.lr is inf: must be less than 3.4e+38"),
        (["--actor.adam.lr", "nan"], "--actor.adam.lr is nan: must be a number above 0"),
        (["--ds.zero_stage", "7"], "--ds.zero_stage is '7': must be 0, 1, 2 or 3"),
        (["--algo.kl.estimator", "k4"], "--algo.kl.estimator is 'k4': must be k1, k2, k3 or null"),
        (["--actor.lr_scheduler", "cosin"], "is 'cosin': did you mean cosine?"),
        (["--ds.adam_offload", "maybe"], "--ds.adam_offload is 'maybe': must be true or false"),
        (["--reward.clip_range", "1,2,3"], "is (1.0, 2.0, 3.0): must be 2 numbers"),
        (["--reward.clip_range", "a,b"], "--reward.clip_range is ('a', 'b'): must be 2 numbers"),
        (["--data.input_key", ""], "--data.input_key is '': must be a text that is not empty"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (["--resume"], "--resume: write --resume auto"),
        (["--resume", "never"], "--resume never: write --resume auto"),
        (["--supervise", "true"], "--supervise true: write --supervise"),
        (["--supervis"], "did you mean --supervise?"),
    ],
)
def test_a_wrong_flag_is_one_line(argv: list[str], said: str) -> None:
    assert said in message(*argv)


def test_the_hint_of_a_command_is_a_flag_that_it_reads() -> None:
    assert "did you mean --rollout.max_new_tokens?" in message("--max_new_tokens", "8")
    with pytest.raises(UserError, match="did you mean --generate.max_new_tokens"):
        parse_run("generate", ["--max_new_tokens", "8"])


def test_a_file_whose_name_has_a_comma_or_brackets_is_one_item(tmp_path: Path) -> None:
    file = tmp_path / "a,b.jsonl"
    file.touch()
    assert config("--data.prompt_dataset", str(file), "c,d").data.prompt_dataset == [
        str(file), "c", "d",
    ]  # fmt: skip
    assert config("--data.prompt_dataset", "[1].jsonl").data.prompt_dataset == ["[1].jsonl"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --critic.lr_warmup_ratio 2", "critic.lr_warmup_ratio is 2.0: must be at least 0"),
        ("train --actor.eps_clip 1", "actor.eps_clip is 1.0: must be above 0 and below 1"),
        (
            "train --reward.clip_range 1 1",
            "algo.ppo.reward_clip_range is 1, 1: the first must be lower",
        ),
        ("train --reward.weights 1,2 --reward.func_path f.py", "2 entries for 1 sources: give one"),
        ("dpo --preference.label_smoothing 0.5", "is 0.5: must be at least 0 and below 0.5"),
        ("train --rollout.batch_size 0", "--rollout.batch_size is 0: must be 1 or more"),
        ("train --rollout.top_p 0", "--rollout.top_p is 0.0: must be above 0 and at most 1"),
        ("sft --data.dataset a --data.dataset_probs 1,2", "2 entries for 1 datasets: one each"),
        ("train --data.prompt_probs 1,2", "data.prompt_probs has 2 entries for 0 datasets"),
        ("train --data.input_template x", "data.input_template is 'x': needs one {} for the"),
        ("generate --generate.top_p 2", "generate.top_p is 2.0: must be above 0 and at most 1"),
    ],
)
def test_a_value_out_of_its_range_is_one_line(argv: str, said: str) -> None:
    command, *flags = argv.split()
    with pytest.raises(UserError) as caught:
        parse_run(command, flags)
    assert said in str(caught.value)


def test_a_flag_with_two_values_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_run("train", ["--seed", "1", "--train.seed", "2", "--seed", "2"]).config
    assert config.train.seed == 2
    said = capsys.readouterr().out
    assert "given 3 times, the last counts: --train.seed 1, --train.seed 2" in said
    parse_run("train", ["--seed", "2", "--train.seed", "2"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", ["–-train.seed", "—train.seed", "-train.seed", "−−train.seed"])
def test_a_flag_with_another_dash_is_no_value(word: str) -> None:
    with pytest.raises(UserError, match="flags are written --name, with two hyphens"):
        parse_run("train", ["--data.prompt_dataset", "a.jsonl", word, "3"])
