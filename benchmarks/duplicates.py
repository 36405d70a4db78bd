"""Near-duplicates: rows a second, memory, and what is found of those that were planted.

    python benchmarks/duplicates.py
    python benchmarks/duplicates.py --rows 20000

Rows are made up: questions and answers of about 1 kB from a vocabulary of 30,000 words drawn as in a
language (Zipf). A share of them repeats an earlier row: as it is, with another case, punctuation and
spaces, or with a few words replaced. Other rows are *traps*: they share their question's template, or ask
the same and answer something else, and must not be joined. Each size runs in a process of its own; texts
and sketches are read from disk, as in ``data prepare``. Seconds are of one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.core.records import Conversation, Message
from tunewright.data.dedupe.clusters import clusters
from tunewright.data.dedupe.ordered import Space
from tunewright.data.dedupe.sketch import BANDS, row_text, sketch

CHUNK = 2_000  # rows that are made and sketched at a time
KINDS = ("row", "exact", "respelt", "edited", "same_template", "other_answer")
SHARES = (0.88, 0.03, 0.03, 0.03, 0.015, 0.015)
WORDS = 150  # in an answer
EDITS = 5  # words of the answer that are replaced: its similarity is then 0.82


class Stored:
    """Row texts and band hashes on disk, as ``data prepare`` keeps them."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.rows, self.bands = rows, BANDS
        self._texts = (folder / "texts").open("r+b")
        self._ends = np.memmap(folder / "ends", np.int64, "w+", shape=(rows + 1,))
        self._sketches = np.memmap(folder / "sketches", np.uint64, "w+", shape=(BANDS, rows))

    def add(self, start: int, texts: list[str]) -> None:
        lines = [text.encode() for text in texts]
        self._texts.write(b"".join(lines))
        sizes = np.array([len(line) for line in lines])
        self._ends[start + 1 : start + 1 + len(lines)] = self._ends[start] + np.cumsum(sizes)
        self._sketches[:, start : start + len(lines)] = sketch(texts).T

    def text(self, row: int) -> str:
        begin, end = self._ends[row : row + 2].tolist()
        self._texts.seek(begin)
        return self._texts.read(end - begin).decode()

    def column(self, band: int) -> Iterator[np.ndarray]:
        for start in range(0, self.rows, 1 << 16):
            yield np.array(self._sketches[band, start : start + (1 << 16)])


class Maker:
    """Makes rows, a chunk at a time, and remembers which repeats which."""

    def __init__(self, rows: int, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        letters = self._draw.integers(97, 123, (30_000, 7))
        self._words = ["".join(map(chr, row[: 3 + i % 5])) for i, row in enumerate(letters.tolist())]
        self._weights = np.cumsum(1 / np.arange(10, 30_010))
        self.kinds = self._draw.choice(len(KINDS), rows, p=SHARES)
        self.kinds[:100] = 0
        self.of = np.arange(rows)
        self._recent: list[tuple[int, str, str]] = []

    def texts(self, start: int, count: int) -> list[str]:
        made = []
        for row in range(start, start + count):
            question, answer = self._row(row)
            turns = (Message("user", question), Message("assistant", answer))
            made.append(row_text(Conversation(turns)))
        return made

    def _row(self, row: int) -> tuple[str, str]:
        kind = KINDS[self.kinds[row]]
        if kind == "row":
            made = self._some(12), self._some(WORDS)
            self._recent = [*self._recent[-4999:], (row, *made)] if row % 5 == 0 else self._recent
            return made
        self.of[row], question, answer = self._recent[int(self._draw.integers(len(self._recent)))]
        words = answer.split()
        if kind == "exact":
            return question, answer
        if kind == "respelt":
            words[3] = words[3].upper() + ","
            return question.capitalize() + " ?", "  ".join(words)
        if kind == "edited":
            for at in np.linspace(5, WORDS - 5, EDITS).astype(int):
                words[at] = self._some(1)
            return question, " ".join(words)
        if kind == "same_template":
            return question, self._some(WORDS)
        return question, self._some(8)

    def _some(self, count: int) -> str:
        drawn = np.searchsorted(self._weights, self._draw.random(count) * self._weights[-1])
        return " ".join(self._words[i] for i in drawn.tolist())


def measure(rows: int, seed: int) -> dict[str, Any]:
    """One size: seconds of sketching and of clustering, peak memory, recall by kind, false joins."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts").touch()
        store, maker = Stored(folder, rows), Maker(rows, seed)
        sketching = characters = 0.0
        for start in range(0, rows, CHUNK):
            texts = maker.texts(start, min(CHUNK, rows - start))
            characters += sum(map(len, texts))
            begun = time.process_time()
            store.add(start, texts)
            sketching += time.process_time() - begun
        begun = time.process_time()
        found = clusters(store, store.text, space=Space(folder))
        clustering = time.process_time() - begun
    joined = found.leaders == found.leaders[maker.of]
    recall = {
        kind: round(float(joined[maker.kinds == i].mean()), 4)
        for i, kind in enumerate(KINDS)
        if 0 < i < 4 and (maker.kinds == i).any()
    }
    trapped = int(joined[maker.kinds >= 4].sum())
    alone = maker.kinds == 0
    alone[np.unique(maker.of[maker.kinds > 0])] = False
    false = int((found.leaders[alone] != np.flatnonzero(alone)).sum()) + trapped
    return {
        "rows": rows,
        "characters a row": round(characters / rows),
        "sketch, rows/s": round(rows / sketching),
        "cluster, rows/s": round(rows / clustering),
        "both, rows/s": round(rows / (sketching + clustering)),
        "comparisons": found.comparisons,
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "recall": recall,
        "falsely joined": false,
        "of": int(alone.sum() + (maker.kinds >= 4).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for rows in options.rows:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(json.dumps(pool.apply(measure, (rows, options.seed)), indent=1))


if __name__ == "__main__":
    main()
