"""An engine that samples with transformers: for encoder-decoder models, and if vLLM is missing.

It has the interface and the checks of ``rto.rollout.vllm``: it samples only from weights that were
accepted. Its weights can be read back, so the receipt of an update holds the digests of what the
engine has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rto.batching.microbatch import plan_microbatches
from rto.errors import ProofError
from rto.models.continuation import Continuation
from rto.models.device import dtype_of, empty_cache
from rto.models.load import is_encoder_decoder, load_language_model, load_tokenizer
from rto.models.rope import max_positions
from rto.models.seq2seq import decoder_start
from rto.rollout.draw import draw
from rto.rollout.requests import Pairs, Sample, SampleRequest, Sampling, in_parts
from rto.types import logprob_array, pad, token_array
from rto.weights.accepted_version import ProvenVersion
from rto.weights.digest import WeightReceipt, tensor_digest


class HfEngine:
    """A model that samples in this process, in batches of prompts of like length."""

    def __init__(
        self,
        model_path: str,
        *,
        dtype: Literal["bf16", "fp32"],
        device: torch.device,
        max_model_len: int | None = None,
        attn_implementation: str = "sdpa",
        max_tokens: int = 16384,
    ) -> None:
        """``max_model_len`` bounds prompt plus response of a decoder-only model. ``max_tokens``
        bounds a batch: prompts plus the longest responses, padding included."""
        self._device = device
        self._max_tokens = max_tokens
        self._tokenizer = load_tokenizer(model_path)
        self._encoder_decoder = is_encoder_decoder(model_path)
        # It copies the tokenizer, where that puts a space before a text.
        self._continuation = None if self._encoder_decoder else Continuation(self._tokenizer)
        model: Any = load_language_model(
            model_path,
            dtype=dtype_of(dtype),
            attn_implementation=attn_implementation,
            max_len=None if self._encoder_decoder else max_model_len,
        )
        self._model = model.to(device).eval().requires_grad_(False)
        positions = max_positions(model.config)
        bounds = [positions, None if self._encoder_decoder else max_model_len]
        self._room = min((bound for bound in bounds if bound is not None), default=None)
        self._proven = ProvenVersion()
        self._receipt = WeightReceipt({}, ())

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int
    ) -> list[Sample]:
        """One sample per request, in order. A stop token ends a sample and is kept.

        Up to rounding, a sample depends on (weights, prompt, seed) alone, not on its batch. It
        ends where the decoder's positions do, or at ``max_model_len``.

        Raises:
            ProofError: the engine does not hold ``policy_version``.
        """
        (samples,) = self.generate_parts([requests], sampling, policy_version)
        return samples

    def generate_parts(
        self, parts: Sequence[Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> Iterator[list[Sample]]:
        """As ``generate``. The batches are those of all parts together."""
        self._proven.require(policy_version)
        requests = [request for part in parts for request in part]
        return in_parts(self._finished(requests, sampling), [len(part) for part in parts])

    @torch.inference_mode()
    def _finished(
        self, requests: Sequence[SampleRequest], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        """Samples with the numbers of their requests, as they come."""
        # All rows of a batch end at once: none may go on beyond the positions that it has.
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for row, request in enumerate(requests):
            by_length[self._longest(request, sampling)].append(row)
        for longest, rows in by_length.items():
            lengths = [len(requests[row].prompt_token_ids) + longest for row in rows]
            for batch in plan_microbatches(lengths, max_tokens=self._max_tokens):
                chosen = [rows[place] for place in batch]
                drawn = self._draw([requests[row] for row in chosen], sampling, longest)
                yield from zip(chosen, drawn, strict=True)

    @torch.inference_mode()
    def response_logprobs(self, pairs: Pairs) -> list[list[float]]:
        """Log-prob, at temperature 1, of each token of each (prompt, response)'s response: from
        the decoder's cached steps, as sampling goes, not from the trainer's one forward.

        Open to unproven weights, because it is how they are proven.
        """
        return [self._forced(prompt, response) for prompt, response in pairs]

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take all weights by their checkpoint names from host memory.

        Raises:
            ProofError: a tensor that the model has no place for.
        """
        self._proven.weights_change()
        places = dict(self._model.named_parameters(remove_duplicate=False))
        digests: dict[str, str] = {}
        filled: set[int] = set()
        for name, tensor in weights.items():
            place = places.get(name)
            if place is None or place.shape != tensor.shape:
                has = "no such tensor" if place is None else f"shape {tuple(place.shape)}"
                raise ProofError(f"weight sync: '{name}' {tuple(tensor.shape)}: engine has {has}")
            place.data.copy_(tensor)
            digests[name] = tensor_digest(place.data)
            filled.add(id(place))
        missing = [name for name, p in self._model.named_parameters() if id(p) not in filled]
        self._receipt = WeightReceipt(digests, tuple(missing))

    def receipt(self) -> WeightReceipt:
        """What the model holds since the last update, and what that left as it was."""
        self._proven.receipt_read()
        return self._receipt

    def accept(self, version: int) -> None:
        """Accept the weights held now as policy ``version``, which the caller has verified."""
        self._proven.accept(version)

    def keep(self, version: int) -> bool:
        """Whether the weights accepted as ``version`` are here still; nothing else is kept."""
        return self._proven.holds(version)

    def sleep(self) -> None:
        """Give the GPU memory back: the weights wait in host memory."""
        self._model.to("cpu")
        empty_cache(self._device)

    def wake(self, tag: Literal["weights", "kv_cache"] | None = None) -> None:
        self._model.to(self._device)

    def _draw(
        self, requests: Sequence[SampleRequest], sampling: Sampling, longest: int
    ) -> list[Sample]:
        """A batch of prompts; the responses have at most ``longest`` tokens."""
        prompts, mask = self._padded([r.prompt_token_ids for r in requests])
        # The decoder has read what it begins with, which need not be a token of the conversation.
        begin = 1 if self._encoder_decoder else prompts.shape[1]
        # In place of padding stands a token of the prompt again, which changes no penalty.
        read = prompts[:, :0] if self._encoder_decoder else prompts.where(mask, prompts[:, -1:])
        sampler = _Sampler(sampling, [r.seed for r in requests], read)
        spelt = _Stops(self._tokenizer, sampling.stop, len(requests), begin)
        ends = (self._eos, *sampling.stop_token_ids)
        self._run(
            prompts,
            mask,
            sampler,
            max_new_tokens=longest,
            eos=ends,
            stops=[spelt] if sampling.stop else [],
        )
        ids, logprobs = sampler.drawn()
        rows = zip(ids, logprobs, spelt.lengths, strict=True)
        return [self._sample(*row, ends, sampling) for row in rows]

    def _longest(self, request: SampleRequest, sampling: Sampling) -> int:
        """How many tokens the response may have. An encoder's prompt takes no room of it."""
        if self._room is None:
            return sampling.max_new_tokens
        taken = 0 if self._encoder_decoder else len(request.prompt_token_ids)
        return min(sampling.max_new_tokens, self._room - taken)

    def _sample(
        self,
        ids: list[int],
        logprobs: list[float],
        spelt: int | None,
        ends: Sequence[int],
        sampling: Sampling,
    ) -> Sample:
        """Of a row [T] as it was drawn, what stands before its end by a token of ``ends`` or by a
        stop text."""
        stops = [i + 1 for i, token in enumerate(ids) if token in ends]
        if spelt is not None:
            stops.append(spelt)
        end = min(stops, default=len(ids))
        return Sample(
            token_ids=token_array(ids[:end]),
            logprobs=logprob_array(logprobs[:end]),
            text=sampling.until_stop(self._text(ids[:end])),
            finished=bool(stops),
        )

    def _text(self, ids: Sequence[int]) -> str:
        """A response of an encoder-decoder model is a text of its own; another goes on from its
        prompt."""
        if self._continuation is None:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
        return self._continuation.decode(ids)

    def _forced(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        forced = _Forced(response)
        self._run(*self._padded([prompt]), forced, max_new_tokens=len(response), eos=None)
        return forced.logprobs

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, P]: a decoder goes on from the right end, where no padding may be."""
        padding = int(str(self._tokenizer.pad_token_id))
        ids, mask = pad(prompts, padding, left=not self._encoder_decoder)
        return ids.to(self._device), mask.to(self._device)

    @property
    def _eos(self) -> int:
        eos = self._tokenizer.eos_token_id
        assert isinstance(eos, int)
        return eos

    def _run(
        self,
        ids: Tensor,
        mask: Tensor,
        chooser: LogitsProcessor,
        *,
        max_new_tokens: int,
        eos: Sequence[int] | None,
        stops: Sequence[StoppingCriteria] = (),
    ) -> None:
        """transformers' loop and cache; ``chooser`` leaves one token possible at each step.

        None of the model's own generation settings (beams, forced or banned tokens) apply.
        """
        start = decoder_start(self._model) if self._encoder_decoder else None
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=None if eos is None else list(eos),
            pad_token_id=self._tokenizer.pad_token_id,
            decoder_start_token_id=start,
        )
        self._model.generation_config = settings
        self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList([chooser]),
            stopping_criteria=StoppingCriteriaList(stops),
        )


class _Sampler(LogitsProcessor):
    """Draws each row's token by its own random numbers, one per step: the inverse of the
    cumulative distribution at u."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int], read: Tensor) -> None:
        """``read`` [B, P]: the prompt's tokens that count for a repetition penalty."""
        uniforms = [
            torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        self._uniforms = torch.stack(uniforms).to(read.device)
        self._sampling = sampling
        self._read = read
        self._ids: list[Tensor] = []
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> torch.FloatTensor:
        """``input_ids`` [B, P + T] end in the response so far; ``scores`` [B, V]: logits. What
        comes back allows the drawn token alone."""
        uniforms = self._uniforms[:, len(self._ids)]
        response = input_ids[:, input_ids.shape[1] - len(self._ids) :]
        logits = self._penalised(response, scores.float())
        ids, logprobs = draw(logits, uniforms, self._sampling)
        self._ids.append(ids)
        self._logprobs.append(logprobs)
        return _only(scores, ids)

    def _penalised(self, response: Tensor, logits: Tensor) -> Tensor:
        """``response`` [B, T] without the decoder's start, which is no token of it."""
        sampling = self._sampling
        # transformers' hints name the classes of tensors on a CPU, whatever the device.
        ids, scores = cast(torch.LongTensor, response), cast(torch.FloatTensor, logits)
        if sampling.repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))
            scores = penalty(cast(torch.LongTensor, torch.cat([self._read, ids], dim=1)), scores)
        if sampling.no_repeat_ngram_size:
            scores = NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size)(ids, scores)
        return scores

    def drawn(self) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probs of each row, with what came after EoS."""
        ids, logprobs = torch.stack(self._ids, 1), torch.stack(self._logprobs, 1)
        return ids.tolist(), logprobs.tolist()


class _Stops(StoppingCriteria):
    """Ends a row where its response spells a stop text; ``lengths`` are the tokens until then."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], num_rows: int, begin: int
    ) -> None:
        """``begin``: the place of a response's first token in a row."""
        self._tokenizer = tokenizer
        self._stop = stop
        self._begin = begin
        # A token spells a byte or more; a few more, since the first ones may lose a space.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 8
        self.lengths: list[int | None] = [None] * num_rows

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> torch.BoolTensor:
        """``input_ids`` [B, begin + T]: what was there before, and the responses so far."""
        responses = input_ids[:, self._begin :]
        tails = self._tokenizer.batch_decode(responses[:, -self._tail :], skip_special_tokens=True)
        for row, tail in enumerate(tails):
            if self.lengths[row] is None and any(text in tail for text in self._stop):
                self.lengths[row] = responses.shape[1]
        ended = [length is not None for length in self.lengths]
        return cast(torch.BoolTensor, torch.tensor(ended, device=input_ids.device))


class _Forced(LogitsProcessor):
    """Takes the tokens of a given response and keeps their log-probs."""

    def __init__(self, response: Sequence[int]) -> None:
        self._response = response
        self.logprobs: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> torch.FloatTensor:
        token = self._response[len(self.logprobs)]
        self.logprobs.append(float(scores[0].float().log_softmax(-1)[token]))
        return _only(scores, torch.tensor([token], device=scores.device))


def _only(scores: Tensor, ids: Tensor) -> torch.FloatTensor:
    only = torch.full_like(scores, -torch.inf).scatter(-1, ids[:, None], 0.0)
    return cast(torch.FloatTensor, only)
