"""Which of the ways to compute attention a test goes."""

from tunewright.models import attention

WAYS = ("plain", "blocked", "fused")


def attend(way: str, monkeypatch) -> None:
    """Let every packed document go the same way, whatever its length: the third is that of a GPU."""
    monkeypatch.setattr(attention, "SHORT", {"plain": 10**9, "blocked": 0, "fused": 0}[way])
    monkeypatch.setattr(attention, "BLOCKED", set() if way == "fused" else {"cpu"})
