from __future__ import annotations

from pathlib import Path

import pytest

from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.models.load import load_tokenizer

HERE = Where("f.jsonl", 3, "input")
TURNS = [
    {"role": "user", "content": "w1"},
    {"role": "assistant", "content": "w2"},
    {"role": "user", "content": "w3"},
]


@pytest.fixture
def chat(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)), apply_chat_template=True)


@pytest.fixture
def plain(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)), input_template="w9 {} {x} w8")


def test_input_template_replaces_only_its_field(plain: Template) -> None:
    assert plain.prompt("w1 {}", HERE) == "w9 w1 {} {x} w8"


def test_a_string_is_the_users_turn(chat: Template) -> None:
    assert chat.prompt("w1", HERE) == "<user> w1\n<assistant>"
    assert chat.prompt(TURNS[:1], HERE) == chat.prompt("w1", HERE)


def test_prompt_ids_are_a_prefix_of_the_whole_conversation(chat: Template) -> None:
    prompt = chat.prompt(TURNS, HERE)
    response = chat.response(TURNS, "w4 w5", HERE)
    whole = chat.tokenizer(prompt + response, add_special_tokens=False)["input_ids"]
    ids = chat.prompt_ids(prompt) + chat.response_ids(response)
    # the whole goes on with </s>, which is appended where the response fits
    assert [*ids, 2] == whole
    assert chat.response_ids(response) == (10, 11)


def test_a_template_that_rewrites_an_answered_prompt(chat: Template) -> None:
    chat.tokenizer.chat_template = "{{ messages | length }} {{ messages[0]['content'] }}"
    with pytest.raises(UserError, match="row 3: 'input' does not begin the rendered conversation"):
        chat.response("w1", "w2", HERE)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content | nope }}", "No filter named 'nope'"),
        ("{% for m in messages %}", "Unexpected end of template"),
    ],
)
def test_a_template_that_refuses_a_row(chat: Template, template: str, problem: str) -> None:
    chat.tokenizer.chat_template = template
    with pytest.raises(UserError, match=f"row 3: 'input' does not go through .*{problem}"):
        chat.prompt("w1", HERE)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "not a list of messages"),
        ([{"role": "user"}], "message 0 is not a"),
        ([{"role": "user", "content": None}], "message 0: content is not text"),
        (TURNS[:2], "ends with an assistant turn"),
        (None, "is missing"),
        ("", "is empty"),
    ],
)
def test_bad_prompts(chat: Template, value: object, problem: str) -> None:
    with pytest.raises(UserError, match=f"f.jsonl: row 3: 'input'.*{problem}"):
        chat.prompt(value, HERE)


def test_messages_need_the_chat_template(plain: Template, chat: Template) -> None:
    with pytest.raises(UserError, match="switch data.apply_chat_template on"):
        plain.prompt(TURNS, HERE)
    both = Template(chat.tokenizer, input_template="{}", apply_chat_template=True)
    with pytest.raises(UserError, match="data.input_template cannot format"):
        both.prompt(TURNS, HERE)


def test_no_chat_template(plain: Template) -> None:
    plain.tokenizer.chat_template = None
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        Template(plain.tokenizer, apply_chat_template=True)
