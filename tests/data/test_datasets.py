"""Prompts, pairs and demonstrations from files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import stored

from rto.data.batches import OfflineBatches
from rto.data.examples import Example, Limit, collate_groups
from rto.data.loaders.demonstrations import load_examples, load_texts
from rto.data.loaders.pairs import load_pairs
from rto.data.loaders.prompts import load_prompts
from rto.data.storage.groups import split_by_prompt
from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.models.load import load_tokenizer
from rto.sections.data import Data
from rto.types import Role, ScoredBatch

FEEDBACK = [
    {
        "prompt": "w0",
        "responses": [
            {"text": "w1", "reward": 0},
            {"text": "w2", "reward": 2.5},
            {"text": "w3", "reward": 2.5},
            {"text": "w4", "reward": -1},
        ],
    },
    {"prompt": "w5", "responses": [{"text": "w6", "reward": 1.0}]},
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def template(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)))


def word(i: int) -> int:
    return i + 6


def test_prompts_keep_identity_label_and_source(template: Template, tmp_path: Path) -> None:
    rows = [{"input": f"w{i}", "answer": i} for i in range(3)]
    data = Data(prompt_dataset=[write(tmp_path / "p.jsonl", rows)], label_key="answer")
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=4, seed=0)
    assert [p.id for p in prompts] == [0, 1, 2]
    assert [p.token_ids for p in prompts] == [(word(0),), (word(1),), (word(2),)]
    assert [p.label for p in prompts] == ["0", "1", "2"]
    assert prompts[0].source == data.prompt_dataset[0]


def test_long_prompts_are_counted_or_refused(template: Template, tmp_path: Path) -> None:
    rows = [{"input": "w1 w2 w3"}, {"input": "w4 w5"}]
    path = write(tmp_path / "p.jsonl", rows)
    prompts = load_prompts(
        Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=2, seed=0
    )
    assert ([p.id for p in prompts], prompts.num_too_long) == ([1], 1)
    strict = Data(prompt_dataset=[path], on_long_prompt="error")
    with pytest.raises(UserError, match=r"1 prompts are longer than 2 tokens \(prompt 0 of .* 3\)"):
        load_prompts(strict, template.tokenizer, max_prompt_len=2, seed=0)
    with pytest.raises(UserError, match="all 2 prompts are longer than 1"):
        load_prompts(Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=1, seed=0)


@pytest.mark.parametrize("bad", [None, "", float("nan")])
def test_a_prompt_without_text(template: Template, tmp_path: Path, bad: object) -> None:
    path = write(tmp_path / "p.jsonl", [{"input": "w1"}, {"input": bad}])
    with pytest.raises(UserError, match=r"p.jsonl: row 1: 'input' is (missing|empty)"):
        load_prompts(Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=2, seed=0)


def test_a_prompt_that_becomes_no_token(template: Template, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"input": "w1"}, {"input": "<s>"}])
    with pytest.raises(UserError, match="p.jsonl: row 1: 'input' becomes no token"):
        load_prompts(Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=2, seed=0)
    for load in (load_examples, load_pairs):
        keys: dict[str, Any] = {"input_key": "input", "output_key": "input", "prompt_key": "input"}
        data = Data(dataset=[path], chosen_key="input", rejected_key="input", **keys)
        with pytest.raises(UserError, match="p.jsonl: row 1: 'input' becomes no token"):
            load(data, template, seed=0)


def test_no_dataset(template: Template) -> None:
    with pytest.raises(UserError, match="no prompts"):
        load_prompts(Data(), template.tokenizer, max_prompt_len=2, seed=0)
    with pytest.raises(UserError, match="no pairs"):
        load_pairs(Data(), template, seed=0)
    with pytest.raises(UserError, match="no rows"):
        load_examples(Data(), template, seed=0)


def test_feedback_as_prompts_pairs_and_demonstrations(template: Template, tmp_path: Path) -> None:
    data = Data(feedback=write(tmp_path / "f.jsonl", FEEDBACK))
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=4, seed=0)
    assert [p.text for p in prompts] == ["w0", "w5"]
    pairs = load_pairs(data, template, seed=0).pairs
    # best is w2; w3 ties with it; the lone response of row 1 has no counterpart
    got = [(p.chosen.response_ids[0], p.rejected.response_ids[0]) for p in pairs]
    assert got == [(word(2), word(1)), (word(2), word(4))]
    examples = load_examples(data, template, seed=0).examples
    assert [e.response_ids for (e,) in examples] == [(word(2), 2), (word(6), 2)]


@pytest.mark.parametrize("bad", ["NaN", "null", '"1.0"', "true", "1e999"])
def test_a_reward_that_is_no_number(template: Template, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "w1", "responses": [{"text": "w2", "reward": %s}]}\n' % bad)  # noqa: UP031
    with pytest.raises(UserError, match=r"f.jsonl"):
        load_pairs(Data(feedback=str(path)), template, seed=0)


def test_pairs_with_a_prompt_column(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w1", "chosen": "w2 w3", "rejected": "w4"}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)], prompt_key="q")
    (pair,) = load_pairs(data, template, seed=0).pairs
    assert pair.chosen == Example((word(1),), (word(2), word(3), 2), finished=True)
    assert pair.rejected == Example((word(1),), (word(4), 2), finished=True)


def test_pairs_of_message_lists(tiny_model_dir: Path, tmp_path: Path) -> None:
    chat = Template(load_tokenizer(str(tiny_model_dir)), apply_chat_template=True)
    turns = [{"role": "user", "content": "w1"}]
    a, b = ({"role": "assistant", "content": text} for text in ("w2", "w3"))
    path = write(tmp_path / "x.jsonl", [{"chosen": [*turns, a], "rejected": [*turns, b]}])
    (pair,) = load_pairs(Data(dataset=[path], apply_chat_template=True), chat, seed=0).pairs
    assert pair.chosen == Example((4, word(1), 5), (word(2), 2), finished=True)
    assert pair.rejected.response_ids == (word(3), 2)
    other = write(tmp_path / "y.jsonl", [{"chosen": [*turns, a], "rejected": [b, b]}])
    with pytest.raises(UserError, match="row 0: 'chosen' .*answer different prompts"):
        load_pairs(Data(dataset=[other]), chat, seed=0)


def test_pairs_of_whole_texts_split_at_the_first_difference(
    template: Template, tmp_path: Path
) -> None:
    rows = [{"chosen": "w1 w2 w3", "rejected": "w1 w2 w4 w5"}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)])
    (pair,) = load_pairs(data, template, seed=0).pairs
    assert pair.chosen == Example((word(1), word(2)), (word(3), 2), finished=True)
    assert pair.rejected == Example((word(1), word(2)), (word(4), word(5), 2), finished=True)
    same = write(tmp_path / "y.jsonl", [{"chosen": "w1", "rejected": "w1"}])
    with pytest.raises(UserError, match="y.jsonl: no pair .* 1 have equal chosen and rejected"):
        load_pairs(Data(dataset=[same]), template, seed=0)


def talk(*texts: str, last: str = "assistant") -> list[dict[str, str]]:
    roles = [*("user", "assistant") * len(texts)][: len(texts) - 1]
    told = zip([*roles, last], texts, strict=True)
    return [{"role": role, "content": text} for role, text in told]


@pytest.fixture
def chat(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)), apply_chat_template=True)


def test_turns_between_prompt_and_answer_are_part_of_the_prompt(
    chat: Template, tmp_path: Path
) -> None:
    sides = {"chosen": talk("w1", "w2", "w3", "w4"), "rejected": talk("w1", "w2", "w3", "w5")}
    path = write(tmp_path / "x.jsonl", [{"q": "w1", **sides}])
    (pair,) = load_pairs(Data(dataset=[path], prompt_key="q"), chat, seed=0).pairs
    # <user> w1 <assistant> w2 </s> <user> w3 <assistant>
    prompt = (4, word(1), 5, word(2), 2, 4, word(3), 5)
    assert pair.chosen == Example(prompt, (word(4), 2), finished=True)
    assert pair.rejected == Example(prompt, (word(5), 2), finished=True)
    sides["rejected"] = talk("w1", "w9", "w3", "w5")
    other = write(tmp_path / "y.jsonl", [{"q": "w1", **sides}])
    with pytest.raises(UserError, match="y.jsonl: row 0: 'chosen' .*answer different prompts"):
        load_pairs(Data(dataset=[other], prompt_key="q"), chat, seed=0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (talk("w2", "w3", last="user"), "message 1 is a turn of 'user'"),
        (talk(""), "message 0: content is empty"),
        ([], "is not a list of messages"),
        (None, "is missing"),
        (" ", "is empty"),
    ],
)
def test_an_answer_that_is_none_is_refused_alike(
    chat: Template, tmp_path: Path, answer: object, said: str
) -> None:
    path = write(tmp_path / "x.jsonl", [{"q": "w1", "chosen": "w2", "rejected": answer}])
    match = f"x.jsonl: row 0: 'rejected' {said}"
    with pytest.raises(UserError, match=match):
        load_pairs(Data(dataset=[path], prompt_key="q"), chat, seed=0)
    data = Data(dataset=[path], input_key="q", output_key="rejected")
    with pytest.raises(UserError, match=match):
        load_examples(data, chat, seed=0)


def test_demonstrations_may_be_answers_of_one_turn(chat: Template, tmp_path: Path) -> None:
    """A prompt column of messages beside a column of the answer's message."""
    rows = [{"q": talk("w1", last="user"), "a": talk("w2")}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)], input_key="q", output_key="a")
    ((example,),) = load_examples(data, chat, seed=0).examples
    assert example == Example((4, word(1), 5), (word(2), 2), finished=True)


@pytest.mark.parametrize("keyed", [True, False])
def test_equal_sides_are_dropped_and_counted(
    template: Template, tmp_path: Path, keyed: bool
) -> None:
    """With a prompt or as whole texts; cut to the same tokens, too."""
    sides = [("w2", "w2"), ("w2", "w3"), ("w4 w4 w4 w5", "w4 w4 w4 w6"), ("w2 </s>", "w2")]
    begin = "" if keyed else "w1 "
    rows = [{"q": "w1", "chosen": begin + a, "rejected": begin + b} for a, b in sides]
    path = write(tmp_path / "x.jsonl", rows)
    key = "q" if keyed else None
    found = load_pairs(Data(dataset=[path], prompt_key=key, max_len=4), template, seed=0)
    assert (len(found.pairs), found.num_equal) == (1, 3 if keyed else 2)
    assert found.num_too_long == (0 if keyed else 1)
    assert found.pairs[0].rejected.response_ids == (word(3), 2)


def test_a_whole_text_keeps_its_earlier_turns(template: Template, tmp_path: Path) -> None:
    """Of several ends in a text, the last one is the end."""
    rows = [{"input": "w1 w2 </s> w3 </s>\n"}, {"input": "<s> w4 </s> </s>"}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)])
    first, second = load_examples(data, template, seed=0).examples
    assert first == (Example((1,), (word(1), word(2), 2, word(3), 2), finished=True),)
    assert second == (Example((1,), (word(4), 2), finished=True),)


def test_a_cut_response_gets_no_eos() -> None:
    limit = Limit(max_len=4, on_long_prompt="filter")
    assert limit.example((7,), (8, 9), eos=2) == Example((7,), (8, 9, 2), finished=True)
    assert limit.example((7,), (8, 9, 10), eos=2) == Example((7,), (8, 9, 10), finished=False)
    assert limit.example((7,), (8, 9, 10, 11), eos=2) == Example((7,), (8, 9, 10), finished=False)


def test_prompt_and_response_apart() -> None:
    """5 tokens of which the prompt may have 2. A decoder's response takes what its prompt leaves,
    4 beside 1; a decoder of its own takes 5 - 2 = 3 whatever the prompt has."""
    data = Data(max_len=5, max_prompt_len=2)
    together, apart = (Limit.of(data, encoder_decoder=x) for x in (False, True))
    answer = (8, 9, 10, 11, 12)
    assert len(together.example((7,), answer, eos=2).response_ids) == 4
    assert len(together.example((7, 7), answer, eos=2).response_ids) == 3
    for prompt in ((7,), (7, 7)):
        assert apart.example(prompt, answer, eos=2).response_ids == (8, 9, 10)
        assert apart.example(prompt, answer[:2], eos=2).response_ids == (8, 9, 2)
    assert apart.admits((7, 7), Where("f", 0, "q"))
    assert not apart.admits((7, 7, 7), Where("f", 0, "q"))
    strict = replace(apart, on_long_prompt="error")
    with pytest.raises(UserError, match="has 3 tokens, data.max_prompt_len is 2: raise it"):
        strict.admits((7, 7, 7), Where("f", 0, "q"))


def test_stored_rows_keep_the_prompt_limit(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w1 w1", "a": "w2"}, {"q": "w1", "a": "w2"}]
    path = write(tmp_path / "x.jsonl", rows)
    data = Data(dataset=[path], input_key="q", output_key="a", max_len=8, max_prompt_len=1)
    found = load_examples(data, template, seed=0)
    assert (len(found.examples), found.num_too_long) == (1, 1)


def test_prompts_without_room_are_counted_or_refused(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w1 w1", "a": "w2"}, {"q": "w1", "a": "w2"}]
    path = write(tmp_path / "x.jsonl", rows)
    data = Data(dataset=[path], input_key="q", output_key="a", max_len=2)
    found = load_examples(data, template, seed=0)
    assert (len(found.examples), found.num_too_long) == (1, 1)
    strict = Data(dataset=[path], input_key="q", output_key="a", max_len=2, on_long_prompt="error")
    with pytest.raises(UserError, match="row 0: 'q' has 2 tokens, which leaves no room"):
        load_examples(strict, template, seed=0)


def test_whole_texts_start_from_bos_or_their_first_token(
    template: Template, tmp_path: Path
) -> None:
    data = Data(dataset=[write(tmp_path / "x.jsonl", [{"input": "w1 w2"}])])
    expected = Example((1,), (word(1), word(2), 2), finished=True)
    assert list(load_examples(data, template, seed=0).examples) == [(expected,)]
    assert list(load_texts(data.dataset[0], data, template)) == [(expected,)]
    template.tokenizer.bos_token = None
    assert list(load_examples(data, template, seed=0).examples) == [
        (Example((word(1),), (word(2), 2), finished=True),)
    ]


def pairs(count: int) -> list[tuple[Example, Example]]:
    return [
        (Example((1, i), (2 * i, 2), finished=True), Example((1, i), (2 * i + 1,), finished=False))
        for i in range(10, 10 + count)
    ]


def test_pairs_are_adjacent_rows_of_one_group() -> None:
    tokens = collate_groups(pairs(2), pad_token_id=0)
    assert tokens.group.tolist() == [0, 0, 1, 1]
    assert tokens.response_ids.tolist() == [[20, 2], [21, 0], [22, 2], [23, 0]]
    assert tokens.finished.tolist() == [True, False, True, False]
    assert tokens.response_mask.sum(-1).tolist() == [2, 1, 2, 1]


def steps(groups: list[tuple[Example, Example]], **extra: Any) -> list[tuple[int, list[int]]]:
    source = OfflineBatches(groups, batch_size=3, seed=5, epochs=2, pad_token_id=0, **extra)
    return [(step, batch.tokens.prompt_ids[::2, 1].tolist()) for step, batch in source]


def test_offline_batches_resume_anywhere() -> None:
    groups = pairs(10)
    full = steps(groups)
    assert [step for step, _ in full] == [0, 1, 2, 3, 4, 5]
    for start in range(7):
        assert steps(groups, start_step=start) == full[start:]
    assert steps(groups, max_steps=4) == full[:4]
    first, second = ([x for _, rows in part for x in rows] for part in (full[:3], full[3:]))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_offline_batches_are_scored() -> None:
    def score(tokens, rows):
        assert sorted(rows) == [0, 1, 2]
        return ScoredBatch(tokens, {Role.REWARD: tokens.lengths.float()})

    source = OfflineBatches(pairs(3), batch_size=3, seed=0, epochs=1, pad_token_id=0, score=score)
    ((_, batch),) = source
    assert torch.equal(batch[Role.REWARD], batch.tokens.lengths.float())
    with pytest.raises(UserError, match="a batch holds 4 rows, but the dataset has 3"):
        OfflineBatches(pairs(3), batch_size=4, seed=0, epochs=1, pad_token_id=0)


def test_the_split_keeps_a_prompt_on_one_side() -> None:
    groups = stored(pairs(20) + pairs(20))
    train, held_out = split_by_prompt(groups, ratio=0.25, seed=0)
    assert (len(train), len(held_out)) == (30, 10)
    assert not {g[0].prompt_ids for g in train} & {g[0].prompt_ids for g in held_out}
    with pytest.raises(UserError, match="leaves none to train on"):
        split_by_prompt(groups, ratio=1.0, seed=0)


def held_out_prompts(seed: int, *, ratio: float = 0.25, count: int = 20) -> list[tuple[int, ...]]:
    train, held_out = split_by_prompt(stored(pairs(count)), ratio=ratio, seed=seed)
    assert len(train) + len(held_out) == count
    return [group[0].prompt_ids for group in held_out]


def test_the_held_out_prompts_are_drawn_by_the_seed() -> None:
    """5 of 20: neither the first nor the last ones, and over the seeds each prompt has its turn
    (one is left out by 40 draws with a chance of 0.75^40, 1e-5)."""
    prompts = [group[0].prompt_ids for group in stored(pairs(20))]
    drawn = [held_out_prompts(seed) for seed in range(40)]
    assert drawn[3] == held_out_prompts(3)
    assert len({tuple(each) for each in drawn}) > 30
    assert prompts[:5] not in drawn
    assert prompts[-5:] not in drawn
    assert {prompt for each in drawn for prompt in each} == set(prompts)


@pytest.mark.parametrize(("ratio", "count"), [(0.13, 3), (0.12, 2)])
def test_the_share_of_the_prompts_is_rounded_to_the_nearest(ratio: float, count: int) -> None:
    """Of 20 prompts, 2.6 and 2.4."""
    assert len(held_out_prompts(0, ratio=ratio)) == count


def test_a_prompt_goes_with_all_its_rows_wherever_they_stand() -> None:
    """20 prompts in three rounds, so no prompt's rows are neighbours: of the groups, none is lost
    or doubled, and both sides keep the order of the file."""
    rounds = [(pair[0], replace(pair[1], finished=False)) for pair in pairs(20)]
    groups = stored([*pairs(20), *rounds, *pairs(20)])
    train, held_out = split_by_prompt(groups, ratio=0.25, seed=5)
    sides = [[group[0].prompt_ids for group in side] for side in (train, held_out)]
    assert not set(sides[0]) & set(sides[1])
    assert [len(side) for side in sides] == [45, 15]
    assert all(Counter(side) == dict.fromkeys(side, 3) for side in sides)
    for side in (train, held_out):
        assert side.numbers.tolist() == sorted(side.numbers.tolist())
    assert sorted([*train.numbers, *held_out.numbers]) == list(range(60))


def test_a_larger_share_holds_out_the_same_prompts_and_more() -> None:
    assert set(held_out_prompts(0, ratio=0.25)) < set(held_out_prompts(0, ratio=0.5))


@pytest.mark.parametrize(("min_train", "held_out"), [(1, 2), (6, 2), (7, 0)])
def test_a_share_of_few_rows_is_one_prompt_where_training_can_spare_it(
    min_train: int, held_out: int
) -> None:
    # 5 % of four prompts rounds to none; each has two of the eight rows.
    groups = stored(pairs(4) + pairs(4))
    train, rest = split_by_prompt(groups, ratio=0.05, seed=0, min_train=min_train)
    assert (len(train), len(rest)) == (8 - held_out, held_out)
