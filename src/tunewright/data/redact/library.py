"""More numbers of people, by the recognisers of Presidio: licences, passports, health, taxes, wallets.

They add what ``national`` does not know. A number counts if its check digits are right or it can have none,
and if a word that names it stands before it; a few shapes are so distinctive that they need no word. The
recognisers are loaded only where a text holds such a word or shape and a number that nothing else explains.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from tunewright.core.errors import ConfigError
from tunewright.data.redact.findings import Finding
from tunewright.data.redact.nearby import ahead_of_numbers, before, counts_things, cue

PACKAGES = ("phonenumbers", "stdnum", "presidio_analyzer")
# What Presidio would load for its language models, which are not used: seconds, and 300 MB of memory.
_NOT_NEEDED = ("torch", "transformers", "stanza", "gliner", "spacy_stanza", "spacy_huggingface_pipelines")


class Kind(NamedTuple):
    """A recogniser of Presidio, the type of what it finds, and what it takes to believe it."""

    recogniser: str
    type: str
    checked: bool = False  # only a number whose check digits are right counts
    alone: float = 0.0  # score without a word; for unchecked ones only in their most distinctive form
    reach: int = 48  # code points before the number in which the word must stand


KINDS = (
    Kind("CryptoRecognizer", "CRYPTO", checked=True, alone=0.95),
    Kind("UsItinRecognizer", "NATIONAL_ID"),
    Kind("UsMbiRecognizer", "NATIONAL_ID", alone=0.75),
    Kind("UsNpiRecognizer", "MEDICAL_LICENSE", checked=True),
    Kind("MedicalLicenseRecognizer", "MEDICAL_LICENSE", checked=True),
    Kind("UsLicenseRecognizer", "DRIVER_LICENSE"),
    Kind("UsPassportRecognizer", "PASSPORT"),
    Kind("UsBankRecognizer", "BANK_ACCOUNT", reach=24),
    Kind("UkDrivingLicenceRecognizer", "DRIVER_LICENSE", alone=0.75),
    Kind("UkPassportRecognizer", "PASSPORT"),
    Kind("AuMedicareRecognizer", "NATIONAL_ID", checked=True),
    Kind("AuAbnRecognizer", "NATIONAL_ID", checked=True),
    Kind("InVoterRecognizer", "NATIONAL_ID"),
    Kind("InPassportRecognizer", "PASSPORT"),
    Kind("NgNinRecognizer", "NATIONAL_ID", checked=True),
    Kind("PhUmidRecognizer", "NATIONAL_ID"),
    Kind("PhTinRecognizer", "NATIONAL_ID"),
    Kind("PhPassportRecognizer", "PASSPORT"),
    Kind("SgFinRecognizer", "NATIONAL_ID"),
    Kind("KrFrnRecognizer", "NATIONAL_ID", checked=True),
    Kind("KrDriverLicenseRecognizer", "DRIVER_LICENSE", checked=True),
    Kind("KrPassportRecognizer", "PASSPORT"),
    Kind("ZaPassportRecognizer", "PASSPORT"),
    Kind("ZaIncomeTaxNumberRecognizer", "NATIONAL_ID", checked=True),
    Kind("DeSocialSecurityRecognizer", "NATIONAL_ID", checked=True),
    Kind("DeHealthInsuranceRecognizer", "NATIONAL_ID", checked=True),
    Kind("DeTaxNumberRecognizer", "NATIONAL_ID"),
    Kind("DeFuehrerscheinRecognizer", "DRIVER_LICENSE"),
    Kind("DeLanrRecognizer", "MEDICAL_LICENSE", checked=True),
    Kind("EsPassportRecognizer", "PASSPORT"),
    Kind("ItPassportRecognizer", "PASSPORT"),
    Kind("ItDriverLicenseRecognizer", "DRIVER_LICENSE"),
    Kind("ItIdentityCardRecognizer", "NATIONAL_ID"),
)
# Of the words that Presidio lists for them, those that mean such a number and hardly anything else.
TELLING = frozenset({
    "itin", "taxpayer", "medicare", "mbi", "npi", "national provider", "provider identifier", "dea",
    "driver", "driving", "passport", "passport number", "pasaporte", "passaporto", "여권", "account",
    "account#", "acct", "driving licence", "driving license", "dvla", "abn", "australian business number",
    "voter", "elector photo identity card", "nin", "national identification number",
    "national identity number", "nimc", "umid", "philhealth", "taxpayer identification number", "nric",
    "nric#", "fin#", "frn", "foreigner registration number", "외국인등록번호", "운전면허", "운전면허번호",
    "korean driver license", "tax reference", "income tax", "tax number", "rentenversicherungsnummer",
    "sozialversicherungsnummer", "rvnr", "svnr", "sv-nummer", "krankenversicherungsnummer",
    "krankenversichertennummer", "versichertennummer", "kvnr", "gesundheitskarte", "steuernummer",
    "steuer-nr", "finanzamt", "führerscheinnummer", "führerschein", "arztnummer", "lanr", "patente",
    "patente di guida", "identità",
})  # fmt: skip

_ANY_WORD = cue(map(re.escape, sorted(TELLING)))
_NUMBER = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){4,}")  # five digits near each other, or more
_WALLET = re.compile(r"[13][1-9A-HJ-NP-Za-km-z]{25}")
_CAPITALS = re.compile(r"[0-9A-Z-]{13}")  # a British licence, a number of Medicare


@cache
def missing_packages() -> tuple[str, ...]:
    """What the search needs and is not installed."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def require_packages() -> None:
    """Raise ``ConfigError`` if what the search needs is not installed: never fewer types without a word."""
    if missing := missing_packages():
        raise ConfigError(
            f"the search for personal data needs {', '.join(missing)}; install what it needs with "
            "`pip install 'tunewright[pii]'`, or turn it off with redact.action: off"
        )


def more_numbers(text: str, lower: str, found: Sequence[Finding], sure: float = 0.7) -> Iterator[Finding]:
    """What Presidio's recognisers find where nothing of ``found`` that is ``sure`` stands."""
    number = _NUMBER.search(text) is not None
    named = number and _ANY_WORD.search(ahead_of_numbers(text, lower)) is not None
    shaped = (number and _CAPITALS.search(text)) or _WALLET.search(text) or "bc1" in lower
    if not (named or shaped):
        return
    taken = bytearray(len(text))  # 1 where a sure finding stands: texts may hold thousands of them
    for f in found:
        if f.score >= sure:
            taken[f.start : f.end] = b"\1" * (f.end - f.start)
    if not shaped and all(taken.find(1, *m.span()) >= 0 for m in _NUMBER.finditer(text)):
        return
    for kind, recogniser, words in _recognisers():
        if not (kind.alone or (named and words and words.search(lower))):
            continue
        for hit in recogniser.analyze(text, recogniser.supported_entities):
            if taken.find(1, hit.start, hit.end) >= 0 or not _whole(text, hit.start, hit.end):
                continue
            if score := _score(text, kind, hit, words):
                yield Finding(hit.start, hit.end, kind.type, score)


def _whole(text: str, start: int, end: int) -> bool:
    """Whether no letter, digit or dash goes on beside it: some patterns of Presidio find parts of words."""
    beside = text[max(0, start - 1) : start] + text[end : end + 1]
    return not any(c.isalnum() or c in "_-/" for c in beside)


def _score(text: str, kind: Kind, hit: Any, words: re.Pattern[str] | None) -> float:
    right = hit.score >= 1  # Presidio's score where the check digits are right
    if (kind.checked and not right) or not any(c.isdigit() for c in text[hit.start : hit.end]):
        return 0.0
    if words and words.search(before(text, hit.start, kind.reach)):
        return 0.95 if right else 0.0 if counts_things(text, hit.start) else 0.85
    distinctive = text[hit.start : hit.end].upper() == text[hit.start : hit.end] and hit.score >= 0.5
    if not kind.alone or not (right or distinctive):
        return 0.0
    return 0.45 if counts_things(text, hit.start) else kind.alone


@cache
def _recognisers() -> list[tuple[Kind, Any, re.Pattern[str] | None]]:
    """Each kind with its recogniser and the words that name it; loaded once in a process, from the disk."""
    with _without(_NOT_NEEDED):
        module = import_module("presidio_analyzer.predefined_recognizers")
    loaded = []
    for kind in KINDS:
        recogniser = getattr(module, kind.recogniser)()
        words = sorted({word.lower() for word in recogniser.context} & TELLING)
        loaded.append((kind, recogniser, cue(map(re.escape, words)) if words else None))
    return loaded


@contextmanager
def _without(packages: Sequence[str]) -> Iterator[None]:
    """Let an import find none of ``packages`` that is not loaded yet, as if they were not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
