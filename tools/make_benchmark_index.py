"""Make the bundled indexes of public test sets: hashes of their n-grams, and a table of where they come from.

    python tools/make_benchmark_index.py DIRECTORY_OF_DATA_SETS

No text is written. The same data sets give the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tunewright.data.contamination.index import Index
from tunewright.data.contamination.known import FOLDER, MOST, TABLE

Items = list[tuple[int, str]]


class Source(NamedTuple):
    """A test set: what its items are, which files hold it, and how they are read."""

    name: str
    what: str
    folder: str
    pattern: str
    licence: str
    read: Callable[[list[Path]], list[str | list[str]]]


def _truthfulqa(paths: list[Path]) -> list[str | list[str]]:
    with paths[0].open(encoding="utf-8", newline="") as file:
        return [row["Question"] for row in csv.DictReader(file)]


def _mt_bench(paths: list[Path]) -> list[str | list[str]]:
    return [json.loads(line)["turns"] for line in paths[0].read_text(encoding="utf-8").splitlines()]


def _banking(paths: list[Path]) -> list[str | list[str]]:
    with paths[0].open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def _winobias(paths: list[Path]) -> list[str | list[str]]:
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [line.partition(" ")[2].replace("[", "").replace("]", "") for line in lines]


def _blimp(paths: list[Path]) -> list[str | list[str]]:
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["sentence_good"] for line in lines]


SOURCES = (
    Source("truthfulqa", "questions", "probe_truthfulqa", "TruthfulQA.csv", "Apache-2.0", _truthfulqa),
    Source(
        "mt_bench", "both turns of each prompt", "judge_mt_bench", "question.jsonl", "Apache-2.0", _mt_bench
    ),
    Source("banking77-test", "queries", "cls_banking77", "test.csv", "CC BY 4.0", _banking),
    Source("winobias-test", "sentences, both ways", "bias_winobias", "*.txt.test", "MIT", _winobias),
    Source("blimp-10", "good sentences, ten paradigms", "probe_blimp10", "*.jsonl", "CC BY 4.0", _blimp),
)


def main(data: Path) -> None:
    table = []
    for source in SOURCES:
        paths = sorted((data / source.folder).glob(source.pattern))
        items: Items = [
            (number, text)
            for number, found in enumerate(source.read(paths))
            for text in ([found] if isinstance(found, str) else found)
        ]
        index = Index.build(source.name, items, MOST)
        file = f"{source.name}.hashes"
        FOLDER.mkdir(exist_ok=True)
        index.save(FOLDER / file)
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        origin = dict(
            pair.split("=", 1)
            for pair in (data / source.folder / "SOURCE.txt").read_text(encoding="utf-8").split()
            if "=" in pair
        )
        table.append(
            {
                "name": source.name,
                "file": file,
                "what": source.what,
                "items": len({number for number, _ in items}),
                "indexed": len(set(index.numbers.tolist())),
                "source": f"https://github.com/{origin['repo'].replace('+', '/')} at {origin['commit']}",
                "licence": source.licence,
                "sha256": digest,
            }
        )
        size = (FOLDER / file).stat().st_size
        print(f"{source.name}: {len(items)} texts, {len(index.hashes)} hashes, {size:,} bytes")
    (FOLDER / TABLE).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
