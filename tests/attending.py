"""Which of the ways to compute attention a test goes."""

from tunewright.models import attention

WAYS = ("blocked", "fused")


def attend(way: str, monkeypatch) -> None:
    """Let every packed document go the same way: the second is that of a GPU."""
    monkeypatch.setattr(attention, "BLOCKED", set() if way == "fused" else {"cpu"})
