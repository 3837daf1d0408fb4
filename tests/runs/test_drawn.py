from __future__ import annotations

from pathlib import Path

from sampled import values

from rto.runs.drawn import FILE, read_drawn, write_drawn
from rto.types import Prompt, Rollout, logprob_array, token_array

PLAIN = Prompt(3, (1, 70_000), "a question", source="rows.jsonl:4")
ODD = Prompt(-1, (2,), "half a character: \ud83d", label="42")


def response(prompt: Prompt, sample_index: int, logprob: float) -> Rollout:
    return Rollout(
        prompt=prompt,
        sample_index=sample_index,
        token_ids=token_array([5, 151_935]),
        sampler_logprobs=logprob_array([logprob, -0.0]),
        text="größer\n",
        finished=sample_index == 0,
        policy_version=12,
        seed=2**63 - 1,
    )


def test_responses_are_read_as_they_were_written(tmp_path: Path) -> None:
    drawn = [
        [response(PLAIN, 0, -0.1), response(PLAIN, 1, -1 / 3)],
        [response(ODD, 0, -1e-38)],
    ]
    write_drawn(tmp_path, drawn)
    assert [values(each) for each in read_drawn(tmp_path)] == [values(each) for each in drawn]


def test_where_nothing_waits_there_is_no_file(tmp_path: Path) -> None:
    write_drawn(tmp_path, [])
    assert not (tmp_path / FILE).exists()
    assert read_drawn(tmp_path) == []
