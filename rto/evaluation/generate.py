"""Prompts of `rto generate`, and a model's responses to them, on an engine in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rto.data.templates import Where, load_template
from rto.evaluation.questions import Question, load_questions, rendered
from rto.models.device import with_dtype
from rto.models.load import load_config
from rto.models.rope import max_positions
from rto.rollout.engine import EngineName, alone, build_engine, settled
from rto.rollout.requests import Sample, SampleRequest, Sampling
from rto.rollout.seeds import request_seed
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.tracking.run_folder import write_atomic


@dataclass(frozen=True)
class Questions:
    """The prompts as they were asked, and as the model reads them (``texts``, ``token_ids``);
    ``engine`` samples; ``stops`` end a response; ``max_len`` bounds prompt plus response, in
    tokens."""

    model: str
    asked: Sequence[Question]
    texts: Sequence[str]
    token_ids: Sequence[tuple[int, ...]]
    chat_template: bool
    engine: EngineName
    stops: tuple[int, ...]
    max_len: int


def prepare(model: str, config: RunConfig) -> Questions:
    """The prompts of ``config``, rendered and tokenised for ``model``.

    Raises:
        UserError: a prompt is empty or fills the model's context.
    """
    template = load_template(model, config.data)
    options = config.generate
    vllm = settled(config.vllm, model, encoder_decoder=template.encoder_decoder)
    if vllm.engine == "vllm":
        Sampling.of(options).check_vllm()
    source = options.prompts or "--prompt"
    asked = questions_of(config)
    places = [Where(source, question.row, "prompt") for question in asked]
    texts = [
        rendered(question, (), template, source)
        if options.prompts
        else template.prompt(question.turns[0], place)
        for question, place in zip(asked, places, strict=True)
    ]
    token_ids = [
        template.demand_tokens(template.prompt_ids(text), place)
        for text, place in zip(texts, places, strict=True)
    ]
    longest = max(map(len, token_ids))
    context = max_positions(load_config(model)) or longest + options.max_new_tokens
    require(
        longest < context,
        f"{source}: {longest} tokens fill the context of {model}, which is {context}",
    )
    return Questions(
        model=model,
        asked=asked,
        texts=texts,
        token_ids=token_ids,
        chat_template=template.apply_chat_template,
        engine=vllm.engine,
        stops=template.stop_token_ids,
        max_len=min(context, longest + options.max_new_tokens),
    )


def questions_of(config: RunConfig) -> list[Question]:
    """What is asked, of one turn each.

    Raises:
        UserError: the file holds no prompts, or one of several turns.
    """
    options = config.generate
    if options.prompts is None:
        return [Question(n, (prompt,), row=n) for n, prompt in enumerate(options.prompt)]
    questions = load_questions(
        options.prompts, split=config.data.prompt_split, prompt_key=options.prompt_key
    )
    for question in questions:
        require(
            len(question.turns) == 1,
            f"{options.prompts}: question {question.id} has {len(question.turns)} turns: "
            "`rto eval` asks them one after another",
        )
    return questions


def answer(questions: Questions, config: RunConfig) -> list[Sample]:
    """``generate.num_samples`` responses to each prompt, those of one prompt side by side."""
    config = with_dtype(config)
    options = config.generate
    engine = build_engine(
        questions.model,
        alone(config, questions.engine),
        max_len=questions.max_len,
        device=config.train.device,
    )
    engine.accept(0)
    requests = [
        SampleRequest(ids, request_seed(config.train.seed, 0, number, sample))
        for number, ids in enumerate(questions.token_ids)
        for sample in range(options.num_samples)
    ]
    sampling = Sampling.of(options, stop_token_ids=questions.stops)
    return engine.generate(requests, sampling, 0)


def write(
    path: Path, asked: Sequence[Question], samples: Sequence[Sample], per_prompt: int
) -> None:
    """A JSON line per response, those of one prompt side by side; `rto eval --outputs` reads
    them."""
    lines = [
        json.dumps(
            {
                "id": asked[index // per_prompt].id,
                "prompt": asked[index // per_prompt].turns[0],
                "response": sample.text,
                "sample": index % per_prompt,
                "finished": sample.finished,
            }
        )
        for index, sample in enumerate(samples)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(lines) + "\n")
