"""Train and score from Python.

    python examples/train_from_python.py [MODEL] [RUN DIRECTORY]

The command line is a thin shell over what is used here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tunewright as tw

DATA = Path(__file__).parent / "data" / "requests.csv"


def main(model: str, out: str, **train: object) -> dict[str, object]:
    """Train on the bundled requests, then score the result once more on its own test rows."""
    recipe = tw.Recipe.model_validate(
        {
            "model": model,
            "data": {"train": str(DATA), "split": {"validation": 0.1, "test": 0.25}},
            "train": {"epochs": 3, "tokens_per_step": 512, **train},
            "evaluate": {"metrics": ["accuracy"]},
            "output": out,
        }
    )
    run = tw.train(recipe)
    print(run.result["verdict"]["reason"])
    print(f"report: {run.path / 'report.html'}")

    again = tw.evaluate(run, data=run.path / "data" / "test.jsonl")
    for metric in again["metrics"]:
        print(f"{metric['name']}: {metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]")
    return again


if __name__ == "__main__":
    words = sys.argv[1:]
    main(*words, *["smollm2-135m-instruct", "runs/from-python"][len(words) :])
