"""Every configuration, script and command line that the project shows is one that it accepts."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from example_configs import CONFIGS, STAGES, command_of
from example_package import write_example

from rto.cli.compare import parser as compare_parser
from rto.cli.eval_flags import parse as parse_eval
from rto.cli.main import COMMANDS
from rto.cli.plan import STAGES as PLANNED
from rto.cli.report import parse as parse_report
from rto.cli.serve import parse as parse_serve
from rto.comparison.run import entries
from rto.methods.settings.preference import (
    DPOSettings,
    RDPOSettings,
    SimPOSettings,
    TDPO2Settings,
)
from rto.sections.methods import Algo, MethodSettings
from rto.sections.names import accepted
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig
from rto.sections.training import Adam

ROOT = Path(__file__).resolve().parents[2]
OF_ONE_COMMAND = [path for path in CONFIGS if path.stem != "laptop"]
SCRIPTS = sorted((ROOT / "examples" / "scripts").glob("*.sh"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
JOBS = sorted((ROOT / "ray_jobs").glob("*.yaml"))
MAX_SCRIPT_LINES = 15
PLACEHOLDERS = {
    '"$@"': "",
    '"${data[@]}"': "--data.feedback feedback.jsonl",
    "$ex/": f"{ROOT}/examples/",
    "$out": "runs/out",
}
"""What a script's variables stand for. ``runs/NAME`` is a run folder with a config.yaml."""


@dataclass(frozen=True)
class Shown:
    """A command line and the file that shows it."""

    source: Path
    line: str

    def __str__(self) -> str:
        return f"{self.source.name}: {self.line}"


def fenced(page: Path, *languages: str) -> Iterator[str]:
    """The code blocks of a page in these languages; "" is a block without one."""
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S):
        if language in languages:
            yield body


def command_lines(text: str, program: str) -> list[str]:
    """Lines that begin with ``program``, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith(f"{program} ")]


def shown(program: str) -> list[Shown]:
    scripts = [Shown(s, line) for s in SCRIPTS for line in command_lines(s.read_text(), program)]
    pages = [
        Shown(page, line)
        for page in PAGES
        for block in fenced(page, "bash", "sh", "")
        for line in command_lines(block, program)
    ]
    return scripts + pages


def resolved(line: str, run: Path) -> list[str]:
    for placeholder, value in {**PLACEHOLDERS, "runs/NAME": str(run)}.items():
        line = line.replace(placeholder, value)
    assert "$" not in line, f"a variable without a meaning here: {line}"
    return shlex.split(line, comments=True)


def check_rto(command: str, arguments: list[str]) -> None:
    assert command in COMMANDS or command in ("--help", "-h")
    if command in (*STAGES, "fit", "train", "generate") and arguments != ["--help"]:
        with pytest.raises(SystemExit) if "--help" in arguments else nullcontext():
            parse_run(command, arguments)
    elif command == "plan":
        stage, rest = arguments[0], arguments[1:]
        parse_run(*((stage, rest) if stage in PLANNED else ("train", arguments)))
    elif command == "compare":
        check_compare(arguments)
    elif command == "eval":
        parse_eval(arguments)
    elif command == "serve-reward":
        parse_serve(arguments)
    elif command == "report":
        parse_report(arguments)


def check_compare(arguments: list[str]) -> None:
    own, rest = compare_parser().parse_known_args(arguments)
    assert entries(own.algos)
    searched = [f"--{axis}".split(",")[0] for axis in own.grid]
    parse_run("compare", [*rest, *searched])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(dump(RunConfig()))
    return tmp_path


@pytest.fixture(scope="module")
def example_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("rwr"))


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch, example_package: Path) -> None:
    """The pages speak to someone who has installed the package of docs/extending.md, too."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(example_package)


def test_command_lines_are_found_wherever_they_stand() -> None:
    text = "rto sft --a \\\n  b # why\n  rto x\n# rto y\necho rto z\n"
    assert command_lines(text, "rto") == ["rto sft --a b # why", "rto x"]


@pytest.mark.parametrize("path", OF_ONE_COMMAND, ids=lambda path: path.stem)
def test_a_configuration_is_complete_for_its_command(path: Path) -> None:
    command = command_of(path)
    content = yaml.safe_load(path.read_text())
    given = {"dataset", "prompt_dataset"} & content["data"].keys()
    argv = ["--config", str(path), *([] if given else ["--data.feedback", "feedback.jsonl"])]
    config = parse_run(command, argv).config
    if command == "train":
        assert config.algo.name in path.stem or path.stem.endswith("-compare")
        config.check_online(needs_critic=True, needs_dpo=config.algo.name == "rto")
    else:
        config.check_actor()
        assert config.data.dataset or config.data.feedback


def test_the_paper_runs_have_the_papers_settings() -> None:
    def read(name: str) -> RunConfig:
        return parse_run("train", ["--config", f"examples/configs/{name}.yaml"]).config

    rto, ppo = read("rto-llama3-8b-8xa100"), read("ppo-llama3-8b-8xa100")
    assert (rto.actor.adam.lr, ppo.actor.adam.lr, rto.critic.adam.lr) == (5e-7, 8e-7, 9e-6)
    own = rto.algo.settings
    assert (own.dpo_reward_scale, own.dpo_reward_clip) == (0.05, 0.05)
    for config in (rto, ppo):
        method = config.algo.settings
        assert (method.kl_coef, method.lambd) == (0.01, 0.95)
        assert (config.rollout.num_sequences, config.train.batch_size) == (1024, 128)
        assert (config.max_prompt_len, config.max_new_tokens) == (1024, 1024)
        assert (method.value_clip, method.loss_reduction) == (0.2, "sequence")
        assert (config.ds.adam_offload, config.ds.param_dtype) == (False, "bf16")
        assert config.actor.gradient_checkpointing_enable
        assert config.actor.num_ranks == config.vllm.num_engines == 8


def read_config(name: str, command: str) -> RunConfig:
    given = [] if command != "fit" else ["--data.feedback", "f.jsonl"]
    return parse_run(command, ["--config", f"examples/configs/{name}.yaml", *given]).config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", DPOSettings(beta=0.1)),
        ("rdpo", RDPOSettings(beta=0.1, alpha=0.001)),
        ("simpo", SimPOSettings(beta=2.5, gamma=0.5)),
        ("tdpo", TDPO2Settings(beta=0.1, alpha=0.2)),
    ],
)
def test_the_papers_baselines_have_its_settings(name: str, expected: MethodSettings) -> None:
    config = read_config(f"{name}-llama3-8b-8xa100", "dpo")
    assert config.algo == Algo(expected.card.name, expected)
    check_papers_optimiser(config, lr=5e-7, batch_size=256)


@pytest.mark.parametrize("name", ["reward-llama3.2-1b-8xa100", "reward-llama3-8b-8xa100"])
def test_the_papers_reward_models_have_its_settings(name: str) -> None:
    check_papers_optimiser(read_config(name, "reward"), lr=1e-6, batch_size=128)


def check_papers_optimiser(config: RunConfig, *, lr: float, batch_size: int) -> None:
    """What the RTO paper's preference stages have in common."""
    actor = config.actor
    assert actor.adam == Adam(lr, (0.9, 0.95), weight_decay=0.0)
    assert (actor.lr_scheduler, actor.lr_warmup_ratio) == ("cosine_with_min_lr", 0.03)
    assert actor.min_lr_ratio == 0.1
    assert (config.train.batch_size, config.train.max_epochs) == (batch_size, 1)
    assert config.data.max_len == 2048
    assert config.data.dataset == ["HuggingFaceH4/ultrafeedback_binarized"]
    assert config.data.dataset_split == "train_prefs"


def test_reward_aware_stays_within_what_its_paper_searched() -> None:
    config = read_config("reward_aware-llama3-8b-fit", "fit")
    method = config.algo.settings
    assert method.distance == "kl_target_policy"
    assert 1e-3 <= method.beta <= 1e-2
    assert 1 <= method.eta <= 100
    assert (config.actor.adam.lr, config.actor.lr_scheduler) == (5e-7, "constant")
    assert (config.train.batch_size, config.train.max_epochs) == (256, 1)
    assert config.data.reward_scaling == "none"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_the_command_of_its_configuration(path: Path) -> None:
    for line in command_lines(path.read_text(), "rto"):
        name = re.search(r"configs/([\w.-]+)\.yaml", line)
        if name is None:
            continue
        config = ROOT / "examples" / "configs" / f"{name[1]}.yaml"
        command, *flags = line.split()[1:]
        assert command == command_of(config)
        if "--algo" in flags:
            algo = flags[flags.index("--algo") + 1]
            assert yaml.safe_load(config.read_text()).get("algo", {}).get("name", algo) == algo


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_strict(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_SCRIPT_LINES
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    subprocess.run(["bash", "-n", path], check=True, timeout=30)


@pytest.mark.parametrize("command", shown("rto"), ids=str)
def test_a_command_line_parses(command: Shown, run_folder: Path) -> None:
    _, name, *arguments = resolved(command.line, run_folder)
    check_rto(name, arguments)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_jobs_entrypoint_parses(path: Path) -> None:
    entrypoint = yaml.safe_load(path.read_text())["entrypoint"]
    _, name, *arguments = shlex.split(entrypoint)
    check_rto(name, arguments)


@pytest.mark.parametrize(
    "command",
    [c for program in ("bash", "python") for c in shown(program) if c.source in PAGES],
    ids=str,
)
def test_the_files_of_a_command_line_exist(command: Shown) -> None:
    words = shlex.split(command.line, comments=True)
    assert (ROOT / words[1]).is_file()
    ours = [word for word in words if word.startswith(("ray_jobs/", "examples/"))]
    assert [word for word in ours if not (ROOT / word).is_file()] == []


@pytest.mark.parametrize("flags", [["--data.feedback", "a b.jsonl"], ["--data.feedback=a b.jsonl"]])
def test_the_smollm2_script_shares_out_its_flags(tmp_path: Path, flags: list[str]) -> None:
    """Stand-ins on the path print their arguments; the virtual environment of the copy is empty."""
    for folder in ("examples/scripts", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    script = tmp_path / "examples" / "scripts" / "run.sh"
    source = ROOT / "examples" / "scripts" / "train_rto_smollm2_cpu.sh"
    script.write_text(source.read_text())
    for name in ("rto", "python"):
        program = tmp_path / "bin" / name
        program.write_text('#!/usr/bin/env bash\nprintf "%s|" "$@"; echo\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", script, "--train.seed", "1", *flags, "--train.max_steps", "3"],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    _, reward, dpo, train = done.stdout.splitlines()
    for stage, line in (("reward", reward), ("dpo", dpo)):
        assert line.startswith(f"{stage}|")
        assert "|".join(flags) in line
        assert "--train." not in line
    assert train.startswith("train|--algo|rto|")
    assert train.endswith("|".join(["--train.seed", "1", *flags, "--train.max_steps", "3|"]))


def test_the_smollm2_script_says_what_it_needs() -> None:
    script = ROOT / "examples" / "scripts" / "train_rto_smollm2_cpu.sh"
    done = subprocess.run(
        ["bash", script, "--train.max_steps", "3"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.startswith("# usage: ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_what_exists(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    fields = set(accepted())
    sections = {name.split(".")[0] for name in fields}
    parents = {name.rsplit(".", 1)[0] for name in fields}
    named = {
        name.removeprefix("--")
        for name in re.findall(r"`((?:--)?[a-z]+(?:\.[a-z_0-9]+)+)`", text)
        if name.removeprefix("--").split(".")[0] in sections
    }
    files = {"config.json", "config.yaml", "metrics.jsonl", "eval.json"}
    assert named - fields - parents - files == set()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:examples|ray_jobs|docs|rto)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for number, block in enumerate(fenced(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        parse_run("train", ["--config", str(file)])
