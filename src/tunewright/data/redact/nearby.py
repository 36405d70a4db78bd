"""The words around a match: what makes a run of digits a phone number, or an order number."""

from __future__ import annotations

import re
from collections.abc import Iterable

BEFORE, AFTER = 48, 24  # code points that are looked at


def cue(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of ``words`` (regular expressions, lower case) as whole words."""
    return re.compile(r"(?<!\w)(?:" + "|".join(words) + r")(?!\w)")


def holds_any(text: str, words: Iterable[str]) -> bool:
    """Whether any of ``words`` stands in ``text``: a plain loop is the fastest."""
    for word in words:  # noqa: SIM110
        if word in text:
            return True
    return False


_NUMBER = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){4,}")  # five digits near each other, or more


def ahead_of_numbers(text: str, lower: str, reach: int = 90) -> str:
    """What stands at most ``reach`` before long numbers, where the words that name them stand."""
    parts = [lower[max(0, m.start() - reach) : m.start() + 1] for m in _NUMBER.finditer(text)]
    return "\n".join(parts)


def before(text: str, start: int, reach: int = BEFORE) -> str:
    """What stands before a match, in lower case."""
    return text[max(0, start - reach) : start].lower()


def after(text: str, end: int, reach: int = AFTER) -> str:
    """What stands behind a match, in lower case."""
    return text[end : end + reach].lower()


# Words that say: this number counts things or names a thing, not a person.
NOT_PERSONAL = cue(
    [
        r"orders?",
        r"order (?:number|no|id)",
        r"invoices?",
        r"tracking",
        r"shipment",
        r"parcel",
        r"tickets?",
        r"case (?:number|no|id)",
        r"ref(?:erence)?s?",
        r"isbn(?:-1[03])?",
        r"issn",
        r"doi",
        r"ean",
        r"upc",
        r"imei",
        r"sku",
        r"serial",
        r"part (?:number|no)",
        r"model",
        r"batch",
        r"lot",
        r"trial",
        r"nct",
        r"score",
        r"scores",
        r"pmid",
        r"arxiv",
        r"patent",
        r"version",
        r"commit",
        r"build",
        r"port",
        r"article number",
        r"bestellnummer",
        r"rechnung(?:snummer)?",
        r"commande",
        r"pedido",
        r"zamówieni[ae]",
        r"timestamp",
        r"epoch",
    ]
)


def counts_things(text: str, start: int) -> bool:
    """Whether the words just before say that the number is that of an order, a ticket, a trial …"""
    return NOT_PERSONAL.search(before(text, start, 28)) is not None
