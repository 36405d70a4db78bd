"""Secrets: keys with a known shape, private keys, addresses with a password, and assignments of odd texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from tunewright.data.redact.findings import Finding

# Issuer's prefix -> the shape of what follows it. The prefix is looked for first, which is fast.
_SHAPES = {
    "AKIA": r"AKIA[0-9A-Z]{16}",
    "ASIA": r"ASIA[0-9A-Z]{16}",
    "ghp_": r"ghp_[0-9A-Za-z]{36,251}",
    "gho_": r"gho_[0-9A-Za-z]{36,251}",
    "ghu_": r"ghu_[0-9A-Za-z]{36,251}",
    "ghs_": r"ghs_[0-9A-Za-z]{36,251}",
    "ghr_": r"ghr_[0-9A-Za-z]{36,251}",
    "github_pat_": r"github_pat_[0-9A-Za-z_]{40,120}",
    "glpat-": r"glpat-[0-9A-Za-z_-]{20,64}",
    "xox": r"xox[abeoprs]-[0-9A-Za-z-]{10,250}",
    "xapp-": r"xapp-[0-9A-Za-z-]{20,250}",
    "hooks.slack.com": r"hooks\.slack\.com/services/T[0-9A-Z]{6,12}/B[0-9A-Z]{6,12}/[0-9A-Za-z]{16,32}",
    "sk_live_": r"sk_live_[0-9A-Za-z]{16,128}",
    "sk_test_": r"sk_test_[0-9A-Za-z]{16,128}",
    "rk_live_": r"rk_live_[0-9A-Za-z]{16,128}",
    "whsec_": r"whsec_[0-9A-Za-z+/=]{20,128}",
    "AIza": r"AIza[0-9A-Za-z_-]{35}",
    "ya29.": r"ya29\.[0-9A-Za-z_-]{20,512}",
    "GOCSPX-": r"GOCSPX-[0-9A-Za-z_-]{28}",
    "sk-": r"sk-(?=[A-Za-z_-]{0,60}\d)[0-9A-Za-z_-]{20,200}",
    "hf_": r"hf_[0-9A-Za-z]{30,40}",
    "npm_": r"npm_[0-9A-Za-z]{36}",
    "pypi-": r"pypi-[0-9A-Za-z_-]{50,250}",
    "dop_v1_": r"dop_v1_[0-9a-f]{64}",
    "SG.": r"SG\.[0-9A-Za-z_-]{20,24}\.[0-9A-Za-z_-]{39,50}",
    "key-": r"key-[0-9a-f]{32}",
    "shpat_": r"shpat_[0-9a-fA-F]{32}",
    "sq0": r"sq0[a-z]{3}-[0-9A-Za-z_-]{22,43}",
    "EAAC": r"EAAC[0-9A-Za-z]{60,250}",
    "eyJ": r"eyJ[0-9A-Za-z_-]{8,4096}\.eyJ[0-9A-Za-z_-]{8,8192}\.[0-9A-Za-z_-]{8,1024}",
    "AccountKey=": r"(?<=AccountKey=)[0-9A-Za-z+/]{60,88}={0,2}",
}
_MARKS = "_-."  # one of them stands in most keys: a text without it needs no look for these


def _mark_of(prefix: str) -> str:
    """A mark that every key of this shape holds; nothing if there is none."""
    told = {"xox": "-", "sq0": "-", "eyJ": "."}
    return told.get(prefix) or next((mark for mark in _MARKS if mark in prefix), "")


_KEYS = {
    mark: [
        (prefix, re.compile(shape if shape.startswith("(?<=") else r"(?<![0-9A-Za-z_])" + shape))
        for prefix, shape in _SHAPES.items()
        if _mark_of(prefix) == mark
    ]
    for mark in ("", *_MARKS)
}

_PASSWORD_WORDS = ("password", "passwd", "passphrase", "pwd")
_SECRET_WORDS = (*_PASSWORD_WORDS, "key", "secret", "token", "bearer")
_KEY_OF = re.compile(r"(?:api|access|secret|private|auth|account|signing|encryption|master)[_ -]?$")
_VALUE = re.compile(
    r"s?(?![A-Za-z])[\"']?\s{0,3}((?:=>|:=|[:=])?)(?:\bis\b|\bwas\b)?:?\s{0,3}[\"'`]?"
    r"([^\s\"'`<>,;(){}\[\]]{6,512})"
)
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----")
_URL = re.compile(r"(?<![\w.+-])[a-z][a-z0-9+.-]{1,15}://([^\s/:@\"'<>]{0,128}):([^\s/@\"'<>]{1,256})@", re.I)
_PLACEHOLDER = re.compile(
    r"(?i)^(?:your|my|the|xxx|\*+|<|\$|%|example|changeme|none|null|true|false|\.\.\.|\[)"
)


def secrets(text: str, lower: str) -> Iterator[Finding]:
    """Every secret in ``text``; ``lower`` is the same in lower case."""
    for mark, keys in _KEYS.items():
        for prefix, pattern in keys if mark in text else ():
            if prefix in text:
                for match in pattern.finditer(text):
                    end = _trimmed(text, match.start(), match.end())
                    yield Finding(match.start(), end, "API_KEY", 0.95)
    yield from _assigned(text, lower)
    if "-----BEGIN" in text:
        yield from _private_keys(text)
    if "://" in text:
        for match in _URL.finditer(text):
            if not _PLACEHOLDER.match(match.group(2)):
                first = match.start(1) if match.group(1) else match.start(2)
                yield Finding(first, match.end(2), "URL_CREDENTIALS", 0.98)


def _private_keys(text: str) -> Iterator[Finding]:
    for match in _PEM.finditer(text):
        footer = f"-----END {match.group(1)}-----"
        end = text.find(footer, match.end(), match.end() + 20_000)
        # a key that was cut off is as secret as a whole one
        stop = end + len(footer) if end >= 0 else _body_end(text, match.end())
        yield Finding(match.start(), stop, "PRIVATE_KEY", 1.0)


_BODY = re.compile(r"[A-Za-z0-9+/=\s]{0,20000}")


def _body_end(text: str, start: int) -> int:
    match = _BODY.match(text, start)
    return start + len(match.group().rstrip()) if match else start


def _assigned(text: str, lower: str) -> Iterator[Finding]:
    """``api_key = …``, ``password is …``: only where the text is too odd to be a word."""
    for word in _SECRET_WORDS:
        at = lower.find(word)
        while at >= 0:
            end = at + len(word)
            match = _VALUE.match(text, end)
            if match and (word != "key" or _KEY_OF.search(lower, max(0, at - 12), at)):
                start, marked = match.start(2), bool(match.group(1))
                stop = _trimmed(text, start, match.end(2))
                password = word in _PASSWORD_WORDS
                score = _oddness(text[start:stop], password, marked)
                if score:
                    yield Finding(start, stop, "PASSWORD" if password else "API_KEY", score)
            at = lower.find(word, end)


def _oddness(value: str, password: bool, marked: bool) -> float:
    """How sure it is that ``value`` is a secret, from its length, its characters and their entropy."""
    if _PLACEHOLDER.match(value) or "://" in value:
        return 0.0
    classes = sum(map(bool, (re.search("[a-z]", value), re.search("[A-Z]", value), re.search(r"\d", value))))
    entropy = entropy_of(value)
    if len(value) >= 16 and classes >= 2 and re.search(r"\d", value) and entropy >= 3.3:
        return 0.9 if marked else 0.75
    odd = classes >= 2 and re.search(r"\d", value) and re.search("[A-Za-z]", value)
    if password and odd:
        return 0.85 if marked else 0.75
    if password and marked and re.search(r"[^\w.]", value[:-1]) and entropy >= 2.5:
        return 0.75
    return 0.5 if marked and odd and len(value) >= 10 and entropy >= 3 else 0.0


def entropy_of(value: str) -> float:
    """Bits per character of the characters' own distribution."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values()) if value else 0.0


def _trimmed(text: str, start: int, end: int) -> int:
    """The end without the full stop or dash of the sentence."""
    while end > start and text[end - 1] in ".,;:!?-":
        end -= 1
    return end
