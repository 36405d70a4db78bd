"""A client for any server that speaks the OpenAI chat-completions protocol.

Redirects are not followed, because they would carry the key elsewhere; the key stands in no text that this
module makes. What fails is tried again where that may help, with waits that double.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tunewright.core.errors import ConfigError

T = TypeVar("T")
PARALLEL = 8  # requests at a time
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before the next try; doubled each time
LONGEST_REPLY = 4 << 20  # bytes
_WORTH_RETRYING = {408, 409, 425, 429, 500, 502, 503, 504}


class Failure(Exception):
    """A request that failed: ``again`` says whether another try may help, ``status`` the HTTP status if any.

    ``tries`` is how many there were, once it is given up.
    """

    def __init__(self, text: str, again: bool = True, status: int | None = None) -> None:
        super().__init__(text)
        self.again, self.status, self.tries = again, status, 1


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply. ``tokens`` read and written, as the server counts them; ``None`` if it does not."""

    text: str
    tokens: int | None = None


@dataclass(frozen=True)
class Endpoint:
    """A server up to and with ``/v1``, and how long it is waited for (seconds per request, further tries)."""

    url: str
    key: str = field(default="", repr=False)
    seconds: float = 60.0
    retries: int = 3

    def ask(self, body: dict[str, Any], read: Callable[[Completion], T]) -> T:
        """What ``read`` makes of the reply; it raises ``Failure`` for one that should be asked for again.

        Raises ``Failure`` after the last try.
        """
        for trial in range(self.retries + 1):
            try:
                return read(self.complete(body))
            except Failure as failure:
                failure.tries = trial + 1
                if trial == self.retries or not failure.again:
                    raise
                time.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2**trial))
        raise AssertionError("the last try returns or raises")

    def complete(self, body: dict[str, Any]) -> Completion:
        """One request, one reply; raises ``Failure``."""
        try:
            return _completion(self._post(body))
        except Failure as failure:
            if self.key and self.key in str(failure):  # a server may repeat what it was sent
                shown = str(failure).replace(self.key, "(the key)")
                raise Failure(shown, failure.again, failure.status) from None
            raise

    def _post(self, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = self.url.rstrip("/") + "/chat/completions"
        request = Request(address, json.dumps(body).encode(), headers, method="POST")
        deadline = time.monotonic() + self.seconds
        try:
            with build_opener(_NoRedirect).open(request, timeout=self.seconds) as response:
                return _read(response, deadline)
        except HTTPError as error:
            with error:
                text = error.read(300).decode(errors="replace")
            again = error.code in _WORTH_RETRYING
            raise Failure(f"HTTP {error.code}: {text}", again, error.code) from None
        except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
            raise Failure(f"{type(error).__name__}: {error}") from None


def check_url(url: str) -> None:
    """Raise ``ConfigError`` for an address that is no server's, or that holds what should stay secret."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"`url` must start with http:// or https:// (got {url!r})")
    parts = urlsplit(url)
    if parts.username is not None or parts.query:
        raise ConfigError("`url` holds a user name or a query; give the key with key_env, it is kept secret")


def key_from(variable: str, whose: str) -> str:
    """The API key in an environment variable, empty if none is named; raises ``ConfigError``."""
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ConfigError(f"{whose}: the environment variable {variable} is not set")
    return key


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would carry the key to another server."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _read(response: Any, deadline: float) -> bytes:
    """The body; raises ``TimeoutError`` for a server that never comes to an end."""
    body = b""
    while piece := response.read1(65536):
        body += piece
        if time.monotonic() > deadline or len(body) > LONGEST_REPLY:
            raise TimeoutError("the reply did not end in time")
    return body


def _completion(body: bytes) -> Completion:
    try:
        reply = json.loads(body)
        content = reply["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Failure(f"no chat completion: {body[:200]!r}") from None
    if not isinstance(content, str):
        raise Failure(f"no text in the reply: {content!r}")
    usage = reply.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return Completion(content, tokens if type(tokens) is int and tokens >= 0 else None)
