"""Rank data sets by what they would teach for a problem, and measure the best of them.

    document = recommend(Path("problem.jsonl"), [Path("a.jsonl"), Path("b.jsonl")])

Three looks, each dearer than the one before: words (``coverage``), gradients (``gradients``,
``similarity``), training (``race``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from tunewright.core import events
from tunewright.core.errors import ConfigError, TunewrightError
from tunewright.core.events import Event, Observer, Progress, Stage, Warned
from tunewright.core.records import Tokens
from tunewright.models.precision import use_all_cores
from tunewright.run.recommend.candidates import Candidate, read_candidates
from tunewright.run.recommend.coverage import Coverage, coverages
from tunewright.run.recommend.deciding import advice, placed
from tunewright.run.recommend.goal import Goal, read_problem, read_test
from tunewright.run.recommend.gradients import Reader
from tunewright.run.recommend.projection import Projection
from tunewright.run.recommend.race import Lap, Track
from tunewright.run.recommend.replies import replies
from tunewright.run.recommend.settings import DetectiveSettings
from tunewright.run.recommend.similarity import Similarity, similarities
from tunewright.run.recommend.subject import Subject, learnable, make_subject


@dataclass(frozen=True)
class Compared:
    """A candidate and what was found about it. ``tokens`` is reckoned from the rows whose gradients were
    read; ``cut`` of those were longer than what is read of a text, and ``unread`` more had nothing to
    learn within it.
    """

    candidate: Candidate
    coverage: Coverage
    similarity: Similarity
    tokens: int
    cut: int
    unread: int


def recommend(
    problem: Path,
    candidates: Sequence[Path],
    settings: DetectiveSettings | None = None,
    *,
    test: Path | None = None,
    observe: Observer = events.silent,
    states: Path | None = None,
) -> dict[str, Any]:
    """The whole comparison as one document of plain values; see ``docs/recommend.md`` for its keys.

    ``test`` is a file whose rows must not be trained on either. ``states`` keeps what the lower layers of the
    model say of each text from one call to the next; without it that is forgotten at the end.
    Raises ``DataError`` for an unusable problem, and ``ConfigError`` if no candidate can be compared.
    """
    settings, begun = settings or DetectiveSettings(), time.perf_counter()
    use_all_cores()
    goal = read_problem(problem, settings.seed)
    read = read_candidates(candidates, goal, read_test(test), settings.seed)
    usable = [candidate for candidate in read if candidate.fault is None]
    if not usable:
        faults = "; ".join(f"{candidate.name}: {candidate.fault}" for candidate in read)
        raise ConfigError(f"no candidate can be compared. {faults}")
    with TemporaryDirectory(prefix="tunewright-recommend-") as folder:
        directory = states or Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        subject = make_subject(settings, goal.family, directory, _most_tokens(goal, len(usable), settings))
        compared, refused = _compare(subject, goal, usable, settings, observe)
        laps, asked = _race(subject, goal, compared, settings, Path(folder), observe)
    faulty = [*(candidate for candidate in read if candidate.fault is not None), *refused]
    return {
        "problem": _problem(goal),
        "settings": settings.model_dump(),
        **_ranking(compared, laps, settings.seed),
        "refused": [{"name": candidate.name, "reason": candidate.fault} for candidate in faulty],
        "replies": asked,
        "notes": [*goal.notes, *subject.notes, *_of_rendering(subject, goal)],
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _problem(goal: Goal) -> dict[str, Any]:
    return {
        "path": goal.path,
        "kind": goal.family,
        "examples": len(goal.examples),
        "guide": len(goal.guide),
        "held_out": len(goal.held_out),
    }


def _ranking(compared: Sequence[Compared], laps: Sequence[Lap], seed: int) -> dict[str, Any]:
    """The candidates from best to worst, those that were raced first, and the verdict."""
    place = {lap.name: number for number, lap in enumerate(laps)}
    ranked = sorted(compared, key=lambda c: place.get(c.candidate.name, len(laps)))
    names = [c.candidate.name for c in ranked]
    by_name = {lap.name: lap for lap in laps}
    return {
        "candidates": [
            {"rank": rank, **_facts(found), "race": _lap(by_name.get(found.candidate.name))}
            for rank, found in enumerate(ranked, start=1)
        ],
        "verdict": advice(laps, names, seed).to_dict(),
    }


def _of_rendering(subject: Subject, goal: Goal) -> list[str]:
    """What came up while rows were rendered; to be asked last."""
    found = list(subject.renderer.notes)
    if count := sum(not sequences for sequences in subject.rendered(goal.examples)):
        whole = f"{count} of {len(goal.examples)} examples of the problem"
        found.append(f"{whole} have nothing to learn: cut at --max-length, or not to be rendered")
    if faults := list(subject.unwritten):
        found.append(
            f"{len(faults)} rows cannot be written by the chat template and were left out: {faults[0]}"
        )
    return found


def _most_tokens(goal: Goal, candidates: int, settings: DetectiveSettings) -> int:
    """Tokens that the model reads at most, each text counted once."""
    texts = len(goal.examples) + candidates * settings.rows
    return texts * settings.max_length + settings.finalists * (settings.race_tokens + settings.max_length)


def _compare(
    subject: Subject, goal: Goal, usable: Sequence[Candidate], settings: DetectiveSettings, observe: Observer
) -> tuple[list[Compared], list[Candidate]]:
    """Coverage and gradients, best first by the gradients; and those that could not be rendered."""
    reader = Reader(subject.model, subject.forward, subject.objective, Projection(settings.seed))
    observe(Stage("gradients", f"up to {settings.rows} rows of each"))
    own = _read(reader, learnable(subject.rendered(goal.guide), goal.path), goal.path, observe)
    vectors: dict[str, Tensor] = {}
    sizes: dict[str, tuple[int, int, int]] = {}
    refused = []
    for candidate in usable:
        drawn = candidate.examples[: settings.rows]
        try:
            rows = learnable(subject.rendered(drawn), candidate.name)
        except TunewrightError as error:
            refused.append(replace(candidate, fault=str(error)))
            continue
        vectors[candidate.name] = _read(reader, rows, candidate.name, observe)
        sizes[candidate.name] = (*_sizes(rows, candidate.rows), len(drawn) - len(rows))
    if not vectors:
        raise ConfigError(f"no candidate can be compared. {'; '.join(str(c.fault) for c in refused)}")
    kept = [candidate for candidate in usable if candidate.name in vectors]
    observe(Stage("coverage", f"{len(kept)} candidates, {len(goal.examples)} examples of the problem"))
    words = coverages(goal.examples, {c.name: c.examples for c in kept}, settings.seed)
    alike = similarities(own, vectors, settings.seed)
    found = [Compared(c, words[c.name], alike[c.name], *sizes[c.name]) for c in kept]
    return sorted(found, key=lambda c: -c.similarity.score), refused


def _read(reader: Reader, rows: Sequence[Sequence[Tokens]], name: str, observe: Observer) -> Tensor:
    total = sum(len(row) for row in rows)
    return reader.read(rows, lambda done: observe(Progress(name, done, total)))


def _sizes(rows: Sequence[Sequence[Tokens]], count: int) -> tuple[int, int]:
    """Tokens of ``count`` rows like these in full length, and how many of these were cut."""
    left = [sum(tokens.extras.get("cut_tokens", 0.0) for tokens in row) for row in rows]
    whole = sum(tokens.size for row in rows for tokens in row) + sum(left)
    return round(whole / len(rows) * count), sum(cut > 0 for cut in left)


def _race(
    subject: Subject,
    goal: Goal,
    compared: Sequence[Compared],
    settings: DetectiveSettings,
    folder: Path,
    observe: Observer,
) -> tuple[list[Lap], list[dict[str, str]]]:
    """The laps of the finalists, the winner's first, and replies before and after training on it."""
    finalists = compared[: settings.finalists]
    if not finalists:
        return [], []
    track = Track.laid(subject, goal.held_out)
    laps = []
    for number, found in enumerate(finalists):
        name, examples = found.candidate.name, found.candidate.examples
        observe(Stage("race", f"{name}, {settings.race_tokens} tokens"))
        laps.append(track.run(name, examples, settings, folder / f"lap-{number}", _quietly(observe)))
    order = placed(laps, settings.seed)
    return order, replies(track, order[0], goal.held_out[: settings.replies])


def _quietly(observe: Observer) -> Observer:
    """Pass warnings on, and no line about each update."""

    def listen(event: Event) -> None:
        if isinstance(event, Warned):
            observe(event)

    return listen


def _facts(found: Compared) -> dict[str, Any]:
    candidate = found.candidate
    return {
        "name": candidate.name,
        "rows": candidate.rows,
        "tokens": found.tokens,
        "cut_rows": found.cut,
        "unread_rows": found.unread,
        "unusable_rows": candidate.rejected,
        "rows_of_another_kind": candidate.unfit,
        "duplicates": candidate.duplicates,
        "licences": [asdict(licence) for licence in candidate.licences],
        "coverage": found.coverage.to_dict(),
        "gradient": found.similarity.to_dict(),
    }


def _lap(lap: Lap | None) -> dict[str, Any] | None:
    if lap is None:
        return None
    return {
        "gain": lap.gain.to_dict(),
        "loss_after": float(lap.losses.mean()),
        "tokens": lap.tokens,
        "learnt_tokens": lap.trained,
        "rows": lap.rows,
        "epochs": lap.epochs,
    }
