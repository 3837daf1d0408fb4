"""A file of settings is foreign input: one line that names the file and the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import UserError
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig


def read(folder: Path, content: str | bytes, command: str = "train") -> RunConfig:
    file = folder / "run.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return parse_run(command, ["--config", str(file)]).config


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, content)
    text = str(caught.value)
    assert "run.yaml" in text
    assert "\n" not in text
    assert len(text) < 400
    return text


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n"
    for old, new in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)
"""Two to the 17th texts, if it were written out."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("train: {max_step: 3}", "unknown key train.max_step: did you mean train.max_steps?"),
        ("actor: {adam: {learning_rate: 1}}", "unknown key actor.adam.learning_rate"),
        ("trian: {seed: 1}", "unknown key trian"),
        ("train: 3", "train is '3': a section holds settings"),
        ("train: [3]", "train is a list: a section holds settings"),
        ("# nothing yet", "the file is empty"),
        ("- 1", "expected sections like `actor:`, got a list"),
        ("a: [", "run.yaml:1: not YAML"),
        ("a: b: c", "run.yaml:1: not YAML: mapping values are not allowed here"),
        ("train: {seed: 1}\n---\ntrain: {seed: 2}", "run.yaml:2: not YAML"),
        ("? [a]\n: 1", "line 1: a key is the name of a setting"),
        ("ds: {param_dtype: bf61}", "run.yaml: ds.param_dtype is 'bf61': did you mean bf16?"),
        ("train: {seed: x}", "run.yaml: train.seed is 'x': must be a whole number"),
        ("train: {batch_size: null}", "train.batch_size is null: must be a whole number, 1 or"),
        ("train: {batch_size: ~}", "train.batch_size is null"),
        ("train: {batch_size: }", "train.batch_size is null"),
        ("train: {max_steps: 1:30}", "train.max_steps is '1:30': must be a whole number"),
        ("train: {max_steps: 0x10}", "train.max_steps is '0x10'"),
        ("train: {max_steps: 1_000}", "train.max_steps is '1_000'"),
        ("train: {max_steps: 2024-01-01}", "train.max_steps is '2024-01-01'"),
        ("train: {max_steps: true}", "train.max_steps is 'true'"),
        ("train: {max_steps: 2.5}", "train.max_steps is '2.5': must be a whole number"),
        ("train: {max_steps: " + "9" * 5000 + "}", "train.max_steps is '999"),
        ("train: {max_steps: [1]}", "train.max_steps is a list: must be a whole number"),
        ("train: {max_steps: {a: 1}}", "train.max_steps is a mapping: must be a whole number"),
        ("train: {max_steps: !!python/object:os.system 1}", "leave the tag out"),
        ("data: {input_key: yes}", "which YAML takes for a boolean: a text like that stands in q"),
        ("data: {input_key: 007}", "data.input_key is '007', which YAML takes for a number"),
        ("data: {input_key: 2024-01-01}", "which YAML takes for a date"),
        ("data: {input_key: ~}", "data.input_key is null: must be a text"),
        ("data: {input_key: [a]}", "data.input_key is a list: must be a text"),
        ("data: {prompt_dataset: a.jsonl}", "prompt_dataset is 'a.jsonl': must be a list of text"),
        ("data: {prompt_dataset: [a, 1]}", "which YAML takes for a number"),
        (
            "data: {prompt_dataset: [a, {b: c}]}",
            "prompt_dataset holds a mapping: must be a list of texts",
        ),
        ("actor: {adam: {lr: .inf}}", "actor.adam.lr is inf"),
        ("actor: {adam: {lr: .nan}}", "actor.adam.lr is nan"),
        ("actor: {adam: {betas: [0.9]}}", "actor.adam.betas is (0.9,): must be 2 numbers"),
        ("train: {seed: 1, seed: 2}", "train.seed stands twice, in lines 1 and 1"),
        ("train: {seed: 1}\nds: {}\ntrain: {max_steps: 2}", "train stands twice, in lines 1 and 3"),
        ("actor:\n  adam: {lr: 1.0}\n  adam: {eps: 1.0}", "actor.adam stands twice"),
        ("train: {seed: 1}\ntrain.seed: 2", "train.seed stands twice"),
        ("a: " + "[" * 3000 + "]" * 3000, "more than 32 levels deep"),
        ("a: " + "{a: " * 3000 + "}" * 3000, "more than 32 levels deep"),
        (BOMB, "unknown key a"),
        (BOMB.replace("a: &a", "data: {prompt_dataset: &a") + "}", "not YAML"),
        ("actor: &a {adam: *a}", "unknown key actor.adam.adam"),
        ("a: *b", "run.yaml:1: not YAML: found undefined alias"),
        ("data: {prompt_dataset: &a [*a]}", "prompt_dataset holds a list"),
        ("base: &b {seed: 1}\ntrain:\n  <<: *b", "unknown key base"),
        ("train: {seed: 1}".encode("utf-16"), "not UTF-8 (byte 0)"),
        (b"train: {device: \xff\xfe}\n", "not UTF-8 (byte 16)"),
        (b"train: {seed: \x00}", "not YAML"),
        (b"#" * (2**20 + 1), "longer than 1048576 bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, content)


@pytest.mark.parametrize("name", ["data: {prompt_dataset: *q}", "train: {seed: *q}"])
def test_aliases_cost_nothing_where_a_setting_names_them(tmp_path: Path, name: str) -> None:
    text = refusal(tmp_path, "data: {dataset: &a [x]}\nctx: &q [*a, *a]\n" + name)
    assert "stands twice" in text or "unknown key ctx" in text


def test_values_are_what_the_settings_take_them_for(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
actor: {adam: {lr: 1e-5, betas: [0, 0.5]}, dual_clip: 3}
data: {input_key: "yes", prompt_dataset: ["1", null.jsonl], input_template: "{}\\n: {}"}
train: {max_steps: null, seed: 010, self_check: off, batch_size: "8"}
rollout:
  # all at their defaults
ckpt: {best_metric_key: ""}
ds: {zero_stage: 3, lora: {rank: 4}}
""",
    )
    assert config.actor.adam.lr == 1e-5
    assert config.actor.adam.betas == (0.0, 0.5)
    assert config.algo.settings.dual_clip == 3.0
    assert (config.data.input_key, config.data.prompt_dataset) == ("yes", ["1", "null.jsonl"])
    assert config.data.input_template == "{}\n: {}"
    assert (config.train.max_steps, config.train.seed, config.train.batch_size) == (None, 10, 8)
    assert config.train.self_check is False
    assert (config.ds.zero_stage, config.ds.lora.rank) == (3, 4)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    content = "\ufefftrain:\r\n  seed: 7\r\n"
    assert read(tmp_path, content.encode()).train.seed == 7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("!!python/object:os.system\ntrain: {seed: 1}", "line 1: the file has the tag"),
        ("train: !mine {seed: 1}", "line 1: train has the tag '!mine'"),
        ("rollouts: {batch_size: 2}", "unknown key rollouts: did you mean rollout?"),
        ("Actor: {max_norm: 1}", "unknown key Actor: did you mean actor?"),
        ("seed: 1", "unknown key seed: did you mean train.seed?"),
    ],
)
def test_tags_and_names_of_sections_are_looked_at(tmp_path: Path, content: str, said: str) -> None:
    assert said in refusal(tmp_path, content)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for name, said in (("", "a folder"), ("n" * 300, "File name too long"), ("no", "no such file")):
        with pytest.raises(UserError, match=said) as caught:
            parse_run("train", ["--config", str(tmp_path / name)])
        assert "--config" in str(caught.value)
