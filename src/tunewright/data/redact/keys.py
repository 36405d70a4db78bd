"""The secret key of pseudonyms and of the numbers of questions: made once, kept private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tunewright.core.errors import ConfigError
from tunewright.core.paths import cache_dir

BYTES = 32


def key_path(given: str | None = None) -> Path:
    """The file of the key: the one that is named, else ``keys/redaction.key`` in the user's own folder."""
    return Path(given) if given else cache_dir() / "keys" / "redaction.key"


def redaction_key(given: str | None = None) -> bytes:
    """The key, made with 32 random bytes and mode 0600 where there is none, but for one that is named.

    Raises ``ConfigError`` if a named one is missing, or if the file is readable for others, too short or
    cannot be read or made.
    """
    path = key_path(given)
    try:
        if given and not path.exists():
            raise ConfigError(
                f"{path}: no such key; to make one: (umask 077; head -c {BYTES} /dev/urandom > {path})"
            )
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(4096)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path}: the key cannot be read or made ({reason}); give key_file") from None
    if mode & 0o077:
        raise ConfigError(
            f"{path}: the key can be read by others (mode {mode:03o}); run `chmod 600 {path}`, "
            "or delete it for a new one, with which pseudonyms will differ"
        )
    if len(key) < BYTES:
        raise ConfigError(
            f"{path}: the key has {len(key)} bytes, fewer than {BYTES}; delete it for a new one"
        )
    return key


def _make(path: Path) -> None:
    """Write a new key; of two processes that try at once, one wins and both read the same."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
