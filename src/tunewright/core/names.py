"""Named things (metrics, objectives, adapters …) found by name, loaded only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from tunewright.core.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known names, or lists them all if none is close."""
    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.55)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(known)}."


class Registry(Generic[T]):
    """Name -> object, where an entry may be the object itself or a lazy ``"package.module:attribute"``.

    Other packages add entries through the entry-point ``group``, by default ``tunewright.<kind>``; a name
    taken twice is an error, never an override.
    """

    def __init__(
        self, kind: str, entries: dict[str, T | str] | None = None, group: str | None = None
    ) -> None:
        self.kind = kind
        self.group = group or f"tunewright.{kind}"
        self._entries: dict[str, T | str] = dict(entries or {})
        self._plugins_read = False

    def add(self, name: str, entry: T | str) -> None:
        """Register ``entry``; raises ``ConfigError`` if the name is taken."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice; rename one of the two")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        self._read_plugins()
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}. {nearest(name, self._entries)}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        return entry  # type: ignore[return-value]

    def __contains__(self, name: object) -> bool:
        self._read_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._read_plugins()
        return iter(sorted(self._entries))

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in entry_points(group=self.group):
            self.add(point.name, f"{point.module}:{point.attr}")
