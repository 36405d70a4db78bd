"""Numbers that a state gives to a person: social security, tax, health, passport, licence.

The checks are those of python-stdnum. A shape that is distinctive by itself (letters at fixed places, or
a date and a long checksum) is enough; bare digits count only where the words before them name the number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import NamedTuple

from tunewright.data.redact.findings import Finding
from tunewright.data.redact.nearby import ahead_of_numbers, before, counts_things, cue


class Number(NamedTuple):
    """One kind of number: its shape, the module of stdnum that checks it, and the words that name it."""

    shape: re.Pattern[str]
    module: str
    words: re.Pattern[str]
    alone: float  # score without a word; 0 where the shape is too common


def _number(shape: str, module: str, words: str, alone: float = 0.0) -> Number:
    return Number(
        re.compile(rf"(?<![\w.-])(?:{shape})(?!\w|-\d)", re.I), module, cue(words.split("|")), alone
    )


_NUMBERS = [
    _number(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]",
            "", r"national insurance|ni|nino|insurance", 0.75),
    _number(r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"nhs|nhs (?:no|number)"),
    _number(r"\d{8}-?[A-HJ-NP-TV-Z]", "es.dni", r"dni|nif|documento", 0.75),
    _number(r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]", "es.nie", r"nie|extranjero", 0.8),
    _number(r"[12378] ?\d\d ?(?:0[1-9]|[1-9]\d) ?(?:\d\d|2[ab]) ?\d{3} ?\d{3} ?\d\d",
            "fr.nir", r"nir|insee|sécurité sociale|securite sociale|social", 0.8),
    _number(r"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]", "it.codicefiscale", r"codice fiscale|cf", 0.95),
    _number(r"\d{2} ?\d{3} ?\d{3} ?\d{3}",
            "de.idnr", r"steuer(?:-?id(?:entifikationsnummer|nr)?|nummer)?|idnr|tax id"),
    _number(r"\d{3}[ .]?\d{3}[ .]?\d{3}", "nl.bsn", r"bsn|burgerservicenummer|sofinummer"),
    _number(r"\d\d[. ]?\d\d[. ]?\d\d[- ]?\d{3}[. ]?\d\d",
            "be.nn", r"rijksregister(?:nummer)?|registre national|national (?:register )?number|nn"),
    _number(r"(?:19|20)?\d{6}[-+]\d{4}",
            "se.personnummer", r"personnummer|personal (?:identity )?number", 0.8),
    _number(r"\d{6} ?\d{5}", "no.fodselsnummer", r"fødselsnummer|fodselsnummer|personnummer|birth number"),
    _number(r"\d{6}-?\d{4}", "dk.cpr", r"cpr(?:-nummer)?|personnummer"),
    _number(r"\d{6}[-+A-FYXWVU]\d{3}[0-9A-FHJ-NPR-Y]", "fi.hetu", r"hetu|henkilötunnus", 0.85),
    _number(r"\d{11}", "pl.pesel", r"pesel"),
    _number(r"\d{3}\.?\d{3}\.?\d{3}-\d\d", "br.cpf", r"cpf", 0.85),
    _number(r"\d{11}", "br.cpf", r"cpf"),
    _number(r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", "in_.aadhaar", r"aadhaar|aadhar|uidai"),
    _number(r"[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z]", "in_.pan", r"pan|permanent account"),
    _number(r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"sin|social insurance|numéro d'assurance sociale|nas"),
    _number(r"\d{3} ?\d{3} ?\d{2,3}", "au.tfn", r"tfn|tax file"),
    _number(r"\d{17}[\dX]", "cn.ric", r"身份证|resident identity|id card", 0.85),
    _number(r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", "mx.curp", r"curp", 0.95),
    _number(r"\d{13}", "za.idnr", r"south african id|id number|identity number|rsa id"),
    _number(r"\d{6}-[1-4]\d{6}", "kr.rrn", r"rrn|resident registration|주민등록번호", 0.85),
    _number(r"[1-9]\d{10}", "tr.tckimlik", r"t\.?c\.?(?: kimlik)?(?: no)?|kimlik"),
    _number(r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d\d", "ch.ssn", r"ahv|avs|social", 0.9),
    _number(r"\d{7}[A-W][A-IW]?", "ie.pps", r"pps|ppsn|personal public service"),
    _number(r"\d{1,2}\.\d{3}\.\d{3}-[\dK]", "cl.rut", r"rut|run", 0.85),
    _number(r"[1-8]\d{12}", "ro.cnp", r"cnp|cod numeric personal"),
    _number(r"\d{10}", "bg.egn", r"egn|егн"),
    _number(r"\d{6}/\d{3,4}", "cz.rc", r"rodné číslo|rodne cislo|rč", 0.75),
    _number(r"\d{11}", "hr.oib", r"oib"),
    _number(r"[1-6]\d{10}", "ee.ik", r"isikukood"),
    _number(r"[1-6]\d{10}", "lt.asmens", r"asmens kodas"),
    _number(r"\d{11}", "gr.amka", r"amka|αμκα"),
    _number(r"\d{9}", "pt.nif", r"nif|contribuinte"),
    _number(r"\d{1}[- ]?\d{4}[- ]?\d{5}[- ]?\d{2}[- ]?\d", "th.pin", r"thai id|national id|citizen id"),
    _number(r"9\d\d[- ]?(?:5\d|6[0-5]|7\d|8[0-8]|9[0-24-9])[- ]?\d{4}", "us.itin", r"itin|taxpayer"),
]  # fmt: skip

_ANY_WORD = re.compile("|".join(number.words.pattern for number in _NUMBERS))
_SSN = re.compile(r"(?<![\w.-])\d{3}([ -]?)\d{2}\1\d{4}(?!\w|[.-]\d)")
_SSN_WORDS = cue(
    [r"ssn", r"s\.s\.n\.?", r"ss#?", r"social(?: security)?(?: (?:no|number|num))?", r"socials?", r"tax ?id"]
)
_PASSPORT = re.compile(r"(?<![\w-])(?=[A-Z]{0,3}\d)[A-Z0-9]{6,9}(?![\w-])", re.I)
_PASSPORT_WORDS = re.compile(
    r"(?:passport|reisepass|passeport|pasaporte|passaporto|paszport)[a-z]{0,8}"
    r"(?:['’]s)?(?: (?:no|number|num|nr|nummer|id|numéro|número))?\.?\s{0,2}(?:[:#]|is|was|ist|est"
    r"|es)?\s{0,2}$"
)
_LICENSE_WORDS = re.compile(
    r"(?:driv(?:er|ing)(?:['’]?s)?['’]? li[cs]en[cs]e|führerschein|permis de conduire|dl)"
    r"(?: (?:no|number|num|nr|nummer|id))?\.?\s{0,2}(?:[:#]|is|was|ist|est)?\s{0,2}$"
)
_LICENSE = re.compile(r"(?<![\w-])(?=[A-Z]{0,5}[ -]?\d)[A-Z0-9](?:[ -]?[A-Z0-9]){4,17}(?![\w-])", re.I)


def social_security(text: str) -> Iterator[Finding]:
    """US numbers: 3-2-4 digits of an area, group and serial that may be issued."""
    for match in _SSN.finditer(text):
        if not _valid("us.ssn", re.sub(r"[ -]", "", match.group())):
            continue
        called = _SSN_WORDS.search(before(text, match.start()))
        alone = {"-": 0.85, " ": 0.45}.get(match.group(1), 0.0)
        score = 0.97 if called else 0.45 if alone and counts_things(text, match.start()) else alone
        if score:
            yield Finding(*match.span(), "US_SSN", score)


def national_ids(text: str, lower: str) -> Iterator[Finding]:
    """Numbers of other states and other authorities."""
    any_word = _ANY_WORD.search(ahead_of_numbers(text, lower)) is not None
    for number in _NUMBERS:
        named = any_word and number.words.search(lower) is not None
        if not (number.alone or named):
            continue
        for match in number.shape.finditer(text):
            called = named and number.words.search(before(text, match.start(), 60)) is not None
            if (called or number.alone) and _valid(number.module, match.group()):
                alone = 0.45 if number.alone and counts_things(text, match.start()) else number.alone
                if called or alone:
                    yield Finding(*match.span(), "NATIONAL_ID", 0.95 if called else alone)
    yield from _by_words(text, lower)


def _by_words(text: str, lower: str) -> Iterator[Finding]:
    """Passports and licences have no common shape: only what directly follows their name counts."""
    if any(
        word in lower
        for word in ("passport", "reisepass", "passeport", "pasaporte", "passaporto", "paszport")
    ):
        for match in _PASSPORT.finditer(text):
            if sum(c.isdigit() for c in match.group()) >= 5 and _PASSPORT_WORDS.search(
                before(text, match.start())
            ):
                yield Finding(*match.span(), "PASSPORT", 0.9)
    if any(word in lower for word in ("driv", "führerschein", "permis", "dl")):
        for match in _LICENSE.finditer(text):
            if sum(c.isdigit() for c in match.group()) >= 4 and _LICENSE_WORDS.search(
                before(text, match.start())
            ):
                yield Finding(*match.span(), "DRIVER_LICENSE", 0.85)


@cache
def _module(name: str):  # type: ignore[no-untyped-def]
    return import_module(f"stdnum.{name}")


def _valid(module: str, value: str) -> bool:
    """The checksum, the date inside and the ranges; a number without such a check is valid by its shape."""
    return not module or bool(_module(module).is_valid(value))
