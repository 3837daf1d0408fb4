"""No tensor is larger than the buffer that it travels in."""

from __future__ import annotations

import pytest
import torch

from rto.weights.buffer import LEAST, buffer_bytes

SMALL = (torch.bfloat16, (4096, 4096))


@pytest.mark.parametrize(
    ("shape", "dtype", "mib"),
    [
        ((128256, 4096), torch.bfloat16, None),  # Llama-3-8B: 1002 MiB
        ((152064, 3584), torch.bfloat16, 1039.5),  # Qwen2.5-7B
        ((151936, 4096), torch.bfloat16, 1187),  # Qwen3-8B
        ((256000, 2304), torch.bfloat16, 1125),  # Gemma-2-2B
        ((256000, 3072), torch.bfloat16, 1500),  # Gemma-7B
        ((128256, 4096), torch.float32, 2004),
    ],
)
def test_the_buffer_holds_the_largest_tensor_and_a_gibibyte_at_least(
    shape: tuple[int, ...], dtype: torch.dtype, mib: float | None
) -> None:
    expected = LEAST if mib is None else int(mib * 2**20)
    assert buffer_bytes([SMALL, (dtype, shape), SMALL]) == expected


def test_a_scalar_or_nothing_needs_no_more() -> None:
    assert buffer_bytes([]) == buffer_bytes([(torch.float32, ())]) == 2**30
