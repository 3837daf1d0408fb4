"""What a secret is, in names and in texts. The planted one is always ``hunter2``."""

from __future__ import annotations

import shlex
import time

import pytest

from rto.errors import UserError
from rto.secrets import filled, hide, hide_words, holds_secret, is_secret_name, shown_url, without
from rto.sections.data import Data
from rto.sections.run_config import RunConfig, texts
from rto.sections.runtime import Generate, Logger, WandB
from rto.sections.training import Reward

SECRET_NAMES = """api_key apikey API-KEY x-api-key token access_token accessToken password passwd
DB_PASS DB_PASSWD AWS_CREDENTIALS AUTHORIZATION TOKEN_1 OPENAI_APIKEY HF_TOKEN sig signature
credential AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY MY_PWD WANDB_API_KEY client_secret key"""
PLAIN_NAMES = """data.input_key output_key ckpt.best_metric_key TOKENIZERS_PARALLELISM max_tokens
max_tokens_per_gpu pad_token eos_token reward.remote_token_env RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH
OMP_NUM_THREADS REDIS_URL eval/nll_per_token author keyboard monkey design dpo/token_mean"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES.split())
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://h/r?a=1&api_key=hunter2#x", "http://h/r?a=1&api_key=***"),
        ("http://h/r#access_token=hunter2", "http://h/r#access_token=***"),
        ("http://h/r?code=hunter2", "http://h/r?code=***"),
        ("redis://u:hunter2@h", "redis://***@h"),
        ("postgres://u:p@hunter2@h/db", "postgres://***@h/db"),
        ("git+https://hunter2@github.com/a", "git+https://***@github.com/a"),
        ("HF_TOKEN=hunter2 rto methods", "HF_TOKEN=*** rto methods"),
        ("export OPENAI_APIKEY='hunter 2'", "export OPENAI_APIKEY='***'"),
        ("curl -H 'Authorization: Bearer hunter2' x", "curl -H 'Authorization: ***' x"),
        ("--api-key hunter2 --n 3", "--api-key *** --n 3"),
        ('{"password": "hunter2", "a": 1}', '{"password": "***", "a": 1}'),
        ("{'token': 'hunter2'}", "{'token': '***'}"),
        ("password: hunter2", "password: ***"),
        ("Bearer hunter2", "***"),
        ("ValueError: token=hunter2", "ValueError: token=***"),
        ('said: "api_key: hunter2"', 'said: "api_key: ***"'),
        ("with sk-hunter2hunter2hunter2.", "with ***."),
        ("hf_hunter2hunter2hunter2", "***"),
    ],
)
def test_a_secret_in_a_text_is_hidden(text: str, shown: str) -> None:
    assert hide(text) == shown
    assert hide(shown) == shown
    assert holds_secret(text)
    assert not holds_secret(shown)


@pytest.mark.parametrize(
    "text",
    [
        "the bearer token is missing: set the environment variable OPENAI_API_KEY",
        "no bearer token (RTO_REWARD_TOKEN is not set)",
        "unknown key: exclude",
        "first bad token: 'abc'",
        "eos_token='</s>'",
        "rto train --data.input_key question --judge_key_env OPENAI_API_KEY",
        "HF_TOKEN=$HF_TOKEN rto train",
        "http://h/r?api_key=${REWARD_KEY}&revision=main",
        "ssh://git@github.com/x and git@github.com:x/y",
        "sorted(rows, key=len)",
        "sk-short hf_short",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide(text) == text


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ('{"api_key": "hunter2", "n": 2}', '{"api_key": "***", "n": 2}'),
        ('{"x": {"api-keys": ["hunter2", "hunter3"]}}', '{"x": {"api-keys": ["***", "***"]}}'),
        ('{"user": "it\'s me", "pass": "hunter2"}', '{"user": "it\'s me", "pass": "***"}'),
        ('{"headers": ["Authorization: Bearer hunter2"]}', '{"headers": ["Authorization: ***"]}'),
        ('{"token": "${KEY}", "max_tokens": 5}', '{"token": "${KEY}", "max_tokens": 5}'),
    ],
)
def test_a_command_line_is_shown_without_the_secrets_in_its_json(options: str, shown: str) -> None:
    for words in (["--o", options], [f"--o={options}"]):
        said = shlex.split(hide_words([*words, "--hf_token", "hunter2"]))
        assert said == [word.replace(options, shown) for word in words] + ["--hf_token", "***"]


@pytest.mark.parametrize("unit", ["a", "a.b-", "x=", "a://", "a@", "token='\\"])
def test_a_long_text_takes_no_time(unit: str) -> None:
    """A pattern that backtracks takes minutes here; this one some 10 ms."""
    began = time.perf_counter()
    hide(unit * (50_000 // len(unit)))
    assert time.perf_counter() - began < 2


def test_a_url_is_shown_without_any_value() -> None:
    assert shown_url("http://u:p@h/r?model=m&x=1#f") == "http://***@h/r?model=***&x=***"
    assert shown_url("http://h/r") == "http://h/r"


def test_variables_are_filled_in_by_name() -> None:
    assert filled("http://h?k=${KEY}&d=$d", {"KEY": "v"}) == "http://h?k=v&d=$d"
    with pytest.raises(KeyError, match="KEY"):
        filled("${KEY}", {})
    assert without("said v1 and token=x", "v1", None) == "said *** and token=***"


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("reward.remote_url", {"reward": Reward(remote_url=["http://h/?apikey=hunter2"])}),
        ("data.dataset", {"data": Data(dataset=["a.jsonl", "https://u:hunter2@h/b.jsonl"])}),
        ("logger.wandb.run_name", {"logger": Logger(wandb=WandB(run_name="API_KEY=hunter2"))}),
    ],
)
def test_a_configuration_holds_no_secret(name: str, section: dict) -> None:
    with pytest.raises(UserError, match=name) as caught:
        RunConfig(**section)
    assert "hunter2" not in str(caught.value)


def test_text_for_a_model_may_speak_of_passwords() -> None:
    RunConfig(generate=Generate(prompt=["my password: hunter2"]))
    RunConfig(reward=Reward(remote_url=["http://h/?api_key=${REWARD_KEY}"]))
    content = {"a": {"b": ["x", 1], "c": None}, "d": "y"}
    assert list(texts(content)) == [("a.b", "x"), ("d", "y")]


@pytest.mark.parametrize(
    "text",
    [
        "http://h/token/hunter2hunter2",
        "http://h/;token=hunter2",
        "https://h/sk-hunter2hunter2hunter2",
        "http://h/bot123456:AAhunter2hunter2hunter2hunter2hunter/",
        "https://hooks.slack.com/services/T00/B00/hunter2",
        "http://h/r?pass%77ord=hunter2",
    ],
)
def test_a_secret_in_the_path_of_a_url_is_one(text: str) -> None:
    assert holds_secret(text)
    assert "hunter2" not in shown_url(text)


@pytest.mark.parametrize("name", ["PGPASSWORD", "HFTOKEN", "appsecret"])
def test_words_without_a_joint_tell_of_a_secret(name: str) -> None:
    assert is_secret_name(name)
    assert not is_secret_name("eostoken")


@pytest.mark.parametrize(
    "text",
    [
        "unknown key logger.wandb.api_key: did you mean logger.wandb.project?",
        "/runs/api_key.yaml: unknown key x",
        "http://h/v1/token/count",
        "docker run -u 1000:1000 image",
    ],
)
def test_a_message_about_a_name_stays_whole(text: str) -> None:
    assert hide(text) == text
