"""Numbers drawn from a value with a key: the same for the same value, unguessable without the key."""

from __future__ import annotations

import hashlib
import hmac
import string

LETTERS = string.ascii_lowercase


def keyed(key: bytes, *parts: str) -> bytes:
    """HMAC-SHA256 of ``parts``."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hmac.digest(key, text, "sha256")


def keyed_id(key: bytes, kind: str, value: str) -> str:
    """The 16 hexadecimal digits under which a value of a type is known in questions and decisions."""
    return keyed(key, "id", kind, value).hex()[:16]


class Draw:
    """A stream of choices that is determined by key and value."""

    def __init__(self, key: bytes, *parts: str) -> None:
        self._seed = keyed(key, *parts)
        self._pool = int.from_bytes(self._seed, "big")
        self._size = 1 << 256
        self._round = 0

    def below(self, n: int) -> int:
        """A number in ``[0, n)``, even but for a part in 2**64."""
        if self._size < n << 64:
            self._round += 1
            more = hashlib.sha256(self._seed + self._round.to_bytes(4, "big")).digest()
            self._pool, self._size = int.from_bytes(more, "big"), 1 << 256
        self._pool, result = divmod(self._pool, n)
        self._size //= n
        return result

    def alike(self, text: str) -> str:
        """``text`` with each letter and digit replaced by another of its kind; the rest stays."""
        return "".join(self.one_like(c) for c in text)

    def one_like(self, c: str) -> str:
        """A digit for a digit, a small letter for a small letter, a capital for a capital."""
        if c.isdigit():
            return str(self.below(10))
        if c.isalpha():
            letter = LETTERS[self.below(26)]
            return letter.upper() if c.isupper() else letter
        return c
