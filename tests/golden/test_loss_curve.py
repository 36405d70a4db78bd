"""The loss curve of a tiny run, number by number. If it moves, say why in the change that moves it."""

import json
from pathlib import Path

import pytest

from tests.training import fit, job, rows, settings
from tunewright.adapt.base import adapter_of
from tunewright.core import events

GOLDEN = Path(__file__).with_name("loss_curve.json")


def curve(adapter, folder):
    seen = []
    fit(job(rows(40), rows(8, seed=4), adapter=adapter), settings(every=5), folder, seen.append)
    return {
        "train": [e.loss for e in seen if isinstance(e, events.StepEnd)],
        "validation": [e.metrics["validation_loss"] for e in seen if isinstance(e, events.EvalEnd)],
    }


@pytest.mark.parametrize("name", ["full", "lora"])
def test_curve(name, tmp_path):
    expected = json.loads(GOLDEN.read_text())[name]
    got = curve(adapter_of("lora", rank=4) if name == "lora" else None, tmp_path)
    for key, values in expected.items():
        assert got[key] == pytest.approx(values, rel=1e-4), key
