"""Tokens to text, one token at a time: whole characters only, and an end at the first stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
BROKEN = "\ufffd"  # what decoders write for bytes that are not (yet) a character


class TextStream:
    """The text of a growing list of tokens.

    ``text`` never ends in half a character and never contains a stop string; ``stopped`` tells that one was
    found (``text`` ends before it).

        >>> words = {0: "one", 1: " two", 2: " three"}
        >>> stream = TextStream(lambda ids: "".join(words[i] for i in ids), ("o t",))
        >>> [(stream.push(i), stream.ready())[1] for i in (0, 1, 2)], stream.stopped
        (['one', ' tw', ''], True)
    """

    def __init__(self, decode: Decode, stop_strings: tuple[str, ...] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._stops = stop_strings
        self._window: list[int] = []  # the tokens of the last addition, then those not yet turned into text
        self._known = ""  # text of the first ``_read`` tokens of the window
        self._read = 0
        self._emitted = 0

    def push(self, token: int) -> None:
        """Add a token. Only the last few are decoded, together with those before them because a decoder may
        drop a space at the start of what it is given."""
        self._window.append(token)
        text = self._decode(self._window)
        if len(text) > len(self._known) and not text.endswith(BROKEN):
            self._add(text[len(self._known) :])
            self._window = self._window[self._read :]
            self._known, self._read = self._decode(self._window), len(self._window)

    def flush(self) -> None:
        """Nothing follows: add what was held back, broken characters included."""
        self._add(self._decode(self._window)[len(self._known) :])
        self._window, self._known, self._read = [], "", 0

    def ready(self, final: bool = False) -> str:
        """Text not handed out yet, without a tail that may become a stop string (unless ``final``)."""
        end = len(self.text)
        if not (final or self.stopped):
            end -= max((_overlap(self.text, stop) for stop in self._stops), default=0)
        piece = self.text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return piece

    def _add(self, piece: str) -> None:
        if self.stopped:
            return
        start = max(0, len(self.text) - max(map(len, self._stops), default=1) + 1)
        self.text += piece
        found = [at for at in (self.text.find(stop, start) for stop in self._stops) if at >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
