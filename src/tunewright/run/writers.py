"""What asks a server to write, and the file that keeps every reply, so that nothing is asked for twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunewright.core.endpoint import PARALLEL, Completion, Endpoint, Failure
from tunewright.core.errors import RunError
from tunewright.core.hashing import digest
from tunewright.core.paths import sync

Body = dict[str, Any]


class Writer(Protocol):
    """Answers requests, each a body of the chat-completions protocol."""

    at_once: int
    """Requests that are given together."""

    @property
    def where(self) -> str:
        """What of it stands in a receipt."""

    def write(self, bodies: Sequence[Body]) -> Iterator[Completion | Failure]:
        """The replies in order."""


@dataclass
class ServerWriter:
    """Asks a server, several requests at a time."""

    server: Endpoint
    at_once: int = PARALLEL

    @property
    def where(self) -> str:
        return self.server.url

    def write(self, bodies: Sequence[Body]) -> Iterator[Completion | Failure]:
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="write") as pool:
            yield from pool.map(self._one, bodies)

    def _one(self, body: Body) -> Completion | Failure:
        try:
            return self.server.ask(body, lambda completion: completion)
        except Failure as failure:
            return failure


class Replies:
    """Every reply in a file of JSON lines, by the hash of its request; written and flushed as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Completion] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            for line in whole.splitlines():
                row = json.loads(line)
                self._known[row["request"]] = Completion(row["reply"], row["tokens"])
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path} is damaged; delete it, and all is asked for again") from None
        if len(whole) < len(content):  # a crash cut the last line
            os.truncate(path, len(whole))

    def __len__(self) -> int:
        return len(self._known)

    @property
    def tokens(self) -> int:
        """Read and written in all, as the server counted them; four characters a token where it did not."""
        return sum(tokens_of(completion) for completion in self._known.values())

    @property
    def uncounted(self) -> int:
        """Replies whose tokens the server did not count."""
        return sum(completion.tokens is None for completion in self._known.values())

    def get(self, body: Body) -> Completion | None:
        """The reply to a request, if it was asked before."""
        return self._known.get(digest(body))

    def add(self, body: Body, completion: Completion) -> None:
        """Keep a reply."""
        key = digest(body)
        row = {"request": key, "reply": completion.text, "tokens": completion.tokens}
        with self._path.open("ab") as f:
            f.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        sync(self._path)
        self._known[key] = completion


def tokens_of(completion: Completion) -> int:
    """As counted, or a quarter of the characters of the reply."""
    return len(completion.text) // 4 + 1 if completion.tokens is None else completion.tokens
