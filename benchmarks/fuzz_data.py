"""Mutated lines against `data prepare`: it must neither crash nor lose a line, whatever it is given.

    python benchmarks/fuzz_data.py [--lines 100000] [--seed 0]

Rows are damaged in a dozen ways (flipped, cut and repeated bytes, brackets, numbers, escapes, control
characters, deep nesting, wrong types) and prepared with every step switched on. Held for lines: each that is
not blank stands exactly once in what was written or rejected, and a second preparation gives the same bytes.
Whole files (JSON, CSV, JSONL, text) are prepared or refused with a ``DataError``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from tunewright.core.errors import DataError
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.split import SIDES

# fmt: off
PIECES = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\t",
    b"\\u0000", b"\\ud800", b"\\udc00", b"\\uffff", "\u202e".encode(), "\u200b".encode(), b"NaN",
    b"-Infinity",
    b"1e999", b"9" * 40, b"null", b"true", b'{"a":' * 70, b"[" * 70, b'"question":1,', b'"question":null,',
    b"<script>", b"&#64;", b"&amp;amp;", b"<|im_end|>", b"@example.com", b"4111 1111 1111 1111",
    b"+1-202-555-0147",
    b"AKIAIOSFODNN7EXAMPLE", b"-----BEGIN RSA PRIVATE KEY-----", b" " * 300, b"a" * 3000, b"\\n" * 100,
    "caf\u00c3\u00a9 \u00e2\u20ac\u201c".encode(), "\U0001f468\u200d\U0001f469".encode(), b"```", b"http://u:p@h/",
]
# fmt: on


def everything_on() -> PrepareSettings:
    """Every step of a preparation."""
    values = {"clean": {}, "redact": {}, "compare": {"near": "drop", "known": "note"}}
    return PrepareSettings.model_validate(values)


def sound_rows(count: int, seed: int) -> list[bytes]:
    """Rows without fault, one JSON object each."""
    rng = random.Random(seed)
    words = (
        "the",
        "order",
        "kidney",
        "Anna",
        "Smith",
        "paid",
        "12",
        "on",
        "Monday",
        "Berlin",
        "said",
        "thanks",
    )
    rows = []
    for number in range(count):
        said = " ".join(rng.choices(words, k=rng.randint(3, 40)))
        rows.append(
            json.dumps({"question": f"{number} {said}?", "answer": said[::-1], "hue": number}).encode()
        )
    return rows


def mutated(row: bytes, rng: random.Random) -> bytes:
    """``row`` with one to three damages; never with a line feed, so that lines can be counted."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at, way = rng.randrange(len(row) + 1), rng.randrange(7)
        if way == 0:
            row = row[:at]
        elif way == 1:
            row = row[:at] + bytes([rng.randrange(256)]) + row[at + 1 :]
        elif way == 2:
            row = row[:at] + row[at + rng.randrange(1, 30) :]
        elif way == 3:
            row = row[:at] + row[: rng.randrange(60)] + row[at:]
        elif way == 4:
            row = row.replace(rng.choice((b'"', b":", b"answer", b"question")), rng.choice(PIECES), 1)
        else:
            row = row[:at] + rng.choice(PIECES) + row[at:]
    return row.replace(b"\n", b" ")


def fuzz_lines(folder: Path, count: int, seed: int, settings: PrepareSettings) -> Counter[str]:
    """Prepare ``count`` mutated lines twice; raises ``AssertionError`` if a line is lost or bytes differ."""
    rng = random.Random(seed)
    lines = [mutated(row, rng) for row in sound_rows(count, seed)]
    source = folder / "mutated.jsonl"
    source.write_bytes(b"".join(line + b"\n" for line in lines))
    receipt = prepare_to(folder / "one", {"train": [source]}, settings)
    prepare_to(folder / "two", {"train": [source]}, settings, workers=2)
    for path in (folder / "one").iterdir():
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes(), f"{path.name} differs"
    entries = [e for name in ("rejected", *SIDES) for e in _entries(folder / "one" / f"{name}.jsonl")]
    seen = Counter(entry.get("line") or entry["meta"]["line"] for entry in entries)
    bare = [line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line for number, line in enumerate(lines)]
    wanted = {number for number, line in enumerate(bare, 1) if line and not line.isspace()}
    assert seen.keys() == wanted, f"lines lost or invented: {sorted(seen.keys() ^ wanted)[:5]}"
    assert max(seen.values()) == 1, "a line stands twice"
    return Counter({reason: n for step in receipt["steps"] for reason, n in step["rejected"].items()})


def fuzz_files(folder: Path, count: int, seed: int, settings: PrepareSettings) -> Counter[str]:
    """Prepare ``count`` whole files, mutated JSON, CSV and text; each is prepared or refused in words."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    rows = sound_rows(40, seed)
    whole = {
        "json": b"[" + b",\n".join(rows) + b"]",
        "csv": b"question,answer\n" + b"".join(b"%d,%d\n" % (i, i * 7) for i in range(40)),
        "jsonl": b"\n".join(rows),
        "txt": b"\n\n".join(rows),
    }
    for number in range(count):
        suffix, content = rng.choice(sorted(whole.items()))
        path = folder / f"f.{suffix}"
        path.write_bytes(mutated(content, rng) if suffix == "json" else _mutated_whole(content, rng))
        shutil.rmtree(folder / "whole", ignore_errors=True)
        try:
            prepare_to(folder / "whole", {"train": [path]}, settings)
            outcomes[f"{suffix} prepared"] += 1
        except DataError as error:
            assert str(error), f"file {number}: refused without a word"
            outcomes[f"{suffix} refused"] += 1
    return outcomes


def _mutated_whole(content: bytes, rng: random.Random) -> bytes:
    """Line feeds stay where they are not hit."""
    return b"\n".join(mutated(line, rng) if rng.random() < 0.2 else line for line in content.split(b"\n"))


def _entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = everything_on()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        reasons = fuzz_lines(Path(folder), given.lines, given.seed, settings)
        outcomes = fuzz_files(Path(folder), given.files, given.seed, settings)
    print(f"{given.lines:,} mutated lines prepared twice: none lost, same bytes; rejected by reason:")
    for reason, count in reasons.most_common():
        print(f"  {count:>7} {reason}")
    print(f"{given.files} mutated files: " + ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items())))
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
