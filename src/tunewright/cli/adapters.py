"""The commands about adapters, once the heavy libraries may be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.adapt.combine import Made
from tunewright.adapt.combine import combine as combined
from tunewright.cli import output
from tunewright.models.precision import use_all_cores
from tunewright.run.adapters import extracted, merged, weights_for


def combine(
    adapters: Sequence[str],
    weights: Sequence[float] | None,
    out: Path,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Write the combination and say what it holds."""
    use_all_cores()
    _say(combined(adapters, weights_for(adapters, weights), out, **options), as_json)


def extract(tuned: str, base: str, out: Path, options: dict[str, Any], as_json: bool) -> None:
    """Write the difference and say how much of it the rank holds."""
    use_all_cores()
    _say(extracted(tuned, base, out, **options), as_json)


def merge(adapter: str, out: Path, as_json: bool) -> None:
    """Write the merged model and say how near it is to the adapter."""
    use_all_cores()
    facts = merged(adapter, out)
    said = f"wrote {facts['path']}; its logits differ from the adapter's by {facts['logit_error']:.1e}"
    output.emit(facts, as_json, [said])


def _say(made: Made, as_json: bool) -> None:
    facts = {**asdict(made), "path": str(made.path)}
    said = f"wrote {made.path}: {made.layers} layers, rank {made.rank}, at least {made.kept:.1%} of each"
    output.emit(facts, as_json, [said])
