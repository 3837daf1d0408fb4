"""`rto convert-flags`: scripts of other programs become commands that this one's parser takes."""

from __future__ import annotations

import ast
import importlib.util
import shlex
from pathlib import Path

import pytest

from rto.cli import convert as convert_module
from rto.cli.convert import PROGRAM, convert, rendered
from rto.cli.main import main
from rto.cli.shell_script import find_calls, split, statements
from rto.errors import UserError
from rto.sections.foreign import explain, renamed, table
from rto.sections.names import accepted, aliases
from rto.sections.parse import parse_run

TRAINERS = {
    "train_sft": "sft",
    "train_rm": "reward",
    "train_dpo": "dpo",
    "train_ppo_ray": "train",
}


def one(script: str) -> convert_module.FlagConversion:
    (call,) = find_calls(script, PROGRAM)
    return convert(call)


def parsed(conversion: convert_module.FlagConversion):
    """The rendered command, as a shell and then the parser read it."""
    words = shlex.split(rendered(conversion).replace("\\\n", " "), comments=True)
    assert words[0] == "rto"
    return parse_run(words[1], words[2:]).config


def added_arguments(trainer: str) -> dict[str, object]:
    """--name -> default of every flag that OpenRLHF's trainer defines, read from its source."""
    package = importlib.util.find_spec("openrlhf")
    assert package is not None
    assert package.origin is not None
    tree = ast.parse((Path(package.origin).parent / "cli" / f"{trainer}.py").read_text())
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr != "add_argument" or not node.args:
            continue
        default = next((k.value for k in node.keywords if k.arg == "default"), None)
        value = default.value if isinstance(default, ast.Constant) else None
        flag = node.args[0]
        if isinstance(flag, ast.Constant):
            found[str(flag.value).removeprefix("--")] = value
        else:
            tail = ast.unparse(flag).split("}", 1)[1].rstrip("'\"")
            found |= {f"{prefix}{tail}": value for prefix in ("actor", "critic")}
    return found


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_flag_of_openrlhf_is_taken_or_explained(trainer: str) -> None:
    flags = added_arguments(trainer)
    assert len(flags) > 60
    own = {*accepted(), *aliases()}
    assert [f for f in flags if f not in own and explain(f, TRAINERS[trainer]) is None] == []


@pytest.mark.parametrize("trainer", TRAINERS)
def test_defaults_that_differ_are_openrlhfs(trainer: str) -> None:
    command = TRAINERS[trainer]
    theirs = {
        renamed(flag, command) or flag: value for flag, value in added_arguments(trainer).items()
    }
    for name, value in table()["defaults"][command].items():
        assert theirs[name] == value, name


def test_the_table_leads_to_settings_that_exist_and_shadows_none_of_them() -> None:
    fields = accepted()
    for theirs, ours in table()["renamed"].items():
        assert theirs not in fields
        for name in ours.values() if isinstance(ours, dict) else [ours]:
            assert name in fields, f"{theirs} -> {name}"
    kinds = ("renamed", "always", "dropped", "absent", "by_value")
    names = [name for kind in kinds for name in table()[kind]]
    assert len(names) == len(set(names))
    for name in names:
        assert name not in fields, name


def test_what_is_said_of_a_flag() -> None:
    assert explain("pretrain", "train") == "here --actor.model_name_or_path"
    assert explain("beta", "fit") == "here --algo.kto.beta"
    assert explain("beta", "dpo") == "here --preference.beta"
    assert explain("packing_samples", "sft") == "always so here, leave it out"
    assert explain("ckpt.path", "sft") == "not needed here, checkpoints lie in ckpt.output_dir"
    assert str(explain("zpg", "sft")).startswith("not available here; ")
    assert explain("no_such_flag", "sft") is None


RTO_SCRIPT = """
# the RTO authors' way of writing flags
SFT=org/sft-model
RM="org/reward model"
DATASET=(org/prompts train context_messages)

deepspeed --module openrlhf.cli.train_ppo \\
    --pretrain $SFT \\
    --critic_pretrain "$RM" --reward_pretrain "${RM}" --normalize_reward \\
    --dpo_pretrain org/dpo \\
    --prompt_data ${DATASET[0]} --prompt_split ${DATASET[1]} --input_key ${DATASET[2]} \\
    --prompt_max_len 1024 --generate_max_len 512 --apply_chat_template \\
    --rollout_batch_size 1024 --train_batch_size 128 --micro_rollout_batch_size 4 \\
    --micro_train_batch_size 1 --init_kl_coef 0.02 \\
    --actor_learning_rate 5e-7 --critic_learning_rate 9e-6 \\
    --dpo_reward_scale 0.04 --dpo_reward_clip 0.03 \\
    --zero_stage 3 --adam_offload --flash_attn --gradient_checkpointing --bf16
"""


def test_the_rto_authors_script() -> None:
    config = parsed(one(RTO_SCRIPT))
    assert config.algo.name == "rto"
    assert config.actor.model_name_or_path == "org/sft-model"
    assert config.critic.model_name_or_path == "org/reward model"
    assert config.reward.model_name_or_path == ["org/reward model"]
    assert config.reward.normalize_enable
    assert config.dpo.model_name_or_path == "org/dpo"
    assert config.data.prompt_dataset == ["org/prompts"]
    assert (config.data.prompt_split, config.data.input_key) == ("train", "context_messages")
    assert (config.data.max_len, config.rollout.max_new_tokens) == (1024 + 512, 512)
    assert (config.rollout.batch_size, config.train.batch_size) == (1024, 128)
    assert (config.actor.adam.lr, config.critic.adam.lr) == (5e-7, 9e-6)
    own = config.algo.settings
    assert (own.dpo_reward_scale, own.dpo_reward_clip) == (0.04, 0.03)
    assert (own.kl_coef, config.ds.zero_stage) == (0.02, 3)
    assert config.ds.adam_offload
    assert config.ds.param_dtype == "bf16"
    assert config.ds.attn_implementation == "flash_attention_2"
    assert config.actor.gradient_checkpointing_enable


SFT_SCRIPT = """
set -x
read -r -d '' training_commands <<EOF
openrlhf.cli.train_sft \\
   --data.max_len 4096 \\
   --data.dataset org/conversations \\
   --data.input_key question --data.output_key response \\
   --train.batch_size 256 --train.micro_batch_size 2 \\
   --model.model_name_or_path org/base \\
   --ckpt.output_dir ./checkpoint/sft --ckpt.save_steps -1 --logger.logging_steps 1 \\
   --ds.zero_stage 2 --train.max_epochs 1 --ds.packing_samples --ds.param_dtype bf16 \\
   --adam.lr 5e-6 \\
   --logger.wandb.key 0123456789abcdef
EOF
if [[ ${1} != "slurm" ]]; then
    deepspeed --module $training_commands
fi
"""


def test_a_script_of_openrlhf_that_keeps_its_command_in_a_variable() -> None:
    conversion = one(SFT_SCRIPT)
    config = parsed(conversion)
    assert conversion.command == "sft"
    assert config.actor.model_name_or_path == "org/base"
    assert (config.actor.adam.lr, config.train.max_epochs) == (5e-6, 1)
    assert (config.data.max_len, config.train.batch_size) == (4096, 256)
    assert config.data.dataset == ["org/conversations"]
    assert config.logger.wandb.enable
    assert any("packing_samples: always so" in note for note in conversion.notes)
    assert "0123456789abcdef" not in rendered(conversion)


def test_what_openrlhf_does_by_default_and_this_program_does_not() -> None:
    script = (
        "ray job submit --address=http://127.0.0.1:8265 "
        '--runtime-env-json=\'{"working_dir": "/openrlhf"}\' '
        "-- python3 -m openrlhf.cli.train_ppo_ray --actor.model_name_or_path org/sft "
        "--reward.remote_url ./reward_func.py --data.prompt_dataset org/prompts "
        "--algo.advantage.estimator group_norm --rollout.n_samples_per_prompt 8 "
        "--train.colocate_all --vllm.num_engines 4"
    )
    conversion = one(script)
    config = parsed(conversion)
    assert config.algo.name == "grpo"
    assert config.reward.func_path is not None
    assert config.reward.func_path.endswith("reward_func.py")
    assert config.reward.remote_url == []
    assert (config.actor.num_gpus_per_node, config.train.colocate_all) == (8, True)
    assert config.rollout.n_samples_per_prompt == 8


def test_dpo_reward_model_and_kto() -> None:
    dpo = one(
        "deepspeed --module openrlhf.cli.train_dpo --model.model_name_or_path m "
        "--data.dataset d --model.beta 0.2 --model.ipo_enable --ref.offload"
    )
    config = parsed(dpo)
    assert (config.algo.name, config.algo.settings.beta) == ("ipo_sum", 0.2)
    assert (config.actor.adam.lr, config.data.max_len) == (1e-5, 512)
    reward = one("python -m openrlhf.cli.train_rm --pretrain m --learning_rate 9e-6 --dataset d")
    assert reward.command == "reward"
    assert parsed(reward).actor.adam.lr == 9e-6
    kto = one("trl kto --model_name_or_path m --dataset_name d --beta 0.3 --desirable-weight 1.5")
    config = parsed(kto)
    assert (kto.command, config.algo.name) == ("fit", "kto")
    assert (config.algo.settings.beta, config.algo.settings.desirable_weight) == (0.3, 1.5)
    assert config.data.feedback is not None


def test_trls_batch_is_of_one_device() -> None:
    conversion = one(
        "accelerate launch examples/scripts/dpo.py --model_name_or_path m --dataset_name d "
        "--per_device_train_batch_size 4 --gradient_accumulation_steps 16 --loss_type ipo"
    )
    config = parsed(conversion)
    assert (config.train.batch_size, config.algo.name) == (64, "ipo")
    assert [n for n in conversion.notes if "multiply it by their number" in n]


def test_values_that_have_no_counterpart_are_said() -> None:
    conversion = one(
        "deepspeed train_rm.py --pretrain m --dataset d --fp16 --model.loss_type rank --bogus 3"
    )
    text = rendered(conversion)
    assert "# --fp16: not available here; --ds.param_dtype bf16 or fp32" in text
    assert "# --model.loss_type: the reward model's loss is the logistic one" in text
    assert "# --bogus: no counterpart is known: left out" in text
    assert "ds.param_dtype" not in text.split("rto reward")[1]


def test_variables_that_stay_open_are_named_and_kept(tmp_path: Path, capsys) -> None:
    script = tmp_path / "a script.sh"
    script.write_text("STEP=$(date)\ntrl sft --model_name_or_path $MODEL/x --run_name $STEP\n")
    assert main(["convert-flags", str(script)]) == 0
    said = capsys.readouterr()
    assert '--actor.model_name_or_path "$MODEL/x"' in said.out
    assert "set $MODEL before" in said.err
    assert "set $STEP before" in said.err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("echo hello\n", "no call"),
        ("trl sft --model_name_or_path 'm\n", "cannot read the script's line"),
        ("trl vllm-serve --model m\n", "no such trainer"),
        ("trl sft model --x 1\n", "unexpected word 'model'"),
        ("python train_ppo.py --algo.advantage.estimator\n", "takes one value"),
    ],
)
def test_scripts_that_cannot_be_read_are_one_line(
    tmp_path: Path, capsys, text: str, names: str
) -> None:
    script = tmp_path / "s.sh"
    script.write_text(text)
    assert main(["convert-flags", str(script)]) == 2
    said = capsys.readouterr()
    assert names in said.err
    assert len(said.err.splitlines()) == 1


def test_files_that_are_no_scripts(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in ("binary", "missing"):
        with pytest.raises(UserError, match=path):
            convert_module.main([str(tmp_path / path)])
    with pytest.raises(UserError, match="one script"):
        convert_module.main(["a", "b"])


def test_lines_words_and_variables() -> None:
    text = "A=1\n# note \\\nx --a 1 \\\n  --b '2 3' # tail\nARGS=(\n  --c 4\n)\ny\n"
    assert list(statements(text)) == ["A=1", "x --a 1  --b '2 3' # tail", "ARGS=( --c 4 )", "y"]
    assert split("x --b '2 3' && rm y") == ["x", "--b", "2 3"]
    (call,) = find_calls('ARGS=(\n --beta 4\n)\ntrl dpo "${ARGS[@]}"\n', PROGRAM)
    assert call.words == ("trl", "dpo", "--beta", "4")


SFT = "python -m openrlhf.cli.train_sft --pretrain m"


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (f"cd x && {SFT} && echo done; true", ["m"]),
        (f"if [ $X ]; then {SFT}; fi", ["m"]),
        (f"{SFT} 2>&1 | tee log", ["m"]),
        (f'A=(--seed 1)\nA+=(--max_len 8)\n{SFT} "${{A[@]}}"', ["m", "1", "8"]),
        (f"export S=3 L=8\n{SFT} --seed $S --max_len $L", ["m", "3", "8"]),
    ],
)
def test_what_a_shell_does_with_a_line_is_followed(script: str, flags: list[str]) -> None:
    assert [value for values in one(script).flags.values() for value in values] == flags


@pytest.mark.parametrize("value", ["$(rm x)", "'$(rm x)'", "`rm x`", '"$(rm x)"', "$((8*4))"])
def test_the_output_of_a_command_is_left_out_and_said(value: str) -> None:
    conversion = one(f"{SFT} --dataset {value} --max_len 8")
    assert conversion.flags["data.max_len"] == ["8"]
    assert "rm x" not in rendered(conversion)
    assert "--dataset: holds the output of a command" in rendered(conversion)


def test_a_secret_is_not_carried_over() -> None:
    text = rendered(one(f"{SFT} --remote_rm_url 'http://u:hunter2@h/?api_key=hunter2'"))
    assert "hunter2" not in text
    assert "# --remote_rm_url: holds a secret" in text


def test_a_script_that_fails_prints_its_name_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.sh").write_text(f"{SFT}\ntrl env\n")
    assert main(["convert-flags", str(tmp_path / "a.sh")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "a.sh: trl env: no such trainer" in said.err
