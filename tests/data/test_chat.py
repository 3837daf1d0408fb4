"""Chat templates as people have them: foreign code, whose rendering is compared with the texts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tiny_tokenizers import CHAT_TEMPLATE, tiny_config, tiny_tokenizer

from rto.data.chat import Where, lost_turn
from rto.data.templates import Template, check_messages, load_template
from rto.errors import UserError
from rto.models.load import load_tokenizer
from rto.sections.data import Data

HERE = Where("f.jsonl", 3, "input")
LOOP = (
    "{% for m in messages %}<{{ m.role }}>BODY{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NESTED = "{% for i in range(99999) %}{% for j in range(99999999) %}x{% endfor %}{% endfor %}"


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(texts)
    told = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return told if system is None else [{"role": "system", "content": system}, *told]


def chat(template: str | dict[str, str]) -> Template:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return Template(tokenizer, apply_chat_template=True)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ [][3].x }}", "UndefinedError"),
        ("{{ tools | length }}", "TypeError"),
        ("{{ messages[0]['content'].encode('ascii').nope() }}", "UndefinedError"),
        ("{{ '%d' % 'x' }}", "TypeError"),
        ("{{ strftime_now(3) }}", "TypeError"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        (NESTED, "OverflowError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
    ],
)
def test_whatever_a_template_raises_is_one_line_with_row_and_remedy(code: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        chat(code).prompt("w1", HERE)
    line = str(caught.value)
    assert line.startswith("f.jsonl: row 3: 'input' does not go through the chat template of ")
    assert said in line
    assert line.endswith("repair the row, or choose another template with data.chat_template")
    assert "\n" not in line


def test_a_template_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr("rto.data.chat.RENDER_SECONDS", 0.05)
    endless = NESTED.replace("99999999", "99999")
    with pytest.raises(UserError, match="TimeoutError: not done after 0.05 s; repair the row"):
        chat(endless).prompt("w1", HERE)
    assert signal.getsignal(signal.SIGALRM) is before


def test_null_keys_are_absent_ones() -> None:
    body = "{{ m.content }}{% if 'tool_calls' in m %}{{ m.tool_calls | length }}{% endif %}"
    template = chat(LOOP.replace("BODY", body))
    message = {"role": "user", "content": "w1", "tool_calls": None}
    assert template.prompt([message], HERE) == "<user>w1<assistant>"
    nested = {"role": "user", "content": "w1", "tool_calls": [{"id": None, "name": "f"}]}
    assert check_messages([nested], HERE) == [{**nested, "tool_calls": [{"name": "f"}]}]


PARTS = LOOP.replace("BODY", "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}")
STRICT_PARTS = LOOP.replace("BODY", "{{ m.content[0]['text'].strip() }}")


@pytest.mark.parametrize("template", [PARTS, STRICT_PARTS])
def test_a_template_for_content_parts_is_given_parts(template: str) -> None:
    """One skips strings silently, the other fails on them."""
    found = chat(template)
    assert found.prompt("w1 w2", HERE) == "<user>w1 w2<assistant>"
    assert found.response("w1", "w3", HERE) == "w3"


def test_texts_in_parts_are_texts() -> None:
    parts = [{"type": "text", "text": "w1", "image": None}, {"type": "text", "text": " w2"}]
    found = chat(CHAT_TEMPLATE)
    assert found.prompt([{"role": "user", "content": parts}], HERE) == "<user> w1 w2\n<assistant>"
    image = [{"type": "image", "url": "x"}, *parts]
    with pytest.raises(UserError, match="row 3: 'input' message 0: content is not text"):
        found.prompt([{"role": "user", "content": image}], HERE)


SKIPS = LOOP.replace("in messages", "in messages if m.role in ('user', 'assistant')")
SKIPS = SKIPS.replace("BODY", "{{ m.content }}")
LAST_ONLY = "{{ messages[-1].content }}"


@pytest.mark.parametrize(
    ("template", "messages", "lost"),
    [
        (SKIPS, turns("w1", system="be brief"), r"message 0 \(system: 'be brief'\)"),
        (LAST_ONLY, turns("w1", "w2", "w3"), r"message [01]"),
        # the same text twice is rendered once
        (LAST_ONLY, turns("w1", "w2 w2", "w1"), r"message [012]"),
        ("<user>{{ messages[0].content[:4] }}", turns("a long question"), "message 0"),
    ],
)
def test_a_turn_that_is_not_rendered_is_refused(
    template: str, messages: list[dict[str, str]], lost: str
) -> None:
    with pytest.raises(UserError, match=f"f.jsonl: row 3: 'input' {lost}.* lost or changed"):
        chat(template).prompt(messages, HERE)


def test_an_answer_that_is_not_rendered_whole_is_refused() -> None:
    drops = LOOP.replace("BODY", "{{ m.content.split('</think>')[-1] }}")
    found = chat(drops)
    with pytest.raises(UserError, match="row 3: 'input' has the answer '<think>w2</think> w3', of"):
        found.response("w1", "<think>w2</think> w3", HERE)
    told = turns("w1", "<think>w2</think> w3", "w4")
    assert found.prompt(told, HERE) == "<user>w1<assistant> w3<user>w4<assistant>"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (turns("  hi\n there "), "<user>hi there"),
        (turns("q", "[THINK]a[/THINK]b", "r"), "q|b|r"),
        (turns("q", "a</think>b", "r"), "q|b|r"),
        (turns("q", "<Thinking>x\ny</Thinking>b<thinking>z</thinking>c", "r"), "q|bc|r"),
        # Mistral's place for the system turn
        (turns("q", "a", "r", system="s"), "q|a|s r"),
        ([{"role": "tool", "content": 'say "é"'}], r'"say \"é\""'),
        (turns("", system=""), "<user>"),
    ],
)
def test_what_templates_may_do_with_a_text(messages: list[dict[str, str]], text: str) -> None:
    assert lost_turn(messages, text) is None


def test_the_users_reasoning_is_text() -> None:
    assert lost_turn(turns("<think>a</think>b"), "b") == 0


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set talk = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set talk = messages %}"
    "{% set system = false %}{% endif %}{% for m in talk %}"
    "{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<user>' + role + '\\n' + m['content'] | trim + ' </s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<user>model\\n' }}{% endif %}"
)
THINKING = (
    "{%- for m in messages %}{%- set said = m.content %}"
    "{%- if m.role == 'assistant' and not loop.last and '</think>' in said %}"
    "{%- set said = said.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<user>' + m.role + '\\n' + said + '</s>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<user>assistant\\n' }}{%- endif %}"
)


@pytest.mark.parametrize("template", [MISTRAL, LLAMA_2, GEMMA, THINKING])
def test_templates_of_well_known_models(template: str) -> None:
    found = chat(template)
    told = turns(" w1 ", "<think>w2</think>\n\nw3", "w4")
    assert all(word in found.prompt(told, HERE) for word in ("w1", "w3", "w4"))
    assert found.encode_response(told, "w5 w6", HERE) == ((11, 12), 2)
    assert found.encode_response(turns("w1"), "w5", HERE) == ((11,), 2)
    assert found.eos_token_id == 2


@pytest.mark.parametrize(
    ("template", "said"), [(MISTRAL, "must alternate"), (GEMMA, "System role not supported")]
)
def test_a_system_turn_for_models_without_one(template: str, said: str) -> None:
    with pytest.raises(UserError, match=f"f.jsonl: row 3: 'input' does not go .*{said}"):
        chat(template).prompt(turns("w1", system="w2"), HERE)
    assert "w2" in chat(LLAMA_2).prompt(turns("w1", system="w2"), HERE)


NAMED = {"tool_use": CHAT_TEMPLATE, "rag": "{{ messages[0].content }}"}


def test_several_templates_need_a_choice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"choose one with data.chat_template \(rag, tool_use\)"):
        chat(NAMED)
    assert chat({**NAMED, "default": "{{ messages[0].content }}"}).prompt("w1", HERE) == "w1"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = NAMED
    tiny_config().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = str(tmp_path)
    assert load_tokenizer(path, chat_template="rag").chat_template == NAMED["rag"]
    own = tmp_path / "own.jinja"
    own.write_text("mine", encoding="utf-8")
    assert load_tokenizer(path, chat_template=str(own)).chat_template == "mine"
    own.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="own.jinja: cannot be read: UnicodeDecodeError"):
        load_tokenizer(path, chat_template=str(own))
    with pytest.raises(UserError, match="data.chat_template rga: no such file.* rag, tool_use"):
        load_tokenizer(path, chat_template="rga")


def test_a_choice_that_is_not_applied_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(CHAT_TEMPLATE, encoding="utf-8")
    data = Data(chat_template=str(own))
    assert load_template(str(tiny_model_dir), data).apply_chat_template
    with pytest.raises(UserError, match="switch data.apply_chat_template on"):
        load_template(str(tiny_model_dir), data, chat=False)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("{{ m.content }}</s>\n", 2),
        ("{{ m.content }}<pad>\n</s>", 0),
        ("{{ m.content }} .\n", None),
        ("{{ m.content }} w1\n<s>", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_the_token_behind_an_answer(body: str, end: int | None) -> None:
    found = chat(LOOP.replace("BODY", body))
    assert found._own_chat.turn_end == end
    assert found.eos_token_id == (2 if end is None else end)


def test_a_role_that_nobody_knows() -> None:
    with pytest.raises(UserError, match="row 3: 'input' message 0: role is 'wizard': one of"):
        chat(CHAT_TEMPLATE).prompt([{"role": "wizard", "content": "w1"}, *turns("w2")], HERE)


def test_words_that_a_template_joins_are_changed() -> None:
    assert lost_turn(turns("hi there"), "<user>hithere") == 0
    assert lost_turn(turns("hi\n\nthere"), "<user>hi there") is None
