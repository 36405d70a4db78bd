"""All kinds of personal data that have a shape. A cheap look at the text decides which are searched for."""

from __future__ import annotations

import re
from collections.abc import Callable

from tunewright.data.redact.birth import WORDS, birth_dates
from tunewright.data.redact.credentials import secrets
from tunewright.data.redact.findings import Finding
from tunewright.data.redact.folding import lowered
from tunewright.data.redact.library import KINDS, more_numbers
from tunewright.data.redact.national import national_ids, social_security
from tunewright.data.redact.nearby import holds_any
from tunewright.data.redact.online import emails, ipv4, ipv6, mac_addresses
from tunewright.data.redact.payment import cards, ibans
from tunewright.data.redact.phones import phones
from tunewright.data.redact.streets import streets

_DIGITS = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){5}")  # six digits near each other
LIBRARY_TYPES = frozenset(kind.type for kind in KINDS)


def structured(
    text: str, regions: tuple[str, ...], wants: Callable[[str], bool], lower: str | None = None
) -> list[Finding]:
    """Everything with a shape in a folded ``text``, overlaps included; ``wants(type)`` says what to look for.

    ``regions`` are the countries whose local telephone numbers count; ``lower`` is ``lowered(text)``, where
    the caller has it already.
    """
    lower = lowered(text) if lower is None else lower
    found: list[Finding] = []
    if wants("API_KEY") or wants("PASSWORD") or wants("PRIVATE_KEY") or wants("URL_CREDENTIALS"):
        found += secrets(text, lower)
    if wants("EMAIL") and holds_any(text, "@[({"):
        found += emails(text, lower)
    if wants("MAC_ADDRESS") and (text.count(":") >= 5 or text.count("-") >= 5):
        found += mac_addresses(text)
    if wants("IP_ADDRESS") and ":" in text:
        found += ipv6(text)
    if not holds_any(text, "0123456789"):
        return [f for f in found if wants(f.type)]
    ahead = _ahead_of_digits(lower)
    if wants("IP_ADDRESS"):
        found += ipv4(text)
    if wants("STREET_ADDRESS"):
        found += streets(text, lower, ahead)
    if wants("DATE_OF_BIRTH") and holds_any(ahead, WORDS):
        found += birth_dates(text, lower)
    if _NUMBER.search(text):
        found += _numbers(text, lower, regions, wants)
    if any(map(wants, LIBRARY_TYPES)):
        found += more_numbers(text, lower, found)
    return [f for f in found if wants(f.type)]


AHEAD = 150  # code points ahead of a digit that may hold the word which a date or an address begins with


def _ahead_of_digits(lower: str) -> str:
    """What stands at most ``AHEAD`` before a digit: the words that are looked for stand there or nowhere."""
    parts: list[str] = []
    done = 0
    for match in _DIGITS.finditer(lower):
        start = max(done, match.start() - AHEAD)
        parts += ("\n" if start > done else "", lower[start : match.start()])
        done = match.start()
    return "".join(parts)


def _numbers(text: str, lower: str, regions: tuple[str, ...], wants: Callable[[str], bool]) -> list[Finding]:
    found: list[Finding] = []
    if wants("CREDIT_CARD"):
        found += cards(text)
    if wants("IBAN"):
        found += ibans(text)
    if wants("US_SSN"):
        found += social_security(text)
    if wants("NATIONAL_ID") or wants("PASSPORT") or wants("DRIVER_LICENSE"):
        found += national_ids(text, lower)
    if wants("PHONE"):
        found += phones(text, regions)
    return found
