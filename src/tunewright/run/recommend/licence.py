"""Under which licence a data set stands, as far as something in it or beside it says so.

What is found is a claim and no legal advice: where it was found is always told with it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from tunewright.data.container import container_of
from tunewright.data.raw_rows import raw_rows
from tunewright.data.rows import Notes

COLUMNS = ("license", "licence")
ROWS = 1000  # rows whose licence column is read
HEAD = 20_000  # characters of a file that are read for the name of a licence
SHOWN = 60  # characters of a licence that is not known by name
FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
# The first that matches counts, so what is more special stands before what is more general.
KNOWN: tuple[tuple[str, str], ...] = (
    (r"apache license,?\s+version 2\.0|\bapache-2\.0\b", "Apache-2.0"),
    (r"gnu affero general public license|\bagpl-3", "AGPL-3.0"),
    (r"gnu lesser general public license|\blgpl-", "LGPL"),
    (r"gnu general public license|\bgpl-[23]", "GPL"),
    (r"mozilla public license|\bmpl-2\.0\b", "MPL-2.0"),
    (r"cc0 1\.0|creative commons zero|\bcc0-1\.0\b", "CC0-1.0"),
    (r"attribution-noncommercial-sharealike 4\.0|\bcc[- ]by-nc-sa[- ]4\.0\b", "CC-BY-NC-SA-4.0"),
    (r"attribution-noncommercial 4\.0|\bcc[- ]by-nc[- ]4\.0\b", "CC-BY-NC-4.0"),
    (r"attribution-sharealike 4\.0|\bcc[- ]by-sa[- ]4\.0\b", "CC-BY-SA-4.0"),
    (r"attribution-sharealike 3\.0|\bcc[- ]by-sa[- ]3\.0\b", "CC-BY-SA-3.0"),
    (r"attribution 4\.0|\bcc[- ]by[- ]4\.0\b", "CC-BY-4.0"),
    (r"redistribution and use in source and binary forms|\bbsd-[23]-clause\b", "BSD"),
    (r"permission is hereby granted, free of charge|\bmit license\b|\A\s*mit\s*\Z", "MIT"),
)  # fmt: skip


@dataclass(frozen=True)
class Licence:
    """``name`` is an SPDX name where it is known, else the words found; ``said_by`` is where they stand."""

    name: str
    said_by: str


def licences_of(path: Path) -> list[Licence]:
    """What a ``license`` column, a licence or SOURCE file and a README beside ``path`` say; often nothing.

    A column comes first, because it speaks of each row; each name is given once.
    """
    found = [*_of_column(path), *_of_files(path)]
    return list({licence.name: licence for licence in reversed(found)}.values())[::-1]


def name_in(text: str) -> str | None:
    """The SPDX name of a licence that ``text`` is or names, if it is a known one."""
    plain = " ".join(text[:HEAD].casefold().split())
    return next((name for pattern, name in KNOWN if re.search(pattern, plain)), None)


def _of_column(path: Path) -> list[Licence]:
    counts: Counter[str] = Counter()
    for raw in islice(raw_rows(path, container_of(path), Notes()), ROWS):
        row = raw.value if isinstance(raw.value, dict) else {}
        counts.update(str(row[key]) for key in COLUMNS if isinstance(row.get(key), str) and row[key].strip())
    looked = f"of the first {ROWS:,} rows" if sum(counts.values()) >= ROWS else "of the rows"
    return [
        Licence(name_in(said) or said.strip()[:SHOWN], f"column {looked}, {count} times")
        for said, count in counts.most_common()
    ]


def _of_files(path: Path) -> list[Licence]:
    found = []
    for file in sorted(path.parent.iterdir()):
        stem = file.name.casefold()
        if not file.is_file() or file == path:
            continue
        if stem.startswith(("license", "licence", "copying")) or stem == f"{path.name.casefold()}.license":
            text = _head(file)
            found.append(Licence(name_in(text) or _first_line(text), file.name))
        elif stem.startswith("source") and (name := name_in(_head(file))):
            found.append(Licence(name, file.name))
        elif stem.startswith("readme") and (said := _of_front_matter(_head(file))):
            found.append(Licence(name_in(said) or said, file.name))
    return found


def _of_front_matter(text: str) -> str | None:
    """The value of ``license`` in the YAML that a README may begin with."""
    match = FRONT.match(text)
    if match is None:
        return None
    try:
        facts = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return None  # a README is not ours to mend; it then says nothing
    said = next((facts[key] for key in COLUMNS if facts.get(key)), None) if isinstance(facts, dict) else None
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said) if said else None


def _head(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as f:
        return f.read(HEAD)


def _first_line(text: str) -> str:
    return next((line.strip()[:SHOWN] for line in text.splitlines() if line.strip()), "an empty file")
