"""Log-probs at a vocabulary of 128k: seconds, memory and exactness, by the size of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu.models import shape
from benchmarks.gpu.place import Place, Row, growth_gib, script, seconds
from rto.functional.logprobs import chunked_logprobs
from rto.models.device import dtype_of

TOKENS = 16_384
CHUNKS = (1024, 2048, 4096, 8192, TOKENS)


def measure(place: Place, case: str) -> Iterator[Row]:
    problem = Problem(place)
    exact = problem.exact()
    if case == "whole-logits":
        yield Row("whole logits", figures_of(place, problem, problem.whole, exact))
        return
    for size in map(place.scaled, CHUNKS):
        chunked = partial(problem.chunked, size)
        yield Row(f"chunks of {size}", figures_of(place, problem, chunked, exact))


def figures_of(
    place: Place, problem: Problem, gradient: Callable[[], Tensor], exact: Tensor
) -> dict[str, float]:
    error, taken = relative_error(gradient(), exact), seconds(place, gradient)
    problem.forget()
    return {
        "seconds": taken,
        "extra GiB": growth_gib(place, gradient),
        "gradient error": error,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of ``expected``."""
    return float((found.float() - expected).norm() / expected.norm())


class Problem:
    """Hidden states [N, H], the ids [N] that follow, and a head [V, H]."""

    def __init__(self, place: Place) -> None:
        torch.manual_seed(0)
        size, count = shape(place, "8b"), place.scaled(TOKENS)
        how = {"device": place.device, "dtype": dtype_of(place.dtype)}
        self.hidden = torch.randn(count, size.hidden_size, **how).requires_grad_()
        self.head = nn.Linear(size.hidden_size, size.vocab_size, bias=False, **how)
        self.ids = torch.randint(size.vocab_size, (count,), device=place.device)

    def chunked(self, size: int) -> Tensor:
        """The gradient [V, H] of the log-probs' mean, by the product's function."""
        return self._gradient(lambda: self._chunked(self.hidden, self.head, size))

    def whole(self) -> Tensor:
        """The same as it is written without that function."""
        return self._gradient(
            lambda: self.head(self.hidden).float().log_softmax(-1).gather(-1, self.ids[:, None])
        )

    def exact(self) -> Tensor:
        """The same in fp32, in small chunks that add up in fp32."""
        head = nn.Linear(*self.head.weight.shape[::-1], bias=False, device=self.ids.device)
        head.weight.data.copy_(self.head.weight.data)
        self._chunked(self.hidden.detach().float(), head, 1024).mean().backward()
        assert head.weight.grad is not None
        return head.weight.grad

    def _chunked(self, hidden: Tensor, head: nn.Linear, size: int) -> Tensor:
        return chunked_logprobs(hidden, head, self.ids, chunk_size=size).logprobs

    def forget(self) -> None:
        """Drop the gradients."""
        self.head.weight.grad = self.hidden.grad = None

    def _gradient(self, logprobs: Callable[[], Tensor]) -> Tensor:
        self.forget()
        logprobs().mean().backward()
        assert self.head.weight.grad is not None
        return self.head.weight.grad


if __name__ == "__main__":
    script(measure)
