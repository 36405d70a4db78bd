"""Imports go down only, and the source calls nothing that runs what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import tunewright
from tests.contract.source_rules import LAYERS, violations

PACKAGE = Path(tunewright.__file__).parent


def test_the_package_keeps_the_rules():
    found = violations(PACKAGE)
    assert not found, "\n" + "\n".join(found)


def test_every_package_of_the_tree_was_read():
    packages = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert {"core", "data", "models", "adapt", "objectives", "engine", "evaluate", "run", "cli"} <= packages
    assert packages <= LAYERS.keys()


def tree(folder: Path, **files: str) -> list[str]:
    """The violations of a package ``app`` with these modules, ``core__a`` standing for ``core/a.py``."""
    root = folder / "app"
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in (root, path.parent):
            (package / "__init__.py").touch()
        path.write_text(text + "\n")
    return violations(root)


def test_a_clean_tree_has_no_violation(tmp_path):
    assert (
        tree(
            tmp_path,
            core__names="import json\n\n\ndef read(text):\n    return json.loads(text)",
            data__load="from app.core.names import read\nfrom app.core import names",
            models__net="import torch\n\n\ndef off(model):\n    return model.eval()",
            cli__main="def go():\n    from app.cli import commands\n\n    commands.run()",
            cli__commands="from app.data import load\n\n\ndef run():\n    return load.read('1')",
        )
        == []
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"core__a": "from app.data.b import x", "data__b": "x = 1"},
            "core/a.py:1: core (layer 0) uses data.b",
        ),
        ({"core__a": "import app.data.b", "data__b": ""}, "core (layer 0) uses data.b (layer 1)"),
        ({"core__a": "from ..data import b", "data__b": ""}, "core (layer 0) uses data.b (layer 1)"),
        ({"core__a": "X = 'app.data.b:thing'", "data__b": ""}, "core (layer 0) uses data.b (layer 1)"),
        (
            {"data__a": "from app.models import b", "models__b": ""},
            "data uses models.b, which stands beside it",
        ),
        ({"adapt__a": "from app.objectives import b", "objectives__b": ""}, "adapt uses objectives.b"),
        (
            {"core__a": "from app.core import b", "core__b": "from app.core import a"},
            "core.a -> core.b -> core.a",
        ),
        (
            {"run__a": "def f():\n    from app.core import b", "core__b": ""},
            "run/a.py:2: core.b is imported inside",
        ),
        ({"other__a": ""}, "package 'other' has no layer"),
        ({"data__a": "import torch.nn as nn"}, "data works without torch"),
        ({"core__a": "def f():\n    from transformers import AutoModel"}, "core works without transformers"),
        ({"data__a": "from peft import LoraConfig"}, "data works without peft"),
        ({"run__a": "print('hello')"}, "print() is not used here"),
        ({"run__a": "x = eval('1')"}, "eval() is not used here"),
        ({"run__a": "exec('x = 1')"}, "exec() is not used here"),
        ({"run__a": "import pickle"}, "pickle runs code"),
        ({"run__a": "from pickle import loads"}, "pickle runs code"),
        ({"run__a": "import torch\nx = torch.load('m')"}, "run/a.py:2: torch.load() is not used here"),
        ({"run__a": "import yaml\nx = yaml.load('m')"}, "yaml.load() is not used here"),
        ({"run__a": "import subprocess\nsubprocess.run('ls', shell=True)"}, "shell must be false"),
        (
            {"models__a": "def f(load):\n    load('m', trust_remote_code=True)"},
            "trust_remote_code must be false",
        ),
        ({"models__a": "OPTIONS = {'trust_remote_code': True}"}, "trust_remote_code must be false"),
        (
            {"models__a": "def f(load, trust):\n    load('m', trust_remote_code=trust)"},
            "trust_remote_code must be",
        ),
    ],
)
def test_each_kind_of_violation_is_noticed(tmp_path, files, message):
    found = tree(tmp_path, **files)
    assert any(message in line for line in found), found


def test_a_method_that_is_called_eval_is_no_violation(tmp_path):
    assert (
        tree(tmp_path, models__a="def f(model, shell):\n    model.eval()\n    shell(trust_remote_code=False)")
        == []
    )
