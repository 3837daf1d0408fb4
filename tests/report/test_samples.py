"""Which responses are shown, and the scores of their tokens."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from rto.errors import UserError
from rto.report.collect import RunRecord, read_run
from rto.report.samples import (
    MAX_TOKENS,
    Before,
    Response,
    choose,
    clean,
    find_tokenizer,
    first_and_last,
    pieces,
    read_response,
    spread,
)
from rto.tracking.rollout_read import read_rollouts
from rto.tracking.rollout_write import rollout_columns, write_rollouts
from rto.types import Prompt, Role, Rollout, ScoredBatch, collate, logprob_array, token_array
from run_folders import rollout, write_iteration, write_run, write_tokenizer


def test_what_the_tracker_writes_is_read_back(tmp_path: Path) -> None:
    """log pi_dpo / pi_ref is -1 + 1.5 and -2 + 1; the padding of the shorter row is not there."""
    prompt = Prompt(id=3, token_ids=(1,), text="ask")
    rollouts = [
        Rollout(
            prompt, i, token_array(ids), logprob_array([-1.0] * len(ids)), "answer", i == 0, 0, 7
        )
        for i, ids in enumerate([(5, 2), (5,)])
    ]
    scores = {
        Role.DPO: torch.tensor([[-1.0, -2.0], [-1.0, 99.0]]),
        Role.REFERENCE: torch.tensor([[-1.5, -1.0], [-1.5, 99.0]]),
        Role.CRITIC: torch.tensor([[1.0, 2.0], [3.0, 99.0]]),
        Role.REWARD: torch.tensor([0.5, 1.5]),
    }
    batch = ScoredBatch(collate(rollouts, pad_token_id=0), scores)
    write_rollouts(tmp_path / "a.parquet", rollout_columns(rollouts, batch))
    first, second = (read_response(row, 1) for row in read_rollouts(tmp_path / "a.parquet"))
    assert first.tokens == {"dpo": [0.5, -1.0], "value": [1.0, 2.0]}
    assert first.scores == {
        "reward": 0.5,
        "DPO reward": -0.5,
        "log π dpo": -3.0,
        "log π reference": -2.5,
        "mean value": 1.5,
    }
    assert (first.finished, second.finished) == (True, False)
    assert (second.tokens["dpo"], second.length, second.ids) == ([0.5], 1, (5,))


def test_dpos_own_reference_comes_before_the_kl_reference() -> None:
    row = rollout(0, "p", "r", 1.0)
    row["scores"]["dpo_reference"] = {"tokens": [-3.0, -3.0], "sum": -6.0}
    assert read_response(row, 1).tokens["dpo"] == [2.0, 2.0]
    assert read_response(rollout(0, "p", "r", 1.0), 1).tokens["dpo"] == [0.5, 0.5]


def test_a_long_response_is_cut_and_keeps_its_length_and_sums() -> None:
    found = read_response(rollout(0, "p", "r", 1.0, ids=[1] * (MAX_TOKENS + 5)), 1)
    assert (len(found.ids), len(found.tokens["dpo"])) == (MAX_TOKENS, MAX_TOKENS)
    assert (found.length, found.scores["DPO reward"]) == (MAX_TOKENS + 5, 0.5 * (MAX_TOKENS + 5))


def test_first_beside_last_of_each_prompt(tmp_path: Path) -> None:
    """Prompt 0 comes back in the last iteration, 1 in the one before, 2 and 3 never."""
    for iteration, prompts in enumerate([(0, 1, 2), (1,), (0, 3)]):
        rows = [rollout(p, f"prompt {p}", f"{p} at {iteration}", 0.0) for p in prompts]
        write_iteration(tmp_path, iteration, rows)
    run = RunRecord("run", tmp_path)
    found = {text: _texts(pair) for text, pair in first_and_last(run).items()}
    assert found == {
        "prompt 0": ("0 at 0", "0 at 2"),
        "prompt 1": ("1 at 0", "1 at 1"),
        "prompt 2": ("2 at 0", None),
        "prompt 3": ("3 at 2", None),
    }
    unsearched = first_and_last(run, scan_bytes=0)
    assert _texts(unsearched["prompt 1"]) == ("1 at 0", None)
    assert _texts(unsearched["prompt 0"]) == ("0 at 0", "0 at 2")


def _texts(pair: Before) -> tuple[str, str | None]:
    return pair.first.text, None if pair.last is None else pair.last.text


def test_a_run_without_rollouts_has_no_samples(tmp_path: Path) -> None:
    assert first_and_last(RunRecord("run", tmp_path)) == {}
    write_iteration(tmp_path, 0, [rollout(0, "p", "r", 0.0)])
    assert [_texts(pair) for pair in first_and_last(RunRecord("run", tmp_path)).values()] == [
        ("r", None)
    ]


def test_prompts_that_compare_most_come_first_then_a_spread_of_rewards() -> None:
    def answer(text: str, reward: float) -> Before:
        return Before(read_response(rollout(0, text, "r", reward), 1))

    a = {f"p{i}": answer(f"p{i}", float(i)) for i in range(5)}
    b = {"p3": answer("p3", 0.0)}
    assert choose([a, b], count=4, tokens=1000) == ["p3", "p0", "p2", "p4"]
    assert choose([a, b], count=4, tokens=6) == ["p3", "p0"]
    assert choose([a], count=4, tokens=0) == ["p0"]
    assert choose([{}], count=4, tokens=1000) == []


def test_the_last_iterations_strongest_token_rewards_come_first() -> None:
    """The rest of the folder is as strong, or stronger, and older."""

    def answer(text: str, iteration: int, size: float) -> Response:
        row = rollout(0, text, "r", 0.0)
        row["scores"]["dpo"]["tokens"] = [-1.5 - size, -1.5]
        return read_response(row, iteration)

    found = {
        "old": Before(answer("old", 1, 9.0)),
        "weak": Before(answer("weak", 1, 8.0), answer("weak", 3, 0.5)),
        "strong": Before(answer("strong", 3, 2.0)),
    }
    assert choose([found], count=3, tokens=1000) == ["strong", "weak", "old"]
    assert choose([found], count=1, tokens=1000) == ["strong"]


def test_without_dpo_rewards_the_other_token_scores_tell_which_are_strong() -> None:
    def answer(text: str, size: float) -> Before:
        row = rollout(0, text, "r", 0.0)
        del row["scores"]["dpo"]
        row["scores"]["policy"]["tokens"] = [-1.5 + size, -1.5]
        return Before(read_response(row, 1))

    found = {"weak": answer("weak", 0.5), "strong": answer("strong", -2.0)}
    assert choose([found], count=2, tokens=1000) == ["strong", "weak"]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "c"), (2, "ae"), (3, "ace"), (5, "abcde"), (9, "abcde")]
)
def test_spread_holds_both_ends(count: int, expected: str) -> None:
    assert "".join(spread("abcde", count)) == expected


def test_control_characters_become_visible_and_text_is_cut() -> None:
    assert clean("a\x1b\u202e\n", 10) == "a\\x1b\\u202e\n"
    assert clean("abcdef", 4) == "abcd … (2 more characters)"


def test_token_texts_join_to_the_text(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    ids = tokenizer.encode("a b c", add_special_tokens=False).ids
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=False)
    run = RunRecord("run", tmp_path, config={"actor.model_name_or_path": str(tiny_model_dir)})
    assert find_tokenizer(run) is not None
    assert find_tokenizer(RunRecord("run", tmp_path)) is None
    write_tokenizer(tmp_path / "last")
    assert pieces(_found(RunRecord("run", tmp_path)), [1, 3]) == ["one", " </script>"]


def _found(run: RunRecord) -> Tokenizer:
    tokenizer = find_tokenizer(run)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize(
    "content",
    [b"x", gzip.compress(b"{"), gzip.compress(b'{"prompt": "p"}')],
    ids=["no gzip", "no json", "no response"],
)
def test_a_damaged_rollout_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    run = read_run(write_run(tmp_path / "a", iterations=2), "a")
    (run.path / "rollouts" / "iter_000001.jsonl.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"iter_000001.jsonl.gz.*remove the file") as caught:
        first_and_last(run)
    assert "\n" not in str(caught.value)
