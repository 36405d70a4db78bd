"""What the stages of one run share: the settings, the directory, and the log that everything is said to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.core.events import Event, Observer, Stage, StageEnd, Warned
from tunewright.core.paths import RunDir
from tunewright.run import store
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and the content of ``result.json``."""

    path: Path
    result: dict[str, Any]


@dataclass
class Session:
    """Events are kept in memory until ``open_log``, so that a run that cannot begin leaves nothing behind.

    ``seconds`` is the time of each stage and ``warnings`` every warning once, however often it was resumed.
    """

    resolved: Resolved
    run: RunDir
    listener: Observer
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _notes: set[str] = field(default_factory=set)
    _early: list[Event] = field(default_factory=list)
    _log: Observer | None = None

    @classmethod
    def reopened(cls, resolved: Resolved, run: RunDir, listener: Observer) -> Session:
        """The session of a run that was interrupted, with what its log knows."""
        session = cls(resolved, run, listener)
        for event in store.trimmed_events(run):
            if event["event"] == "Warned" and event["message"] not in session.warnings:
                session.warnings.append(event["message"])
            elif event["event"] == "StageEnd":
                session._count(event["name"], event["seconds"])
        session.open_log()
        return session

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    def open_log(self) -> None:
        """From now on events go to ``events.jsonl``; those before now go there first."""
        self._log = store.event_writer(self.run)
        for event in self._early:
            self._log(event)
        self._early = []

    def observe(self, event: Event) -> None:
        """Log an event and pass it on; a warning that was given before is not repeated."""
        if isinstance(event, Warned):
            if event.message in self.warnings:
                return
            self.warnings.append(event.message)
        if self._log is None:
            self._early.append(event)
        else:
            self._log(event)
        self.listener(event)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Announce a stage and time it."""
        self.observe(Stage(name, detail))
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self._count(name, seconds)
        self.observe(StageEnd(name, seconds))

    def warn(self, message: str) -> None:
        """Tell the user now, and again in the report."""
        self.observe(Warned(0, message))

    def note(self, messages: Iterable[str]) -> None:
        """Tell the user what is good to know, each thing once."""
        for message in messages:
            if message not in self._notes:
                self._notes.add(message)
                self.observe(Stage("note", message))

    def part(self, resolved: Resolved, listener: Observer) -> Session:
        """A session for a part of this run, with settings of its own; ``listener`` hears all that it says."""
        return Session(
            resolved, self.run, listener, self.seconds, _notes=self._notes, _log=lambda event: None
        )

    def _count(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
