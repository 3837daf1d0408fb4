"""RLHF with token-wise rewards on Ray, vLLM and DeepSpeed."""

from rto.version import VERSION as __version__

__all__ = ["__version__"]
