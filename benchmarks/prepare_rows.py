"""Rows a second and peak memory of `data prepare`, at two sizes: does memory grow with the rows?

    python benchmarks/prepare_rows.py [--rows 100000 400000] [--workers 2] [--names off]

Rows of about 1 kB are made of sentences of common words; one in 50 repeats another (exactly or nearly), one
in 20 holds personal data, one in 40 has something to mend. Every step is on: personal data (names as
``--names`` says: off, by cues, or in full with a language model), cleaning, near-duplicates, public test
sets, split and its proof. Memory is the sum over all processes of what they hold alone and their part of what
they share (PSS), looked at ten times a second. Each size is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tunewright.data.clean.settings import CleanSettings
from tunewright.data.pipeline import CompareSettings, PrepareSettings, prepare_to
from tunewright.data.redact.settings import RedactSettings

WORDS = re.findall(
    r"\w+",
    """
    the of and to in a is that for it as was with be by on not he his but at are this have from or had
    an they which one you were all her she there would their we him been has when who will no more if
    out so up said what its about than into them can only other time new some could these two may first
    then do any like my now over such our man me even most made after also well back must through years
    where much your way down should because long each just state people those how too little good world
    make very year still see own work men day get here between both life being under three never know
    same last another while us off might great go come since against right came take used
    """,
)
PERSONAL = (
    "Write to {0}.{1}@mail.example.org.",
    "My card is 4111 1111 1111 1111.",
    "Call me at (202) 555-01{2:02}.",
    "The server is at 192.168.{2}.7.",
    "My name is Anna Lindqvist.",
)
MESSY = (" <b>Read</b> this&nbsp;now.", " cafÃ© na\u00c3\u00afve", " and\u200b on", " to   be  said")
LOOK_SECONDS = 0.1


def write_rows(path: Path, rows: int) -> None:
    """``rows`` rows of about 1 kB, the same ones each time."""
    rng = random.Random(7)
    earlier: list[str] = []
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            if number % 50 == 49:
                line = rng.choice(earlier)
                if number % 100 == 99:
                    line = line[:500] + " truly" + line[500:]
                out.write(line)
                continue
            words = rng.choices(WORDS, k=200)
            answer = ". ".join(" ".join(words[at : at + 14]).capitalize() for at in range(0, 196, 14)) + "."
            if number % 20 == 3:
                answer += " " + rng.choice(PERSONAL).format(*rng.sample(WORDS, 2), number % 100)
            if number % 40 == 7:
                answer += rng.choice(MESSY)
            question = f"What of {' '.join(rng.choices(WORDS, k=12))} {number}?"
            line = json.dumps({"question": question, "answer": answer}) + "\n"
            earlier = [*earlier[-200:], line]
            out.write(line)


def one(rows: int, workers: int, names: str) -> dict[str, float]:
    """Prepare ``rows`` rows; seconds and peak memory in MB of all processes."""
    settings = PrepareSettings(
        clean=CleanSettings(),
        redact=RedactSettings(names=names),
        compare=CompareSettings(near="drop", known="note"),
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        write_rows(source, rows)
        size = source.stat().st_size
        peak = _Peak()
        begun = time.perf_counter()
        with peak:
            receipt = prepare_to(Path(folder) / "out", {"train": [source]}, settings, workers=workers)
        seconds = time.perf_counter() - begun
    left = {step["step"]: step["in"] - step["out"] for step in receipt["steps"]}
    found = sum(n for kinds in receipt["personal_data"]["found"].values() for n in kinds.values())
    return {
        "rows": rows, "kB a row": size / rows / 1000, "seconds": seconds, "MB": peak.bytes / 1e6,
        "duplicates": left["duplicates"], "near": left["near_duplicates"], "redactions": found,
    }  # fmt: skip


class _Peak:
    """The most memory that this process and its children held together while the block ran."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        here = psutil.Process()
        while not self._ended.wait(LOOK_SECONDS):
            total = 0
            for process in (here, *here.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--names", default="off")
    parser.add_argument("--one", action="store_true", help="measure here, and print one JSON line")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.rows[0], given.workers, given.names)))
        return
    print(f"{'rows':>9} {'kB a row':>9} {'rows/s':>8} {'peak MB':>8}   left out and found")
    for rows in given.rows:
        words = ["--one", "--rows", rows, "--workers", given.workers, "--names", given.names]
        done = subprocess.run(
            [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True
        )
        m = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{m['rows']:>9,} {m['kB a row']:>9.2f} {m['rows'] / m['seconds']:>8,.0f} {m['MB']:>8,.0f}   "
            f"{m['duplicates']:,} duplicates, {m['near']:,} near, {m['redactions']:,} redactions"
        )


if __name__ == "__main__":
    main()
