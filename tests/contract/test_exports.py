"""What others rely on by name: public names, commands and options, and the pages made from the code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tunewright
from tunewright.core.config import settings_of
from tunewright.run import judge
from tunewright.run.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {
    "Recipe", "Run", "TunewrightError", "__version__", "check", "compare", "evaluate", "resume", "train",
}  # fmt: skip


def tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    return tool("make_docs")


def test_public_names_resolve():
    assert set(tunewright.__all__) == PUBLIC
    for name in tunewright.__all__:
        assert getattr(tunewright, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tunewright.trian


@pytest.mark.parametrize("first", ["import tunewright.run.judge", "pass"])
def test_public_names_can_be_called_whatever_was_imported_before(first):
    """``evaluate`` is a package too, and importing a part of it puts the package in the function's place."""
    calls = "; ".join(
        f"assert callable(tunewright.{name}), '{name}'" for name in sorted(PUBLIC - {"__version__"})
    )
    program = f"{first}\nimport tunewright\n{calls}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_called_evaluate_evaluates(monkeypatch):
    monkeypatch.setattr(judge, "evaluate", lambda *args, **kwargs: (args, kwargs))
    assert tunewright.evaluate("m", data="d.jsonl") == (("m",), {"data": "d.jsonl"})


def test_commands_and_options_are_frozen(make_docs):
    frozen, now = make_docs.OPTIONS.read_text(encoding="utf-8"), make_docs.cli_options()
    gone = sorted(set(frozen.splitlines()) - set(now.splitlines()))
    new = sorted(set(now.splitlines()) - set(frozen.splitlines()))
    assert frozen == now, (
        f"the command line changed, on which scripts rely.\nwas: {gone}\nis:  {new}\n"
        "If that is intended, run: python tools/make_docs.py --freeze-cli"
    )


@pytest.mark.parametrize("page", ["recipe", "cli"])
def test_pages_made_from_the_code_are_fresh(make_docs, page):
    path = {"recipe": make_docs.RECIPE, "cli": make_docs.CLI}[page]
    made = {"recipe": make_docs.recipe_page, "cli": make_docs.cli_page}[page]()
    assert path.read_text(encoding="utf-8") == made, f"{path.name} is stale; run: make docs"


def test_the_recipe_page_has_every_setting_once(make_docs):
    page = make_docs.recipe_page()
    for name, field in settings_of(Recipe):
        assert page.count(f"| `{name}` |") == 1
        assert field.description in page


def test_sizes_counts_what_it_says(tmp_path):
    sizes = tool("sizes")
    body = "\n".join(f"    x{i} = {i}" for i in range(30))
    text = f'def f(self, a, b, c, d, e, *rest):\n    """Said."""\n{body}\n\n\nclass C:\n    y = 1\n'
    found = {(o.what, o.size) for o in sizes.outliers(Path("a.py"), text)}
    assert found == {("function", 30), ("parameters", 6)}
    assert sizes.duplicated_share([text, text])[0] == 1.0
    assert sizes.duplicated_share([text])[0] == 0.0
