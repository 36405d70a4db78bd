"""What a library compiles while it is imported is compiled when it is first called."""

import importlib
import sys

import torch

from tunewright.models.deferred import NAME, defer_compiling

MODULE = """
import torch

def three(x):
    return 3 * x

plain = torch.compile(three)
decorated = torch.compile(dynamic=False)(three)
"""


def test_functions_are_compiled_at_their_first_call_and_once(tmp_path, monkeypatch):
    """A module of the same name stands in for the library."""
    made = []

    def compiler(model, **options):
        made.append(options)
        return model

    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.syspath_prepend(str(tmp_path))
    others = {name: m for name, m in sys.modules.items() if name == NAME or name.startswith(f"{NAME}.")}
    for name in others:
        monkeypatch.delitem(sys.modules, name)
    defer_compiling()
    try:
        library = importlib.import_module(NAME)
        assert made == [] and torch.compile is compiler
        assert [library.plain(2), library.plain(3), library.decorated(4)] == [6, 9, 12]
    finally:
        sys.modules.pop(NAME, None)
    assert made == [{}, {"dynamic": False}]


def test_it_is_set_up_once():
    defer_compiling()
    before = list(sys.meta_path)
    defer_compiling()
    assert sys.meta_path == before
