"""Stable hashes: the same content gives the same hash in every process, on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import orjson

from tunewright.core.records import Example


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces; dataclasses become mappings."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``, as hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, as hex, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but ``parts``; use it for seeded decisions per row."""
    text = "\x1f".join(str(p) for p in parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def seed_from(*parts: object) -> int:
    """A 63-bit seed derived from ``parts``; steps and epochs each get their own."""
    return int(unit_interval(*parts) * 2**63)


def example_digest(example: Example) -> str:
    """Content hash of an example: what it says, not where it stands."""
    fields = dataclasses.asdict(example)
    fields.pop("meta")
    return digest([type(example).__name__, fields])
