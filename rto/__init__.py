"""RLHF with token-wise rewards on Ray, vLLM and DeepSpeed."""

__version__ = "0.1.0"
