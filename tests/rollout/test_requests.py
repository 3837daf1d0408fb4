"""The settings of one call to an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from rto.errors import UserError
from rto.rollout.requests import Sample, Sampling, in_parts
from rto.sections.ranges import check_tree
from rto.sections.runtime import Decoding, Generate
from rto.types import logprob_array, token_array


def test_a_call_has_the_settings_of_the_command() -> None:
    chosen = Generate(
        temperature=0.3, top_p=0.9, top_k=50, min_p=0.1, repetition_penalty=1.2,
        no_repeat_ngram_size=3, max_new_tokens=7, stop=["x", "y"],
    )  # fmt: skip
    assert Sampling.of(chosen) == Sampling(7, 0.3, 0.9, 50, 0.1, 1.2, 3, ("x", "y"))
    of_the_model = {"stop_token_ids"}
    assert {f.name for f in dataclasses.fields(Sampling)} - of_the_model == {
        f.name for f in dataclasses.fields(Decoding)
    }


def test_a_text_ends_where_the_first_of_the_stop_texts_begins() -> None:
    sampling = Sampling(1, stop=("b", "ca"))
    assert sampling.until_stop("accab") == "ac"
    assert sampling.until_stop("acc") == "acc"
    assert Sampling(1).until_stop("acb") == "acb"


def test_vllm_has_no_ban_of_ngrams() -> None:
    Sampling(1, repetition_penalty=1.2).check_vllm()
    with pytest.raises(UserError, match="no_repeat_ngram_size is 3: vLLM has no such setting"):
        Sampling(1, no_repeat_ngram_size=3).check_vllm()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temperature", -0.1, "must be 0, or at least 0.01 and at most 100"),
        ("temperature", 0.001, "must be 0, or at least 0.01 and at most 100"),
        ("temperature", float("nan"), "must be a number: 0, or at least 0.01 and at most 100"),
        ("top_p", 0, "must be above 0 and at most 1"),
        ("top_p", 1.1, "must be above 0 and at most 1"),
        ("top_k", -1, "must be 0 or more"),
        ("min_p", -0.1, "must be at least 0 and at most 1"),
        ("repetition_penalty", 0, "must be at least 0.01 and at most 100"),
        ("repetition_penalty", float("inf"), "must be less than 3.4e+38"),
        ("no_repeat_ngram_size", -1, "must be 0 or more"),
        ("max_new_tokens", 0, "must be 1 or more"),
        ("stop", ["a", ""], "must be a list of texts"),
    ],
)
def test_ranges(name: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_tree(Generate(**{name: value}), "generate.")  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == f"generate.{name} is {value!r}: {said}"


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.9), ("top_k", 5), ("min_p", 0.1)])
def test_greedy_decoding_has_no_truncation(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"generate.{name} is {value} and generate.temperature 0"):
        check_tree(
            Generate(**{"temperature": 0, name: value}),  # pyright: ignore[reportArgumentType]
            "generate.",
        )


def sample(number: int) -> Sample:
    return Sample(token_array([number]), logprob_array([0.0]), str(number), True)


def test_samples_are_handed_on_by_part_as_soon_as_all_of_it_are_there() -> None:
    """A part of nothing is there when the ones before it are."""
    ended = list[int]()

    def finished(*rows: int) -> Iterator[tuple[int, Sample]]:
        for row in rows:
            ended.append(row)
            yield row, sample(row)

    seen = [
        ([each.text for each in part], list(ended))
        for part in in_parts(finished(1, 3, 0, 4, 2), [2, 0, 1, 2])
    ]
    assert seen == [
        (["0", "1"], [1, 3, 0]),
        ([], [1, 3, 0]),
        (["2"], [1, 3, 0, 4, 2]),
        (["3", "4"], [1, 3, 0, 4, 2]),
    ]
