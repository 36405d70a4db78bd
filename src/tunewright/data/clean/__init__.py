"""Cleaning: small filters that mend a row, note something about it, or leave it out with a reason.

    >>> row = Conversation((Message("user", "Drinks?"), Message("assistant", "Tea &amp; coffee.\\u200b")))
    >>> kept = clean(row, CleanSettings())
    >>> kept.example.messages[-1].content, [reason for reason, _ in kept.changes]
    ('Tea & coffee.', ['invisible_chars', 'html'])

``filters.py`` has the filters of single rows in one table, ``file.py`` those that need counts over a file.
"""

from tunewright.data.clean.answers import PLACEHOLDERS, is_placeholder
from tunewright.data.clean.characters import has_invisible, has_mojibake
from tunewright.data.clean.file import Counts, Facts, Found, counted, decide, facts_of, judge
from tunewright.data.clean.filters import FILTERS, Filter
from tunewright.data.clean.language import language_of
from tunewright.data.clean.markup import has_html
from tunewright.data.clean.outcome import Change, Drop, Keep, Outcome, problems_of
from tunewright.data.clean.refusals import refuses
from tunewright.data.clean.repeats import repeats_itself
from tunewright.data.clean.rows import clean
from tunewright.data.clean.settings import STEPS, CleanSettings

__all__ = [
    "FILTERS",
    "PLACEHOLDERS",
    "STEPS",
    "Change",
    "CleanSettings",
    "Counts",
    "Drop",
    "Facts",
    "Filter",
    "Found",
    "Keep",
    "Outcome",
    "clean",
    "counted",
    "decide",
    "facts_of",
    "has_html",
    "has_invisible",
    "has_mojibake",
    "is_placeholder",
    "judge",
    "language_of",
    "problems_of",
    "refuses",
    "repeats_itself",
]
