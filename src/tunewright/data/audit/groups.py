"""Sensitive attributes in texts: how often each group is named, and whether its rows come out differently.

A group's rows (the prompt names it) are compared with rows that name another group of the same attribute, or,
where these are too few, with rows that name none. All comparisons of all groups are corrected together
(Holm). A difference is not yet unfair: rows that name a group may ask other things. It is where to look.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache

from tunewright.data.audit.intervals import Estimate, auc, holm, p_of_auc, share, share_difference
from tunewright.data.audit.result import Part, share_text, shortened, skipped
from tunewright.data.audit.sample import Row, classes_of, drawn, within
from tunewright.data.audit.tone import is_negative, is_toxic
from tunewright.data.audit.words_groups import GROUPS

NAME = "groups of people"
ROWS, CHARACTERS = 20_000, 8_000_000
FEWEST = 20  # rows on each side of a comparison
LABELS = 10  # the most frequent ones are compared
CERTAIN = 0.05  # after correction
Group = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One outcome of a group's rows against ``against`` (another group's rows, or those that name none).

    Shares: ``value`` minus ``other``. Length: ``difference`` is the probability that the group's answer is
    longer, minus one half. ``p`` is corrected for all comparisons made.
    """

    attribute: str
    group: str
    against: str
    outcome: str
    value: float
    other: float
    n: int
    n_other: int
    difference: Estimate
    p: float

    def sentence(self) -> str:
        """The finding in words."""
        who = f"{self.attribute}: rows that name {self.group!r} ({self.n})"
        who += f" against {self.against} ({self.n_other})"
        if self.outcome == "answer length":
            how = "longer" if self.difference.value > 0 else "shorter"
            low, high = sorted((abs(self.difference.low), abs(self.difference.high)))
            odds = 0.5 + abs(self.difference.value)
            return (
                f"{who}: {how} answers (median {self.value:.0f} against {self.other:.0f} words; {how} in"
                f" {100 * odds:.0f} % [{50 + 100 * low:.0f}, {50 + 100 * high:.0f}] of pairs)"
            )
        return (
            f"{who}: {self.outcome} {100 * self.value:.1f} % against {100 * self.other:.1f} % (difference"
            f" {share_text(*self.difference)}, corrected p {self.p:.2g})"
        )


@cache
def _finder() -> tuple[dict[str, Group], re.Pattern[str]]:
    """Group of each word, and one pattern for all of them, the longest first."""
    known = {word: (a, g) for a, groups in GROUPS.items() for g, words in groups.items() for word in words}
    longest = sorted(known, key=lambda word: (-len(word), word))
    return known, re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, longest)) + r")(?![\w-])")


def groups_in(text: str) -> frozenset[Group]:
    """The (attribute, group) pairs that a text names."""
    known, pattern = _finder()
    found = set(pattern.findall(text.lower()))
    found |= {last for phrase in found if " " in phrase and (last := phrase.rpartition(" ")[2]) in known}
    return frozenset(known[word] for word in found)


def groups_of_people(rows: Sequence[Row], total: int, refuses: Callable[[str], bool]) -> Part:
    """The part of the report. ``refuses`` says whether an answer is a refusal."""
    rows = within(rows, CHARACTERS, ROWS)
    named = [groups_in(row.prompt) for row in rows]
    counts = Counter(group for found in named for group in found)
    if not counts:
        return skipped(NAME, "No row names a group of people in words that the lists hold.", len(rows), total)
    tests = list(_tests(rows, named, counts, refuses))
    adjusted = holm([p for _, p in tests])
    found = [_with_p(d, p) for (d, _), p in zip(tests, adjusted, strict=True) if p < CERTAIN]
    found.sort(key=lambda d: (d.p, d.attribute, d.group, d.outcome))
    attributes = Counter(a for found_in in named for a in {a for a, _ in found_in})
    lines = [d.sentence() for d in found]
    return Part(
        NAME,
        "look" if found else "fine",
        _measured(rows, counts, attributes, len(tests), total),
        "A model learns such differences as if the group were their cause; rows may also ask other things."
        if found
        else "No outcome differs between groups by more than chance, where there are enough rows to tell.",
        "Read rows of both sides; balance them, or add the swapped row of each (counterfactual pairs)."
        if found
        else "Nothing to do; counts are lower bounds (keywords, English).",
        len(rows),
        total,
        shortened(lines),
        {
            "counts": {f"{a}: {g}": n for (a, g), n in sorted(counts.items())},
            "named": {a: share(n, len(rows))._asdict() for a, n in sorted(attributes.items())},
            "comparisons": len(tests),
            "differences": [{**asdict(d), "difference": d.difference._asdict()} for d in found],
        },
    )


def _measured(
    rows: Sequence[Row], counts: Counter[Group], attributes: Counter[str], tests: int, total: int
) -> str:
    parts = []
    for attribute, n in attributes.most_common():
        groups = sorted(((c, g) for (a, g), c in counts.items() if a == attribute), reverse=True)
        shown = ", ".join(f"{g} {c}" for c, g in groups[:4])
        parts.append(f"{attribute} in {share_text(*share(n, len(rows)))} ({shown})")
    return f"{drawn(len(rows), total)}: {'; '.join(parts)}; {tests} comparisons of outcomes"


def _with_p(difference: Difference, p: float) -> Difference:
    return Difference(**{**{f: getattr(difference, f) for f in Difference.__slots__}, "p": p})


def _tests(
    rows: Sequence[Row],
    named: Sequence[frozenset[Group]],
    counts: Counter[Group],
    refuses: Callable[[str], bool],
) -> Iterator[tuple[Difference, float]]:
    outcomes = _outcomes(rows, refuses)
    lengths = [len(row.answer.split()) if row.answer else -1 for row in rows]
    done: set[tuple[str, str, str]] = set()
    for attribute, group in sorted(counts):
        mine = [i for i, found in enumerate(named) if _only(found, attribute) == group]
        other = [i for i, found in enumerate(named) if _only(found, attribute) not in (group, None, "")]
        others = {_only(named[i], attribute) for i in other}
        one = next(iter(others), None) if len(others) == 1 else None
        against = f"rows that name {one!r}" if one else f"rows that name another {attribute}"
        if len(other) < FEWEST:
            other = [i for i, found in enumerate(named) if _only(found, attribute) == ""]
            against = "rows that name none"
        if min(len(mine), len(other)) < FEWEST:
            continue
        who = (attribute, group, against)
        if len(others) == 1:  # two groups give one comparison, not two
            if (attribute, *others, f"rows that name {group!r}") in done:
                continue
            done.add(who)
        yield from _of_shares(who, mine, other, outcomes)
        yield from _of_lengths(who, [lengths[i] for i in mine], [lengths[i] for i in other])


def _only(found: frozenset[Group], attribute: str) -> str | None:
    """The one group of this attribute; "" for none, ``None`` for several, which belong to no side."""
    groups = [g for a, g in found if a == attribute]
    return groups[0] if len(groups) == 1 else None if groups else ""


def _outcomes(rows: Sequence[Row], refuses: Callable[[str], bool]) -> dict[str, list[bool]]:
    """Yes or no for each row, by the outcome's name; those that no row has are left out."""
    classes = classes_of(rows)
    frequent = [c for c, _ in Counter(c for c in classes if c is not None).most_common(LABELS)]
    found = {f"label {c!r}": [known == c for known in classes] for c in frequent}
    found["refused"] = [bool(row.answer) and refuses(row.answer) for row in rows]
    found["negative words in the answer"] = [is_negative(row.answer) for row in rows]
    found["abusive words in the answer"] = [is_toxic(row.answer) for row in rows]
    return {name: values for name, values in found.items() if any(values)}


def _of_shares(
    who: tuple[str, str, str], mine: list[int], other: list[int], outcomes: dict[str, list[bool]]
) -> Iterator[tuple[Difference, float]]:
    for name, values in outcomes.items():
        hits = sum(values[i] for i in mine), sum(values[i] for i in other)
        gap, p = share_difference(hits, (len(mine), len(other)))
        rates = hits[0] / len(mine), hits[1] / len(other)
        yield Difference(*who, name, *rates, len(mine), len(other), gap, p), p


def _of_lengths(
    who: tuple[str, str, str], mine: list[int], other: list[int]
) -> Iterator[tuple[Difference, float]]:
    mine, other = sorted(n for n in mine if n >= 0), sorted(n for n in other if n >= 0)
    if min(len(mine), len(other)) >= FEWEST:
        found = auc(mine, other)
        gap = Estimate(*(x - 0.5 for x in found))
        medians = float(mine[len(mine) // 2]), float(other[len(other) // 2])
        p = p_of_auc(found)
        yield Difference(*who, "answer length", *medians, len(mine), len(other), gap, p), p
