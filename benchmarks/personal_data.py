"""What the search for personal data finds and what it costs, on data sets with known answers.

    python benchmarks/personal_data.py [--data ../shared/data]

Prints, for each type, how many values there are, the share that is acted on (recall), the share that is at
least asked about, and the share of what was acted on that is personal data by the truth (precision); then
false hits on rows without any, and the time a row costs. CPU time of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tunewright.data.redact.redactor import Redactor
from tunewright.data.redact.settings import RedactSettings

KEY = b"benchmark key, not a secret one."
SAME = {
    "PHONE_NUMBER": "PHONE",
    "EMAIL_ADDRESS": "EMAIL",
    "IBAN_CODE": "IBAN",
    "US_DRIVER_LICENSE": "DRIVER_LICENSE",
}
STRUCTURED = ("CREDIT_CARD", "PHONE", "IBAN", "IP_ADDRESS", "EMAIL", "API_KEY", "US_SSN", "DATE_OF_BIRTH")
BATCH = 64


class Span(NamedTuple):
    """A value that stands in a text by the truth."""

    start: int
    end: int
    type: str


Item = tuple[str, list[Span]]


class Score(NamedTuple):
    """One type: how many values, found, at least asked about; acted on in all, and of these right."""

    values: int
    found: int
    asked: int
    acted: int
    right: int

    @property
    def recall(self) -> float:
        return self.found / max(1, self.values)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.acted)


def messy(data: Path) -> Iterator[tuple[str, Item]]:
    """(kind of row, item) of ``messy_raw``, field ``instruction``; rows that are not JSON are left out."""
    lines = (data / "messy_raw" / "messy.jsonl").read_bytes().split(b"\n")
    for record in map(json.loads, (data / "messy_raw" / "truth.jsonl").read_text().splitlines()):
        try:
            row = json.loads(lines[record["line"] - 1].decode("utf-8-sig"))
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("instruction"), str):
            spans = [Span(s["start"], s["end"], s["type"]) for s in record.get("spans", [])]
            yield record["kind"], (row["instruction"], spans)


def presidio(data: Path) -> list[Item]:
    """The texts of ``pii_presidio_v2``, types under our names."""
    rows = json.loads((data / "pii_presidio_v2" / "synth_dataset_v2.json").read_text())
    return [
        (
            row["full_text"],
            [
                Span(s["start_position"], s["end_position"], SAME.get(s["entity_type"], s["entity_type"]))
                for s in row["spans"]
            ],
        )
        for row in rows
    ]


def medquad(data: Path) -> list[dict[str, str]]:
    """Questions and answers as rows."""
    text = (data / "domainqa_medquad" / "medquad_dev.jsonl").read_text()
    return [{"question": r["question"], "answer": r["answer"]} for r in map(json.loads, text.splitlines())]


def redacted(rows: list[dict[str, Any]], names: str) -> list[Any]:
    """All rows, in batches as ``data prepare`` treats them."""
    redactor = Redactor(RedactSettings(names=names), KEY)  # type: ignore[arg-type]
    return [
        done
        for at in range(0, len(rows), BATCH)
        for done in redactor.rows(rows[at : at + BATCH], lambda key: True)
    ]


def scores(items: Iterable[Item], names: str = "full") -> dict[str, Score]:
    """Per type. A value is found if one redaction of its type covers it (a name, an address: touches it);
    a redaction is right if it touches any value of the truth, because types overlap in meaning."""
    items = list(items)
    counts: dict[str, Counter[str]] = {}
    for (_, spans), done in zip(items, redacted([{"text": text} for text, _ in items], names), strict=True):
        for span in spans:
            count = counts.setdefault(span.type, Counter())
            count["values"] += 1
            hits = [r for r in done.redactions if r.type == span.type]
            count["found"] += any(_covers(r, span) for r in hits)
            count["asked"] += any(
                _covers(r, span) for r in [*hits, *(q for q in done.questions if q.type == span.type)]
            )
        for r in done.redactions:
            count = counts.setdefault(r.type, Counter())
            count["acted"] += 1
            count["right"] += any(r.start < s.end and s.start < r.end for s in spans)
    return {
        kind: Score(c["values"], c["found"], c["asked"], c["acted"], c["right"])
        for kind, c in sorted(counts.items())
    }


def _covers(hit: Any, span: Span) -> bool:
    if span.type in ("PERSON", "ORGANIZATION", "STREET_ADDRESS"):
        return bool(hit.start < span.end and span.start < hit.end)
    return bool(hit.start <= span.start and span.end <= hit.end)


def together(table: dict[str, Score], kinds: Iterable[str]) -> Score:
    """The sum over some types."""
    some = [table[kind] for kind in kinds if kind in table]
    return Score(*(sum(column) for column in zip(*some, strict=True)))


def false_hits(items: Iterable[Item], names: str) -> tuple[int, float, float]:
    """Rows, and per 1,000 rows how many are acted on and how many raise a question, where nothing is planted."""  # noqa: E501
    done = redacted([{"text": text} for text, _ in items], names)
    return (
        len(done),
        1000 * sum(bool(d.redactions) for d in done) / max(1, len(done)),
        1000 * sum(bool(d.questions) for d in done) / max(1, len(done)),
    )


def cost(rows: list[dict[str, str]], names: str) -> float:
    """CPU microseconds per 1,000 characters, the start left out."""
    redacted([*rows[:3], {"text": "My account is 12345678."}], names)  # loads what a row may call for
    start = time.process_time()
    redacted(rows, names)
    return (time.process_time() - start) / sum(len(v) for row in rows for v in row.values()) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / ".." / "shared" / "data")
    data = parser.parse_args().data
    rows = list(messy(data))
    for name, items in (
        ("messy_raw, instruction", [i for _, i in rows]),
        ("pii_presidio_v2", presidio(data)),
    ):
        for names in ("full", "cues"):
            table = scores(items, names)
            print(
                f"\n{name}, names: {names}\n{'type':<18}{'values':>7}{'recall':>8}{'or asked':>10}{'precision':>11}"  # noqa: E501
            )
            table["(structured)"] = together(table, STRUCTURED)
            table["(and address)"] = together(table, (*STRUCTURED, "STREET_ADDRESS"))
            for kind, s in table.items():
                print(
                    f"{kind:<18}{s.values:>7}{s.recall:>8.3f}{s.asked / max(1, s.values):>10.3f}{s.precision:>11.3f}"  # noqa: E501
                )
    for kinds in (("clean",), ("pii_trap",)):
        for names in ("full", "cues"):
            count, acted, asked = false_hits([i for kind, i in rows if kind in kinds], names)
            print(
                f"\n{kinds[0]} rows, names: {names}: {count}; per 1,000: {acted:.1f} acted on, {asked:.1f} asked about"  # noqa: E501
            )
    texts = medquad(data)
    for names, some in (("off", texts), ("cues", texts), ("full", texts[:300])):
        each = cost(some, names)
        print(f"MedQuAD, names: {names}: {each:.0f} us per 1 kB row, {1e6 / each:.0f} rows/s on one core")


if __name__ == "__main__":
    main()
