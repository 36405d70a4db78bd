"""All kinds of personal data that have a shape. A cheap look at the text decides which are searched for."""

from __future__ import annotations

import re
from collections.abc import Callable

from tunewright.data.redact.birth import birth_dates, speaks_of_birth
from tunewright.data.redact.credentials import secrets
from tunewright.data.redact.findings import Finding
from tunewright.data.redact.folding import lowered
from tunewright.data.redact.national import national_ids, social_security
from tunewright.data.redact.online import emails, ipv4, ipv6, mac_addresses
from tunewright.data.redact.payment import cards, ibans
from tunewright.data.redact.phones import phones
from tunewright.data.redact.streets import streets

_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){5}")  # six digits near each other


def structured(
    text: str, regions: tuple[str, ...], wants: Callable[[str], bool], lower: str | None = None
) -> list[Finding]:
    """Everything with a shape in a folded ``text``, overlaps included; ``wants(type)`` says what to look for.

    ``regions`` are the countries whose local telephone numbers count; ``lower`` is ``lowered(text)``, where the
    caller has it already.
    """
    lower = lowered(text) if lower is None else lower
    found: list[Finding] = []
    if wants("API_KEY") or wants("PASSWORD") or wants("PRIVATE_KEY") or wants("URL_CREDENTIALS"):
        found += secrets(text, lower)
    if ("@" in text or " at" in lower or "(at" in lower or "[at" in lower) and wants("EMAIL"):
        found += emails(text, lower)
    if wants("MAC_ADDRESS"):
        found += mac_addresses(text)
    if wants("IP_ADDRESS") and ":" in text:
        found += ipv6(text)
    if not _DIGIT.search(text):
        return [f for f in found if wants(f.type)]
    if wants("IP_ADDRESS"):
        found += ipv4(text)
    if wants("STREET_ADDRESS"):
        found += streets(text, lower)
    if wants("DATE_OF_BIRTH") and speaks_of_birth(lower):
        found += birth_dates(text, lower)
    if _NUMBER.search(text):
        found += _numbers(text, lower, regions, wants)
    return [f for f in found if wants(f.type)]


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
