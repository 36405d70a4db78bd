"""Why something that a model wrote, or was to write from, is not used; see ``docs/synthetic.md``."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = {
    "short_passage": "a passage too short to ask about",
    "unsuitable": "a row that cannot be made from: no question, no answer, no label, or synthetic itself",
    "asks_test": "a row to make from whose question stands in the test data",
    "malformed": "no reply of the form that was asked for, in all tries",
    "refused": "a request that the server refused",
    "unsupported": "a question or an answer that its passage does not support",
    "other_facts": "a paraphrase that lost or gained a number, a name in brackets, code or an address",
    "other_meaning": "a text that has next to no word of what it was made from",
    "same": "a text that says the same as what it was made from",
    "length": "a text far shorter or longer than what it was made from",
    "copies_test": "a prompt that holds a question of the test data, or eight words of one in a row",
    "duplicate": "the same as a real row or an earlier synthetic one",
    "near_duplicate": "nearly the same as a real row or an earlier synthetic one",
}


@dataclass(frozen=True, slots=True)
class Left:
    """One thing that was left out: where it was made from, why (a code of ``REASONS``), and what was met.

    ``detail`` never holds the text itself, which may be private.
    """

    source: str
    line: int
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.reason in REASONS, f"unknown reason {self.reason!r}"
