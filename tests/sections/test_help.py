"""--help lists what a command reads, and every setting has a description."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields

import pytest

from rto.cli.eval_flags import parser as eval_parser
from rto.cli.main import COMMANDS, main
from rto.errors import UserError
from rto.sections import reads
from rto.sections.help import descriptions, help_text
from rto.sections.methods import methods_of
from rto.sections.names import aliases, known_fields, shared_fields
from rto.sections.parse import COMMON, STARTS, parse_run, readable
from rto.sections.runtime import Decoding

RUNS = ("sft", "reward", "dpo", "fit", "train", "generate")


def listed(text: str) -> list[str]:
    """The flags that stand at the beginning of a line."""
    return re.findall(r"^  --(\S+)", text, re.M)


def test_every_setting_and_section_has_a_description() -> None:
    texts = descriptions()
    assert [name for name in known_fields() if len(texts.get(name, "")) < 5] == []
    assert [name for name in {n.split(".")[0] for n in known_fields()} if not texts[name]] == []
    assert not [name for name, text in texts.items() if "(" in text and ": '" in text]


@pytest.mark.parametrize("command", RUNS)
def test_help_lists_exactly_what_the_parser_accepts(command: str) -> None:
    """Those of a method stand in the help of the method."""
    text = help_text(command, None, None)
    shared = [name for name in readable(command) if not is_of_a_method(name)]
    assert sorted(listed(text)) == sorted(shared)
    has_methods = len(shared) < len(readable(command))
    assert ("NAME --help` lists them" in " ".join(text.split())) == has_methods


def is_of_a_method(name: str) -> bool:
    return name in known_fields() and name not in shared_fields()


@pytest.mark.parametrize("command", ["sft", "reward", "dpo", "fit", "train"])
def test_help_of_a_method_lists_what_the_parser_takes_for_it(command: str) -> None:
    for method in sorted(methods_of(command)):
        text = help_text(command, method, None)
        values = {"dpo.model_name_or_path": "given"}
        taken = [n for n in known_fields() if reads.reads(command, method, n, values)]
        short = [s for s, name in aliases().items() if reads.reads(command, method, name, values)]
        assert sorted(listed(text)) == sorted([*taken, *short, *COMMON, *STARTS])


def test_short_flags_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--algo", "rto", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    first = ["config", "dry_run", "supervise", "resume", "algo", "dpo_reward_scale"]
    assert listed(text)[: len(first)] == first
    assert "Settings that rto train with rto reads" in text
    assert "--algo.rpo" not in text
    first = text[text.index("algo.rto: Reinforced Token Optimization (arXiv 2404.18922)") :]
    assert listed(first)[0] == "algo.rto.dpo_reward_scale"
    assert "beta_1 of the RTO paper (equation 4.7)" in " ".join(first.split())
    assert max(map(len, text.splitlines())) <= 100


def eval_help(capsys: pytest.CaptureFixture[str], *section: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["eval", "--help", *section])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_eval_has_the_help_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    text = eval_help(capsys)
    own = [flag.removeprefix("--") for flag in eval_parser()._option_string_actions]
    assert listed(text)[: 3 + len(own)] == ["config", "dry_run", "seed", *own]
    assert sorted(listed(text)) == sorted([*own, *readable("eval")])
    assert max(map(len, text.splitlines())) <= 100
    assert "and the win rate by each judge." in text
    for line in ("  --judge_timeout 120  ", "  --top_p 1  ", "  --judge_concurrency 8  "):
        assert f"\n{line}" in text
    told = dict(re.findall(r"^  --(\S+)(?: \S+)?\s{2,}(\S[^\n]*)", text, re.M))
    assert [flag for flag in own if len(told.get(flag, "")) < 5] == []


def test_a_section_of_evals_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = eval_help(capsys, "decoding")
    assert listed(text) == [field.name for field in fields(Decoding)]
    assert "Takes a whole number, 0 or more." in " ".join(text.split())
    assert {name.split(".")[0] for name in listed(eval_help(capsys, "vllm"))} == {"vllm"}
    with pytest.raises(UserError, match="--help judge: no such section .* did you mean judges"):
        parse_run("eval", ["--help", "judge"], own=eval_parser())


def test_one_section_is_printed_whole() -> None:
    text = help_text("train", None, "rollout")
    assert {name.split(".")[0] for name in listed(text)} == {"rollout"}
    assert "Takes a whole number, 1 or more." in text
    own = " ".join(help_text("train", "rto", "algo.rto").split())
    assert "Takes a number, 0 or more. Also --algo.kl.init_coef." in own
    assert "Also --dpo_reward_scale, --algo.dpo_reward_scale." in own
    with pytest.raises(UserError, match="--help rolout: .* did you mean rollout"):
        help_text("train", None, "rolout")
    with pytest.raises(UserError, match="no such section of `rto sft`"):
        parse_run("sft", ["--help", "vllm"])


def test_the_method_may_be_named_after_help_too() -> None:
    with pytest.raises(SystemExit):
        parse_run("dpo", ["--help", "--loss", "simpo"])


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'transformers', 'vllm', 'datasets', 'numpy', 'rich'}"
    code = (
        "import sys; from rto.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        f"except SystemExit: print('HEAVY', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"rto \d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("methods --jsn", "methods: unknown argument --jsn: did you mean --json?"),
        ("methods x", "methods: unknown argument x"),
        (
            "serve-reward --func_path f --port 70000",
            "--port: '70000': a whole number from 1 to 65535",
        ),
        ("serve-reward --func_path f --port -1", "--port"),
        ("serve-reward --func_path f --port 1e3", "--port: '1e3': a whole number from 1 to 65535"),
        ("serve-reward --func_path f --max_batch 0", "--max_batch"),
        ("compare --algos rpo --prompts p --seeds 0", "--seeds: '0': a whole number from 1"),
        ("compare --algos rpo", "compare: the following arguments are required: --prompts"),
        ("quickstart --sed 1", "quickstart: unknown argument --sed: did you mean --seed?"),
        ("quickstart --seed -1", "--seed"),
    ],
)
def test_commands_with_flags_of_their_own_say_one_line(
    argv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert argv.split()[0] in COMMANDS
    assert main(argv.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
