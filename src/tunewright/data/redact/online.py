"""E-mail addresses, IP and MAC addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from tunewright.data.redact.findings import Finding
from tunewright.data.redact.nearby import before, cue
from tunewright.data.redact.wordlists import words

_LOCAL_REVERSED = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59})", re.I)
_WRITTEN_OUT = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64} ?[\[({] ?(?:at|@) ?[\])}] ?[\w-]{1,63}"
    r"(?: ?(?:[\[({] ?(?:dot|\.) ?[\])}]|\.) ?[\w-]{2,63}){1,4}",
    re.I,
)
_FILES = frozenset(words("files"))
_OPENING = "'`{|=/*#&!?"  # may begin a local part by the letter of the standard, never in practice


def emails(text: str, lower: str) -> Iterator[Finding]:
    """Addresses around each ``@``, and those that write it out in brackets."""
    at = text.find("@")
    done = 0
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL_REVERSED.match(text[max(done, at - 64) : at][::-1]) if domain else None
        if domain and local:
            name = local.group()[::-1].lstrip(_OPENING + ".-")
            last = domain.group().rpartition(".")[2].lower()
            if name and not name.endswith(".") and last not in _FILES:
                done = domain.end()
                yield Finding(at - len(name), done, "EMAIL", 0.95)
        at = text.find("@", at + 1)
    if "at]" in lower or "at)" in lower or "at }" in lower or " at ]" in lower or "at}" in lower:
        for match in _WRITTEN_OUT.finditer(text):
            yield Finding(*match.span(), "EMAIL", 0.85)


_DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")  # looked for first: far cheaper than the whole pattern
_PAIR = re.compile(r"[:-][0-9a-fA-F]{2}[:-]")
_COLONS = re.compile(r":[0-9a-fA-F]{1,4}:")
_V4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_V6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])"
)
_MAC = re.compile(r"(?<![\w:-])[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}(?![\w:-])")
_NOT_AN_ADDRESS = cue(
    [
        r"v",
        r"ver",
        r"versions?",
        r"releases?",
        r"sections?",
        r"chapters?",
        r"figures?",
        r"tables?",
        r"firmware",
        r"builds?",
        r"update",
        r"upgraded? to",
        r"driver",
        r"oid",
        r"clause",
        r"§",
        r"kernel",
        r"icd",
    ]
)
_HAS_ADDRESS = cue([r"ip", r"ipv4", r"ipv6", r"address", r"host", r"server", r"client", r"subnet", r"dns"])
_MACHINE_V4 = frozenset(
    {"0.0.0.0", "127.0.0.1", "255.255.255.255", "255.255.255.0", "255.255.0.0", "255.0.0.0"}
)


def ipv4(text: str) -> Iterator[Finding]:
    """Four numbers below 256. Version numbers, masks and the machine's own address are none."""
    for match in _V4.finditer(text) if _DOTTED.search(text) else ():
        value = match.group()
        if value in _MACHINE_V4 or not _is_ip(value):
            continue
        words = before(text, match.start(), 24)
        small = all(int(part) < 20 for part in value.split("."))  # 1.2.3.4 is a number of a paragraph
        if _HAS_ADDRESS.search(words):
            score = 0.95
        elif _NOT_AN_ADDRESS.search(words):
            score = 0.2
        else:
            score = 0.45 if small else 0.85
        yield Finding(*match.span(), "IP_ADDRESS", score)


def ipv6(text: str) -> Iterator[Finding]:
    """Groups of hexadecimal digits between colons; not the machine's own, nor a slice of a program."""
    for match in _V6.finditer(text) if "::" in text or _COLONS.search(text) else ():
        value = match.group()
        start, end = match.span()
        if value.endswith(":") and not value.endswith("::"):  # the colon of the sentence
            value, end = value[:-1], end - 1
        groups = sum(bool(part) for part in value.split(":"))
        if value in ("::", "::1") or groups < 2 or not _is_ip(value):
            continue
        # "1::2" may be a slice of some program; a long one, or one with letters, is an address
        letters = any(c in "abcdefABCDEF" for c in value)
        yield Finding(start, end, "IP_ADDRESS", 0.9 if groups >= 4 or (letters and groups >= 3) else 0.5)


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def mac_addresses(text: str) -> Iterator[Finding]:
    """Six pairs of hexadecimal digits, with one kind of mark between them."""
    for match in _MAC.finditer(text) if _PAIR.search(text) else ():
        if len(set(match.group()) - {":", "-"}) > 1:  # not 00:00:… or ff:ff:…
            yield Finding(*match.span(), "MAC_ADDRESS", 0.9)
