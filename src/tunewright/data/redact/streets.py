"""Street addresses: a house number beside a street, a box, or a unit; in English and some other languages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunewright.data.redact.findings import Finding
from tunewright.data.redact.nearby import before, cue, holds_any
from tunewright.data.redact.wordlists import words

# Words that end the name of a street (after USPS Publication 28, appendix C1). The first are hardly ever
# anything else; the others are ordinary words, and need a unit or words about living somewhere.
_SURE, _WEAK = words("streets_sure"), words("streets_weak")
_UNIT = (
    r"(?:,? (?:apt|apartment|suite|ste|unit|flat|room|rm|floor|fl|bldg|building|no)\.? ?#?\w{1,6}"
    r"|,? #\w{1,6})"
)
# the digit stands before the look behind it, so that the search can leap from digit to digit
_HOUSE = r"[0-9](?<![\w.,$€£:/-][0-9])(?<!\d [0-9])\d{0,5}(?:[A-Za-z]|[-/]\d{1,4})?"
_NAME = (
    r"(?:[A-ZÀ-ÞΑ-ΩА-Я](?:[\w'’-]{1,24}|\w{0,2}\.?)|\d{1,3}(?:st|nd|rd|th)"
    r"|(?:de|la|le|du|des|of|the|el|von|van|der)\b)"
)
_LAST = f"(?:{'|'.join((*_SURE, *_WEAK))})"
_ENGLISH = re.compile(
    rf"{_HOUSE}(?:,? \d{{1,4}})? ((?:{_NAME} ){{1,4}}?)((?:{_LAST} ){{0,2}}{_LAST})\b\.?"
    rf"(?: (?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\b)?({_UNIT})?",
    re.I,
)
_SURE_WORDS = frozenset(_SURE)
_TAIL = re.compile(r",? (?:[A-Z][\w.'-]{1,24} ){0,2}[A-Z][\w.'-]{1,24},? [A-Z]{2} \d{5}(?:-\d{4})?")
_BOX = re.compile(
    r"(?<!\w)(?:p\.? ?o\.? ?box|post office box|postbox|postfach|apartado|boîte postale) ?#?\d{1,8}(?!\w)"
    r"|(?<!\w)(?:PSC|CMR|Unit) \d{1,5},? Box \d{1,6}(?:\s{1,3}(?:[AFD]PO) A[AEP] \d{5})?",
    re.I,
)
_NUMBER = r"\d{1,5} ?[a-zA-Z]?(?:[-/]\d{1,4})?(?!\w|[.,]\d)"
_JOINED = (
    "straße|strasse|str\\.|gasse|weg|platz|allee|ufer|damm|gatan|vägen|gränd|torget|vej|gade|vænget|allé|veien|gata"
    "|vegen|katu|tie|kuja|polku|straat|laan|plein|gracht|kade|utca|körút|gata|stræti|götu|götu|maantee|tänav"
)
_SUFFIXED = re.compile(
    rf"(?<!\w)(\d{{1,6}} )?(?:[A-ZÀ-ÞÞ][\w'-]{{0,20}} ){{0,2}}[A-ZÀ-Þ]\w{{0,30}}(?:{_JOINED}) {_NUMBER}"
)
_PREFIXED = re.compile(
    rf"(?<!\w)(?:\d{{1,6}} )?(?:\d{{1,4}},? )?(?:via|viale|piazza|corso|calle|avenida|avda\.?|plaza|paseo"
    rf"|rua|praça|travessa|rue|avenue"
    rf"|boulevard|place|quai|chemin|impasse|allée|ul\.|ulica|al\.|aleja|pl\.|os\.|náměstí|ulice|strada|bulevardul"
    rf"|улица|ул\.|проспект|οδός|λεωφ\.|trg|cesta|carrer|jalan|jl\.)"
    rf" (?:(?:de|del|della|delle|dei|di|da|do|dos|das|la|las|los|le|les|du|des|l'|d'"
    rf"|św\.)? ?[A-ZÀ-ÞĀ-ŽА-ЯΑ-Ω][\w'’.-]{{0,24}},? ){{1,4}}"
    rf"(?:n[º°.] ?)?{_NUMBER}",
    re.I,
)
_FRENCH = re.compile(
    r"(?<![\w.,])\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|av\.|boulevard|bd|place|quai|chemin|impasse"
    r"|allée|cours|route)"
    r" (?:(?:de|du|des|la|le|les|l'|d')+ ?){0,3}[A-ZÀ-Þ][\w'’-]{1,24}(?: [A-ZÀ-Þ][\w'’-]{1,24}){0,3}",
    re.I,
)
_UNIT_AFTER = re.compile(r",?\s{1,4}(?:apt|apartment|suite|ste|unit|flat)\.? ?#?\d\w{0,5}(?!\w)", re.I)
_NUMBER_AND_UNIT = re.compile(
    rf"(?<![\w.,])(?:\d{{1,6}} ){{1,2}}(?:{_NAME} ){{1,4}}\d{{1,4}},?\s{{1,4}}(?:apt|apartment|suite|ste"
    rf"|unit)\.? \d\w{{0,5}}"
    rf"|(?<![\w.,])\d{{1,6}} (?:{_NAME} ?){{1,4}},?\s{{1,4}}(?:apt|apartment|suite|ste)\.? \d\w{{0,5}}",
    re.I,
)
_LIVING = cue(
    [
        r"lives? (?:at|on|in)", r"living (?:at|on|in)", r"lived (?:at|on|in)", r"resid(?:es?|ing) (?:at"
        r"|on|in)",
        r"address(?:es)?", r"located (?:at|on)", r"(?:is|are|office|house|home|store) at",
        r"sen[dt] (?:\w+ ){0,4}to", r"ship(?:ped)?(?: \w+)? to", r"deliver(?:ed)?(?: \w+)? to",
        r"mov(?:ed|ing) to",
        r"mail(?:ed)?(?: \w+)? to", r"return to", r"corner of", r"wohn(?:e|t"
        r"|haft)(?: in)?", r"anschrift", r"adresse",
        r"dirección", r"direccion", r"vivo en", r"habite(?: au)?", r"indirizzo", r"abito in", r"adres",
        r"endereço",
        r"home is", r"stop(?:s)? (?:at|on)",
    ]
)  # fmt: skip


def streets(text: str, lower: str, ahead: str) -> Iterator[Finding]:
    """Addresses from the house number to the unit; the town behind them only in the American form.

    ``ahead`` is what of ``lower`` stands near before a digit.
    """
    if _may_be_english(lower):
        yield from _english(text)
    yield from _foreign(text, lower, ahead)
    if "box" in lower or "postfach" in lower or "apartado" in lower or "postale" in lower:
        for match in _BOX.finditer(text):
            yield Finding(*match.span(), "STREET_ADDRESS", 0.85)


_START = re.compile(rf"{_HOUSE}(?:,? \d{{1,4}})? ", re.I)
_NEXT_WORD = re.compile(r"(?<= )[a-z]+(?!\w)")
_LAST_WORDS = frozenset((*_SURE, *_WEAK))
_REACH = 112  # code points that hold four words of a name and the last one


def _may_be_english(lower: str) -> bool:
    """Whether the last word of a street follows a house number: far cheaper than the whole pattern."""
    for house in _START.finditer(lower):
        if not _LAST_WORDS.isdisjoint(_NEXT_WORD.findall(lower, house.end(), house.end() + _REACH + 12)):
            return True
    return False


def _english(text: str) -> Iterator[Finding]:
    for match in _ENGLISH.finditer(text):
        suffix = match.group(2)
        words = match.group(1).split()
        titled = suffix[0].isupper() and all(w[0].isupper() or w[0].isdigit() for w in words)
        unit = match.group(3) is not None
        living = _LIVING.search(before(text, match.start(), 40)) is not None
        score = _score(suffix.lower().split()[-1] in _SURE_WORDS, titled, unit, living)
        if score:
            tail = _TAIL.match(text, match.end())
            end = tail.end() if tail else match.end() - text[match.start() : match.end()].endswith(".")
            yield Finding(match.start(), end, "STREET_ADDRESS", score)


def _score(sure: bool, titled: bool, unit: bool, living: bool) -> float:
    """How sure, from the last word, the capitals, a unit behind it and the words before it."""
    if living and unit:
        return 0.95
    if titled:
        return 0.92 if living else 0.85 if unit else 0.75 if sure else 0.0
    return 0.75 if sure and (living or unit) else 0.0


def _foreign(text: str, lower: str, ahead: str) -> Iterator[Finding]:
    patterns = []
    if any(lower.endswith(_SUFFIXES, 0, number.start()) for number in _SPACE_NUMBER.finditer(lower)):
        patterns.append(_SUFFIXED)
    if holds_any(ahead, _PREFIX_HINTS):
        patterns.append(_PREFIXED)
    if _FRENCH_START.search(lower):
        patterns.append(_FRENCH)
    for pattern in patterns:
        for match in pattern.finditer(text):
            living = _LIVING.search(before(text, match.start(), 40))
            unit = _UNIT_AFTER.match(text, match.end())
            end = unit.end() if unit else match.end()
            yield Finding(match.start(), end, "STREET_ADDRESS", 0.9 if living or unit else 0.72)
    if holds_any(lower, ("apt", "suite", "apartment", "unit ")):
        for match in _NUMBER_AND_UNIT.finditer(text):
            yield Finding(*match.span(), "STREET_ADDRESS", 0.85)


_SUFFIXES = tuple(word.replace("\\", "") for word in _JOINED.split("|"))
_SPACE_NUMBER = re.compile(r" [0-9]{1,5}(?![0-9])")
_FRENCH_START = re.compile(
    r"[0-9](?: ?bis| ?ter)?,? (?:rue|avenue|av\.|boulevard|bd|place|quai|chemin|impasse|allée|cours|route) "
)
_PREFIX_HINTS = (
    "via ", "viale ", "piazza ", "corso ", "calle ", "avenida ", "avda", "paseo ", "rua ", "praça ",
    "travessa ",
    "rue ", "quai ", "chemin ", "impasse ", "allée ", "ul. ", "ulica ", "aleja ", "náměstí ",
    "ulice ", "strada ",
    "улица ", "ул. ", "проспект ", "οδός ", "λεωφ. ", "trg ", "cesta ", "carrer ", "jalan ", "jl. ",
)  # fmt: skip
