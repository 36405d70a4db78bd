"""Keeps text from data apart from the control tokens that only a chat template may write.

Before a template is rendered, every control string in the data is *covered*: replaced by a character of
Unicode plane 16, which no added token contains. In the rendered text whatever still looks like a control
token was written by the template, and ``Veil.reveal`` gives each covered place its own text back.

    >>> veil = Veil(Controls({"<|end|>": 7}))
    >>> covered = veil.cover("stop <|end|> here")
    >>> "<|end|>" in covered, veil.reveal(covered), veil.hits
    (False, 'stop <|end|> here', 1)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tunewright.core.errors import RenderError

_FIRST = 0x100000  # plane 16 is private use; 65,534 code points
_COVERED = re.compile("[\U00100000-\U0010fffd]")
_PLANE_16 = b"\xf4"  # how UTF-8 begins all characters of this plane, and no other
_SURROGATE = re.compile("[\ud800-\udfff]")
_REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


class Controls:
    """The control tokens of one tokenizer: string -> id, and where they stand in a text.

    ``stripping`` maps a token to the sides (``"left"``, ``"right"``) on which it swallows white space.
    """

    def __init__(self, ids: dict[str, int], stripping: dict[str, frozenset[str]] | None = None) -> None:
        self.ids = ids
        self.id_set = frozenset(ids.values())
        self.stripping = stripping or {}
        longest_first = sorted(ids, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._heads = {token[:n] for token in ids for n in range(1, len(token))}
        self._tails = {token[n:] for token in ids for n in range(1, len(token))}
        self._longest = max((len(token) for token in ids), default=1)
        self._marks = "".join({end for token in ids if token for end in (token[0], token[-1])})
        self.reasoning = [pair for pair in _REASONING if set(pair) <= set(ids)]

    def find(self, text: str) -> list[re.Match[str]]:
        """Every control token that stands in ``text``, from left to right; the longest where several fit."""
        return list(self._pattern.finditer(text))

    def first(self, text: str) -> str | None:
        """The first control token in ``text``."""
        match = self._pattern.search(text)
        return match.group() if match else None

    def unmarked(self, text: str) -> bool:
        """Whether it is seen at a glance that nothing in ``text`` would be covered, nor in parts of it."""
        if not text.isascii():
            return False
        for mark in self._marks:  # noqa: SIM110  (a generator takes five times as long)
            if mark in text:
                return False
        return True

    def spares(self, text: str) -> bool:
        """Whether nothing in ``text`` would be covered."""
        if self.unmarked(text):
            return True
        try:
            if _PLANE_16 in text.encode():
                return False
        except UnicodeEncodeError:  # half of a surrogate pair, for which ``Veil.cover`` has an error
            return False
        bare = text.strip()
        return not (self._pattern.search(text) or self.begun_at_end(bare) or self.ended_at_start(bare))

    def begun_at_end(self, text: str) -> int:
        """Characters at the end of ``text`` that begin a control token; 0 for almost all text."""
        return next((n for n in self._lengths(text) if text[-n:] in self._heads), 0)

    def ended_at_start(self, text: str) -> int:
        """Characters at the start of ``text`` that complete a control token."""
        return next((n for n in self._lengths(text) if text[:n] in self._tails), 0)

    def _lengths(self, text: str) -> Iterable[int]:
        return range(min(self._longest - 1, len(text)), 0, -1)


class Veil:
    """Covers the control strings of one example's data and reveals them after rendering.

    ``hits`` counts the control strings found in the data.
    """

    def __init__(self, controls: Controls) -> None:
        self.hits = 0
        self._controls = controls
        self._originals: list[str] = []
        self._codes: dict[str, str] = {}

    def cover(self, value: Any) -> Any:
        """``value`` (text, or lists and mappings of it, keys included) without any control string.

        Raises ``RenderError`` for text that is not valid Unicode.
        """
        if isinstance(value, str):
            return self._cover_text(value)
        if isinstance(value, dict):
            return {self.cover(key): self.cover(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.cover(item) for item in value]
        return value

    def cover_answer(self, text: str) -> str:
        """Like ``cover`` for the content of an assistant turn, which may open with its own reasoning.

        One leading ``<think>…</think>`` block keeps its two tags, as the model would write them; tags
        anywhere else are text.
        """
        for opening, closing in self._controls.reasoning:
            body = text.lstrip()
            end = body.find(closing)
            if body.startswith(opening) and end >= 0:
                lead = text[: len(text) - len(body)]
                thought, answer = body[len(opening) : end], body[end + len(closing) :]
                return lead + opening + self.cover(thought) + closing + self.cover(answer)
        return self._cover_text(text)

    def reveal(self, text: str) -> str:
        """``text`` with every covered place as it stood in the data."""
        return _COVERED.sub(lambda match: self._originals[ord(match.group()) - _FIRST], text)

    def covers(self, text: str) -> bool:
        """Whether ``text`` holds covered places."""
        return bool(self._originals) and _COVERED.search(text) is not None

    def _cover_text(self, text: str) -> str:
        if bad := _SURROGATE.search(text):
            raise RenderError(
                f"a text holds half of a surrogate pair ({bad.group()!r} at character {bad.start()}), which "
                "is not valid Unicode; save the file as UTF-8 or remove the character"
            )
        if not text.isascii():  # the data may itself use the characters that cover
            text = _COVERED.sub(lambda match: self._code(match.group()), text)
        if not self._controls.ids:
            return text
        text = self._controls._pattern.sub(self._hit, text)
        return self._cover_edges(text)

    def _hit(self, match: re.Match[str]) -> str:
        self.hits += 1
        return self._code(match.group())

    def _cover_edges(self, text: str) -> str:
        """Cover what could complete a control token together with the text the template puts beside it."""
        bare = text.strip()
        lead = text[: len(text) - len(text.lstrip())] if bare else ""
        trail = text[len(lead) + len(bare) :]
        if count := self._controls.begun_at_end(bare):
            bare = bare[:-count] + self._code(bare[-count:])
        if count := self._controls.ended_at_start(bare):
            bare = self._code(bare[:count]) + bare[count:]
        return lead + bare + trail

    def _code(self, original: str) -> str:
        if original not in self._codes:
            self._codes[original] = chr(_FIRST + len(self._originals))
            self._originals.append(original)
            assert len(self._originals) < 0xFFFE, "more distinct control strings than private characters"
        return self._codes[original]
