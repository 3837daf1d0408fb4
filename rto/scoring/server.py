"""A reward server for ``rto.scoring.http``, backed by a reward model or a function.

``POST /`` or ``/get_reward`` with ``{"query", "prompts", "labels"}`` -> ``{"rewards"}``;
``GET /health``. A model scores one request after another, in length-sorted batches; of a function
there may be several processes, each with a request at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rto.data.templates import Template
from rto.errors import RewardProtocolError, UserError, told
from rto.models.device import dtype_of, resolve_device, with_dtype
from rto.models.heads import SequenceReward
from rto.models.load import generation_stops, load_config, load_scalar_model, load_tokenizer
from rto.models.rope import check_positions, longest_of_short, max_positions
from rto.models.trained_with import trained_with
from rto.scoring.desk import Desk, TextReward, body, check_sender, gone
from rto.scoring.finite import finite_rewards
from rto.scoring.function import RewardFunction
from rto.scoring.http import unique_keys
from rto.scoring.listen import Listener
from rto.sections.run_config import RunConfig
from rto.types import TokenBatch, pad

TIMEOUT = 60.0
"""Seconds that a request may wait for its turn, and a function take for it."""


class RewardRequest(BaseModel):
    """What OpenRLHF's client sends; ``query`` is prompt plus response."""

    model_config = ConfigDict(strict=True)

    query: list[str]
    prompts: list[str]
    labels: list[str | None]

    @model_validator(mode="after")
    def _equal_lengths(self) -> RewardRequest:
        lengths = len(self.query), len(self.prompts), len(self.labels)
        if len(set(lengths)) != 1:
            raise ValueError(f"query, prompts and labels have {lengths} items: need equal numbers")
        return self


class ServedRewardModel:
    """A sequence-classification checkpoint that scores texts as the pipeline scores token ids.

    ``chat_template`` chooses one where its tokenizer has several (see ``load_tokenizer``).
    ``max_len`` is the longest row; None is that of its training, which chooses its rotary
    frequencies (``rto.models.rope``), and rows as long as its positions.
    """

    def __init__(
        self,
        path: str,
        *,
        max_batch: int,
        chat_template: str | None = None,
        max_len: int | None = None,
    ) -> None:
        config = load_config(path)
        self.trained_with = trained_with(config, path=path)
        self._longest = max_positions(config)
        if max_len is not None:
            check_positions(config, path=path, name="--max_len", length=max_len)
            self._longest = max_len
        max_len = max_len or self.trained_with.max_len
        self._short = longest_of_short(config) if max_len is None else None
        device = resolve_device("auto")
        dtype = dtype_of(with_dtype(RunConfig()).ds.dtype)
        model = load_scalar_model(
            path, dtype=dtype, attn_implementation="sdpa", new_head=False, max_len=max_len
        )
        self.path, self.max_batch, self._device = path, max_batch, device
        self._model = SequenceReward(model).to(device).eval()
        self.template = _template(path, chat_template)

    def __str__(self) -> str:
        return f"reward model {self.path}"

    @property
    def about(self) -> str:
        """How a query must be rendered, if the model's folder says so, and what else a score
        depends on."""
        told = str(self)
        if self._short is not None:
            told += (
                f", as for rows up to {self._short} tokens (rope type longrope: give --max_len, "
                "data.max_len of its training, if that was more)"
            )
        if self.trained_with.apply_chat_template is not None:
            told += f", trained on prompts {self.trained_with.rendered}: send queries like these"
        return told

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float]:
        """One score per query; labels are not read. A query that does not begin with its prompt is
        read as one text."""
        begun = [q.startswith(p) for q, p in zip(queries, prompts, strict=True)]
        first = [p if b else q for q, p, b in zip(queries, prompts, begun, strict=True)]
        return self.scores(
            [self.template.pair_ids(p, q[len(p) :]) for q, p in zip(queries, first, strict=True)]
        )

    def scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """One score per row of token ids; see ``Template.pair_ids``."""
        for index, row in enumerate(rows):
            self._check(index, row)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), self.max_batch):
            chosen = order[start : start + self.max_batch]
            for row, score in zip(chosen, self._score([rows[row] for row in chosen]), strict=True):
                scores[row] = score
        return scores

    def _check(self, index: int, ids: Sequence[int]) -> None:
        if not ids:
            raise UserError(f"query[{index}] has no tokens")
        if self._longest is not None and len(ids) > self._longest:
            raise UserError(
                f"query[{index}] has {len(ids)} tokens, the reward model reads {self._longest}"
            )

    @torch.inference_mode()
    def _score(self, rows: list[Sequence[int]]) -> list[float]:
        ids, mask = pad(rows, 0, left=True)
        empty = torch.zeros(len(rows), 1)
        tokens = TokenBatch(
            prompt_ids=ids,
            prompt_mask=mask,
            response_ids=empty.long(),
            response_mask=empty.bool(),
            sampler_logprobs=empty,
            finished=empty[:, 0].bool(),
            group=torch.arange(len(rows)),
        )
        return self._model(tokens.to(self._device)).tolist()


def _template(path: str, choice: str | None) -> Template:
    """For texts that come as they are: rendered by the chat template or without one."""
    tokenizer = load_tokenizer(path)
    if choice is not None and isinstance(tokenizer.chat_template, dict):
        tokenizer = load_tokenizer(path, chat_template=choice)
    return Template(tokenizer, stops=generation_stops(path))


def build_app(desk: Desk, *, token: str | None) -> FastAPI:
    """The server; with a token, only requests that bear it are answered."""
    app = FastAPI(openapi_url=None)

    async def get_reward(request: Request) -> dict[str, list[float]]:
        check_sender(request, token)
        batch = _read_request(await body(request))
        async with desk.turn() as source:
            if await request.is_disconnected():
                raise gone()
            scoring = asyncio.get_running_loop().run_in_executor(
                desk.threads, _rewards, source, batch
            )
            return {"rewards": await scoring}

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    endpoints: list[tuple[str, str, Callable[..., Awaitable[object]]]] = [
        ("/", "POST", get_reward),
        ("/get_reward", "POST", get_reward),
        ("/health", "GET", health),
    ]
    for path, verb, endpoint in endpoints:
        app.add_api_route(path, endpoint, methods=[verb], response_model=None)
    return app


def serve(
    *,
    reward_model: str | None,
    func_path: str | None,
    listener: Listener,
    max_batch: int,
    max_len: int | None = None,
    workers: int = 1,
    timeout: float = TIMEOUT,
    printed: Callable[[str], None] = print,
) -> None:
    """Serve one reward source until interrupted.

    ``max_batch`` texts go through a forward of the model, of ``max_len`` tokens at most each. A
    function has ``workers`` processes, and ``timeout`` seconds for a request; ``printed`` takes
    what it prints.
    """
    if reward_model and not func_path:
        model = ServedRewardModel(reward_model, max_batch=max_batch, max_len=max_len)
        sources, about = [model], model.about
    elif func_path and not reward_model:
        sources = [
            RewardFunction(func_path, timeout=timeout, limit="--timeout", printed=printed)
            for _ in range(workers)
        ]
        about = str(sources[0])
    else:
        raise UserError("serve-reward needs a reward model or a reward function file, one of them")
    print(f"serving {about} on {listener.about}", flush=True)
    desk = Desk(sources, patience=timeout)
    settings = uvicorn.Config(build_app(desk, token=listener.token), access_log=False)
    uvicorn.Server(settings).run(sockets=[listener.socket])


def _read_request(content: bytes) -> RewardRequest:
    try:
        fields = json.loads(content, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"request: not JSON ({told(error)})") from error
    try:
        return RewardRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "request"
        raise HTTPException(422, f"{place}: {first['msg']}") from error


def _rewards(source: TextReward, batch: RewardRequest) -> list[float]:
    """What the source cannot score is the request's fault (422): the same request fails again."""
    try:
        values = source(batch.query, batch.prompts, batch.labels)
        return finite_rewards(values, count=len(batch.query), source=str(source))
    except (UserError, RewardProtocolError) as error:
        raise HTTPException(422, str(error)) from error
