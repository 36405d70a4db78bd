"""The key: made once, private, the same for all; refused where others can read it."""

import stat

import pytest

from tunewright.core.errors import ConfigError
from tunewright.data.redact.keys import redaction_key


def test_a_key_is_made_once_and_private(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path))
    key = redaction_key()
    path = tmp_path / "keys" / "redaction.key"
    assert len(key) == 32 and key == path.read_bytes() == redaction_key()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["redaction.key"]


def test_another_file_may_be_named(tmp_path):
    path = tmp_path / "mine.key"
    path.write_bytes(b"s" * 40)
    path.chmod(0o600)
    assert redaction_key(str(path)) == b"s" * 40


def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "mine.key"
    path.write_bytes(b"s" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as refused:
        redaction_key(str(path))
    assert "sss" not in str(refused.value)


def test_a_short_or_unreadable_key_is_refused(tmp_path):
    path = tmp_path / "mine.key"
    path.write_bytes(b"s")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="1 bytes"):
        redaction_key(str(path))
    with pytest.raises(ConfigError, match="cannot be read or made"):
        redaction_key(str(tmp_path))
