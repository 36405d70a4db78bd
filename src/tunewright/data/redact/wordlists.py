"""The lists of words beside this module, read once: ``words.txt`` in sections, and two of names."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def _sections() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in _text("words.txt").splitlines():
        if line.startswith("["):
            current = found.setdefault(line[1 : line.index("]")], [])
        elif not line.startswith("#"):
            current += line.split()
    return {name: tuple(words) for name, words in found.items()}


def words(name: str) -> tuple[str, ...]:
    """The words of a section, in their order."""
    return _sections()[name]


@cache
def given_names() -> frozenset[str]:
    """Common given names of many countries, in lower case."""
    return _names("given_names.txt")


@cache
def family_names() -> frozenset[str]:
    """Common family names of many countries that are no ordinary words, in lower case."""
    return _names("family_names.txt")


def _names(file: str) -> frozenset[str]:
    lines = _text(file).splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _text(name: str) -> str:
    return (resources.files("tunewright.data.redact") / name).read_text(encoding="utf-8")
