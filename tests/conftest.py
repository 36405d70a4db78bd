"""For every test: one thread, no network."""

import os
import socket

# Before torch and the hub client are imported: tiny models are quickest, and exactly repeatable, on one
# thread; and no test asks the network for a model.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """Any connection that leaves this machine is a bug."""
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if isinstance(address, tuple) and host not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test opened a connection to {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
