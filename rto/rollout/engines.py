"""Which library samples from a model: vLLM where it is and can, else transformers."""

from __future__ import annotations

import functools
from dataclasses import replace

from rto.builds import is_installed, require_vllm
from rto.errors import UserError
from rto.sections_runtime import VLLM


def settled(vllm: VLLM, path: str, *, encoder_decoder: bool, remote: bool = False) -> VLLM:
    """The section with ``engine`` decided for the model at ``path``; says where vLLM is missed.

    ``remote``: a cluster that was there before samples, which is taken to have vLLM.

    Raises:
        UserError: vLLM is asked for and not installed, or does not serve the model.
    """
    chosen = vllm.engine
    if chosen == "auto":
        served = not encoder_decoder and (remote or is_installed("vllm"))
        chosen = "vllm" if served else "transformers"
        if not served and not encoder_decoder:
            _tell_missed()
    elif chosen == "vllm":
        if encoder_decoder:
            raise UserError(
                f"vllm.engine is vllm and {path} is an encoder-decoder model, which vLLM does not "
                "serve: use auto or transformers"
            )
        if not remote:
            require_vllm("vllm.engine vllm")
    return replace(vllm, engine=chosen)


@functools.cache
def _tell_missed() -> None:
    """Once in a process, which may settle this for several runs."""
    print(
        "vLLM is not installed, so transformers samples, which takes longer with larger models: "
        "pip install 'rto-rlhf[cpu]', or 'rto-rlhf[cuda]' for NVIDIA GPUs"
    )
