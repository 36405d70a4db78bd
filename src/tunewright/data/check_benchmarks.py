"""Items of benchmarks in the rows that ``data check`` reads: looked up by hashes, many rows at a time."""

from __future__ import annotations

from collections import defaultdict

from tunewright.core.records import Example
from tunewright.data.check_tally import PLACES, Finding
from tunewright.data.contamination.index import Index
from tunewright.data.dedupe.sketch import row_text

AT_ONCE = 256
WHY = "A model that was trained on test items proves nothing on that test."
ADVICE = "Leave the rows out: tunewright data prepare --benchmark, or --known drop."


class LookUp:
    """Collects rows and says which benchmarks have items in them."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: list[tuple[str, str]] = []
        self._rows: dict[str, dict[str, None]] = defaultdict(dict)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, example: Example) -> None:
        """Look at one more row."""
        self._waiting.append((example.meta.where(), row_text(example)))
        if len(self._waiting) == AT_ONCE:
            self._look()

    def findings(self) -> list[Finding]:
        """One finding for each benchmark that has items in the rows."""
        self._look()
        return [
            Finding("in_benchmark", f"rows with items of {name}", count, tuple(self._rows[name]), WHY, ADVICE)
            for name, count in sorted(self._counts.items())
        ]

    def _look(self) -> None:
        places = [place for place, _ in self._waiting]
        matches = self._index.hits([text for _, text in self._waiting])
        for row, name in dict.fromkeys((match.row, match.benchmark) for match in matches):
            self._counts[name] += 1
            if len(self._rows[name]) < PLACES:
                self._rows[name][places[row]] = None
        self._waiting = []
