from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import bos_tokenizer, piece_tokenizer, tiny_t5_tokenizer, tiny_tokenizer

from rto.data.templates import Template, Where, load_template
from rto.errors import UserError
from rto.models.load import generation_stops, load_tokenizer
from rto.sections.data import Data
from rto.sections.ranges import check_tree

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


def spelt(template: Template, *parts: tuple[int, ...]) -> str:
    ids = [token for part in parts for token in part]
    return "".join(template.tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("apply_chat_template", [False, True])
@pytest.mark.parametrize("answer", ["yes no", " yes", "in"])
def test_prompt_and_response_spell_the_conversation(apply_chat_template: bool, answer: str) -> None:
    """A tokenizer that puts a space before every text puts none at the seam."""
    template = Template(piece_tokenizer(), apply_chat_template=apply_chat_template)
    prompt, response = template.prompt("hi", HERE), template.response("hi", answer, HERE)
    text = f"[in] hi [/in] {answer}" if apply_chat_template else f"hi{answer}"
    apart = spelt(template, template.prompt_ids(prompt), template.response_ids(response))
    assert apart == "<s>" + f" {text}".replace(" ", "▁")


def test_a_whole_text_begins_as_the_tokenizer_has_it() -> None:
    template = Template(piece_tokenizer())
    assert spelt(template, template.text_ids("hi")) == "▁hi"
    assert spelt(template, template.whole_ids("hi")) == "<s>▁hi"


@pytest.mark.parametrize(
    ("text", "ids"),
    [("w1", (1, 7)), ("<s> w1", (1, 7)), ("<s> <s> w1", (1, 7)), ("w1 <s>", (1, 7, 1))],
)
def test_bos_begins_a_prompt_once(text: str, ids: tuple[int, ...]) -> None:
    assert Template(bos_tokenizer()).prompt_ids(text) == ids


def test_bos_of_a_chat_template() -> None:
    """A template that writes BoS, rendered here or beforehand; and one that writes none."""
    own, plain = Template(bos_tokenizer(), apply_chat_template=True), Template(bos_tokenizer())
    text = own.prompt("w1", HERE)
    assert text == "<s><user> w1\n<assistant>"
    assert own.prompt_ids(text) == plain.prompt_ids(text) == (1, 4, 7, 5)
    for template in (own, plain):
        template.tokenizer.chat_template = str(tiny_tokenizer().chat_template)
    own, plain = Template(own.tokenizer, apply_chat_template=True), Template(plain.tokenizer)
    text = own.prompt("w1", HERE)
    assert own.prompt_ids(text) == plain.prompt_ids(text) == (4, 7, 5)
    assert plain.prompt_ids("w1") == (1, 7)


def test_an_eos_that_the_tokenizer_adds_to_each_text() -> None:
    """It closes what an encoder reads, and no prompt that goes on; one that was written stays."""
    tokenizer = tiny_t5_tokenizer()
    assert Template(tokenizer, encoder_decoder=True).prompt_ids("w1") == (4, 1)
    assert Template(tokenizer).prompt_ids("w1") == (4,)
    assert Template(tokenizer).prompt_ids("w1 </s>") == (4, 1)
    assert Template(tiny_tokenizer()).prompt_ids("w1 </s>") == (7, 2)


@pytest.mark.parametrize("make", [tiny_tokenizer, bos_tokenizer])
@pytest.mark.parametrize("apply_chat_template", [False, True])
def test_texts_that_become_no_token(make: Any, apply_chat_template: bool) -> None:
    """A zero-width space is text to Python and nothing to many tokenizers."""
    from tokenizers import normalizers

    tokenizer = make()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    template = Template(tokenizer, apply_chat_template=apply_chat_template)
    with pytest.raises(UserError, match="f.jsonl: row 3: 'input' becomes no token of"):
        template.encode_prompt("\u200b", HERE)
    with pytest.raises(UserError, match="row 3: 'input' has an answer that becomes no token"):
        template.encode_response("w1", "\u200b", HERE)
    assert len(template.encode_prompt("nobody knows w1", HERE)) >= 3


def test_a_response_ends_as_it_is_written_to() -> None:
    template = Template(tiny_tokenizer(), stops=(0,))
    assert template.encode_response("w1", "w2 w3", HERE) == ((8, 9), 2)
    assert template.encode_response("w1", "w2 <pad>\n</s>", HERE) == ((8,), 0)
    with pytest.raises(UserError, match="row 3: 'input' has an answer that holds </s>, which ends"):
        template.encode_response("w1", "w2 </s> w3", HERE)


TURN = "{% for m in messages %}<user> {{ m.content }} <pad>\n{% endfor %}"


def test_the_chat_templates_end_of_turn_is_the_one_end() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TURN
    template = Template(tokenizer, apply_chat_template=True, stops=(3, 2))
    assert template.eos_token_id == 0
    assert template.stop_token_ids == (0, 2, 3)
    assert template.said_ends == (
        "a response ends with <pad> (the chat template's end of turn); sampling stops at </s>, "
        "<unk> too (chat template, tokenizer, generation config)"
    )
    tokenizer.chat_template = TURN.replace("<user> {{", "{{")
    assert Template(tokenizer, apply_chat_template=True).encode_response("w1", "w2", HERE) == (
        (8,),
        0,
    )
    plain = Template(tokenizer)
    assert (plain.eos_token_id, plain.stop_token_ids) == (2, (2, 0))
    tokenizer.chat_template = None
    assert Template(tokenizer, stops=(2,)).said_ends is None


@pytest.mark.parametrize(
    ("written", "stops"),
    [(None, (2,)), ([2, 0], (2, 0)), (0, (0,)), ("missing", ())],
)
def test_the_ends_of_the_generation_config(
    tiny_model_dir: Path, tmp_path: Path, written: object, stops: tuple[int, ...]
) -> None:
    """Without the file config.json has them, as transformers reads it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    file = folder / "generation_config.json"
    if written is None:
        file.unlink()
    else:
        file.write_text(json.dumps({} if written == "missing" else {"eos_token_id": written}))
    assert generation_stops(str(folder)) == stops
    assert load_template(str(folder), Data()).stops == stops


@pytest.mark.parametrize("content", ["{", '{"eos_token_id": "two"}', "[]", '{"eos_token_id": -1}'])
def test_a_damaged_generation_config(tiny_model_dir: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match="generation.config"):
        generation_stops(str(folder))


def test_the_rpo_authors_format() -> None:
    """``prompt : q [SEP] response : r``, split where the response begins."""
    tokenizer = tiny_tokenizer()
    template = Template(tokenizer, input_template="rpo_authors")
    prompt, response = template.prompt("q", HERE), template.response("q", "r", HERE)
    assert prompt + response == "prompt : q [SEP] response : r"
    assert response == " r"
    reader = Template(tokenizer, input_template="rpo_authors", encoder_decoder=True)
    assert reader.prompt("q", HERE) == "prompt : q [SEP] response :"
    assert reader.response("q", "r", HERE) == "r"
    Data(input_template="rpo_authors")
    with pytest.raises(UserError, match="needs one {} for the prompt, or is one of rpo_authors"):
        check_tree(Data(input_template="rpo_author"))


def test_an_end_that_is_no_token(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A generation config of another model."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 99999]}))
    with pytest.raises(UserError, match=r"model: eos_token_id of its generation config has 99999,"):
        load_template(str(folder), Data())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", [tiny_tokenizer, bos_tokenizer, piece_tokenizer])
def test_a_prompt_is_cut_as_its_tokenizer_truncates(make: Any, side: str) -> None:
    template = Template(make())
    template.tokenizer.truncation_side = side
    text = "[in] in [in] in" if make is piece_tokenizer else "w1 w2 w3 w4 w5"
    whole = template.prompt_ids(text)
    for size in range(2, len(whole) + 2):
        truncated = template.tokenizer(text, truncation=True, max_length=size)["input_ids"]
        cut = template.cut_prompt(whole, size)
        assert list(cut) == truncated
        left = template.cut_text(text, cut)
        assert text.endswith(left) if side == "left" else text.startswith(left)
        assert len(left) == len(text) or size < len(whole)


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_encoder_reads_the_end_of_a_cut_prompt(side: str) -> None:
    template = Template(tiny_t5_tokenizer(), encoder_decoder=True)
    template.tokenizer.truncation_side = side
    text = "w1 w2 w3 w4"
    for size in (2, 3, 4):
        truncated = template.tokenizer(text, truncation=True, max_length=size)["input_ids"]
        cut = template.cut_prompt(template.prompt_ids(text), size)
        assert list(cut) == truncated
        assert cut[-1] == template.tokenizer.eos_token_id
        assert template.prompt_ids(template.cut_text(text, cut)) == cut


def test_the_first_tokens_of_a_chat_prompt(chat: Template) -> None:
    """As OpenRLHF cuts a rendered prompt: without the marker of the answer."""
    text = chat.prompt("w1 w2 w3", HERE)
    ids = chat.prompt_ids(text)
    truncated = chat.tokenizer(text, add_special_tokens=False, truncation=True, max_length=3)
    assert list(chat.cut_prompt(ids, 3)) == truncated["input_ids"] == list(ids[:3])
