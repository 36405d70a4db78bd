"""The whole audit: rows are offered while they stream by, the parts look at the sample at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tunewright.core.errors import DataError
from tunewright.data.audit.counterfactual import counterfactual_pairs
from tunewright.data.audit.coverage import representativeness
from tunewright.data.audit.drift import drift
from tunewright.data.audit.groups import groups_of_people
from tunewright.data.audit.label_errors import label_errors
from tunewright.data.audit.poisoning import poisoning
from tunewright.data.audit.profiles import label_balance, languages, lengths
from tunewright.data.audit.result import Part
from tunewright.data.audit.sample import Reservoir, Row
from tunewright.data.audit.settings import AuditSettings
from tunewright.data.keys import row_key
from tunewright.data.load import Reader
from tunewright.data.problems import Problem

FEWEST = 20  # rows, below which nothing is said at all


@dataclass
class Audit:
    """Collects the sample. ``refuses`` says whether an answer is a refusal."""

    settings: AuditSettings
    refuses: Callable[[str], bool]
    columns: Mapping[str, str] | None = None
    sample: Reservoir = field(init=False)

    def __post_init__(self) -> None:
        self.sample = Reservoir(self.settings.rows, self.settings.seed)

    def parts(self, labels: Mapping[str, int]) -> list[Part]:
        """Every part of the report, in the order in which it is read. ``labels`` counts the rows of each
        label over all rows. Raises ``DataError`` if the production file has no usable row, or no row has the
        time column."""
        rows, total, seed = self.sample.rows(), self.sample.seen, self.settings.seed
        if self.settings.time and rows and all(row.time is None for row in rows):
            raise DataError(f"no row has the time column {self.settings.time!r}; look at the keys of a row")
        if len(rows) < FEWEST:
            return []
        found = [
            lengths(rows, total),
            languages(rows, total),
            label_balance(labels, total),
            label_errors(rows, total, seed),
        ]
        if self.settings.production:
            found.append(representativeness(rows, self._production(), total, seed))
        found += [groups_of_people(rows, total, self.refuses), counterfactual_pairs(rows, total)]
        if self.settings.time:
            found.append(drift(rows, total, self.settings.time, seed))
        return [*found, poisoning(rows, total)]

    def _production(self) -> list[Row]:
        """A sample of the production file, whose rows are read by the same rules, mapped if they must be."""
        path = str(self.settings.production)
        sample = Reservoir(self.settings.rows, self.settings.seed)
        for item in self._reader(path):
            if not isinstance(item, Problem):
                sample.add(item, row_key(item))
        if not sample.seen:
            raise DataError(f"{path} has no usable row; see `tunewright data check {path}`")
        return sample.rows()

    def _reader(self, path: str) -> Reader:
        """The file as it is, or with the columns mapped if it is of no known format."""
        plain = Reader(path)
        if not self.columns:
            return plain
        try:
            next(plain.raws(), None)
        except DataError:
            return Reader(path, columns=self.columns)
        return Reader(path)
