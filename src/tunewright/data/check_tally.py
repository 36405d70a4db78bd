"""What ``data check`` counts while rows go by: kinds, sizes, labels, numbers, and rows that meet others."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import orjson

from tunewright.core.records import Example, Labelled, Preference, Ranking, kind_of
from tunewright.data.check_rules import (
    ROW_RULES,
    answers_in,
    not_searched,
    personal_code,
    personal_kinds,
    personal_words,
    rules_met,
)
from tunewright.data.classes import labels_of
from tunewright.data.keys import (
    Key,
    answer_of,
    look_alike_key,
    normalise,
    prompt_key,
    question_key,
    row_key,
    texts_of,
)
from tunewright.data.redact.findings import TYPES

PLACES = 5
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspicion: how many rows, where the first few stand, why it matters, and what to do."""

    code: str
    what: str
    count: int
    places: tuple[str, ...]
    why: str
    advice: str


@dataclass
class _Hits:
    """How many rows, and where the first ones stand."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place)


@dataclass
class FileProfile:
    """What can be judged only when the whole file was read: short answers, answers that should be JSON."""

    words: array[int] = field(default_factory=lambda: array("I"))
    one_word: _Hits = field(default_factory=_Hits)
    json_answers: int = 0
    not_json: _Hits = field(default_factory=_Hits)

    def add(self, answer: str, place: str) -> None:
        words = len(answer.split())
        self.words.append(words)
        if words <= 1:
            self.one_word.add(place)
        if _is_json(answer):
            self.json_answers += 1
        else:
            self.not_json.add(place)

    def report_to(self, tally: Tally) -> None:
        """Short answers count where the median is 10 words, broken JSON where 80 % of answers are JSON."""
        if self.one_word.count and sorted(self.words)[(len(self.words) - 1) // 2] >= 10:
            tally.hits["short_answer"].count += self.one_word.count
            tally.hits["short_answer"].places += self.one_word.places
        if self.not_json.count and self.json_answers > 0.8 * len(self.words):
            tally.hits["broken_json_answer"].count += self.not_json.count
            tally.hits["broken_json_answer"].places += self.not_json.places


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


@dataclass
class Tally:
    """Everything that is counted over all rows of all files."""

    kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    hits: dict[str, _Hits] = field(default_factory=lambda: defaultdict(_Hits))
    _sizes: dict[str, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("I")))
    _numbers: dict[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    _rows: set[Key] = field(default_factory=set)
    _alike: set[Key] = field(default_factory=set)
    _answers: dict[Key, int] = field(default_factory=dict)
    _prompts: dict[Key, str] = field(default_factory=dict)

    def add(self, example: Example, source: str, profile: FileProfile) -> Key:
        """Count one example of the file ``source``; returns its ``row_key``."""
        place = example.meta.where()
        self.kept += 1
        self.kinds[kind_of(example)] += 1
        texts, answers = list(texts_of(example)), answers_in(example)
        self._measure("row", texts)
        if answers:
            self._measure("answer", answers)
            profile.add(answers[-1], place)
        if isinstance(example, Labelled):
            self.labels.update(label for _, label in labels_of(example))
        for name, numbers in numbers_of(example).items():
            self._numbers[name].extend(numbers)
        for rule in rules_met(example):
            self.hits[rule.code].add(place)
        for kind in personal_kinds(texts):
            self.hits[personal_code(kind)].add(place)
        return self._compare(example, source, place)

    def _compare(self, example: Example, source: str, place: str) -> Key:
        """Duplicates, contradictions and prompts that stand in two files."""
        row, question, prompt = row_key(example), question_key(example), prompt_key(example)
        alike = look_alike_key(example)
        if row in self._rows:
            self.hits["duplicate"].add(place)
        elif alike in self._alike:
            self.hits["look_alike"].add(place)
        self._rows.add(row)
        self._alike.add(alike)
        answer = hash(normalise(answer_of(example)))
        if self._answers.setdefault(question, answer) != answer:
            self.hits["contradiction"].add(place)
        if self._prompts.setdefault(prompt, source) != source:
            self.hits["contamination"].add(place)
        return row

    def _measure(self, name: str, texts: list[str]) -> None:
        self._sizes[f"{name} words"].append(sum(len(text.split()) for text in texts))
        self._sizes[f"{name} characters"].append(sum(map(len, texts)))

    def quantiles(self) -> dict[str, dict[str, list[int]]]:
        """Quantiles (nearest rank) of the sizes of rows and of answers, in words and in characters."""
        result: dict[str, dict[str, list[int]]] = defaultdict(dict)
        for name, sizes in self._sizes.items():
            what, unit = name.split()
            result[what][unit] = _quantiles(sizes)
        return dict(result)

    def number_quantiles(self) -> dict[str, list[float]]:
        """Quantiles (nearest rank) of the labels that are numbers, of margins and of scores."""
        return {name: _quantiles(values) for name, values in self._numbers.items()}

    def labels_table(self) -> dict[str, int]:
        """Rows per label, the most frequent first."""
        return dict(sorted(self.labels.items(), key=lambda item: (-item[1], item[0])))

    def findings(self) -> list[Finding]:
        """One ``Finding`` per trait that some row has, in the order of the tables."""
        known = [(r.code, r.what, r.why, r.advice) for r in ROW_RULES]
        known += [(personal_code(kind), *personal_words(kind)) for kind in TYPES]
        found = [
            Finding(code, what, self.hits[code].count, tuple(self.hits[code].places[:PLACES]), why, advice)
            for code, what, why, advice in (*CROSS_ROW, *known)
            if code in self.hits
        ]
        if self.kept and (said := not_searched()):
            found.append(Finding("personal_not_searched", said[0], self.kept, (), *said[1:]))
        return found + self._balance()

    def _balance(self) -> list[Finding]:
        """A finding if the largest class has ten times the rows of the smallest, or a class has one row."""
        classes = len(self.labels)
        if not 2 <= classes <= max(2, self.kept // 2):
            return []
        sizes = sorted(self.labels.values())
        if sizes[0] > 1 and sizes[-1] <= 10 * sizes[0]:
            return []
        what = f"{classes} labels with {sizes[0]} to {sizes[-1]} rows each"
        why, advice = "Rare labels are learned badly and measured badly.", "Add rows of the rare labels."
        return [Finding("label_imbalance", what, sum(n * 10 < sizes[-1] for n in sizes), (), why, advice)]


def _quantiles(values: array[Any]) -> list[Any]:
    ordered = sorted(values)
    return [ordered[round(q * (len(ordered) - 1))] for q in QUANTILES]


def numbers_of(example: Example) -> dict[str, tuple[float, ...]]:
    """The numbers that a row gives, by what they are."""
    if isinstance(example, Labelled) and isinstance(example.label, float):
        return {"label": (example.label,)}
    if isinstance(example, Preference) and example.margin is not None:
        return {"margin": (example.margin,)}
    return {"score": example.scores} if isinstance(example, Ranking) else {}


CROSS_ROW = (
    (
        "contamination",
        "prompts that also stand in an earlier one of the files",
        "A test that was trained on proves nothing.",
        "Prepare the files together; the rows are then kept out of train.",
    ),
    (
        "duplicate",
        "exact duplicates (white space aside)",
        "They count double in training and leak across a split.",
        "Nothing to do; preparing drops them.",
    ),
    (
        "look_alike",
        "rows that differ from another only in case, or in what stands beside the text",
        "They may be one row written twice; preparing keeps both, on one side of the split.",
        "Look at them; drop one where the difference means nothing.",
    ),
    (
        "contradiction",
        "prompts that were answered differently before",
        "The model cannot learn both; measured quality is capped.",
        "Keep one answer, or add what tells them apart to the prompt.",
    ),
    (
        "short_answer",
        "answers of one word, in a file whose answers are long",
        "They may be cut off or misplaced.",
        "Look at them.",
    ),
    (
        "broken_json_answer",
        "answers that do not parse, in a file whose answers are JSON",
        "The model learns to write broken JSON.",
        "Mend or drop them.",
    ),
)  # fmt: skip
