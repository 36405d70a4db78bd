"""How long it takes to begin: ``tunewright --help``, and the first update of a run from a warm cache.

python benchmarks/startup.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from race import verdict

HELP, STEP = (0.3, 0.2), (6.0, 4.0)  # seconds, must and aim
TUNEWRIGHT = Path(sys.executable).with_name("tunewright")


def seconds_of_help() -> float:
    """One call of the command line."""
    begun = time.perf_counter()
    subprocess.run([str(TUNEWRIGHT), "--help"], check=True, capture_output=True)
    return time.perf_counter() - begun


def seconds_to_step(folder: Path, turn: int) -> float:
    """From the call to the end of the first update, as the run's own log has it."""
    rows = folder / "rows.jsonl"
    lines = [{"prompt": f"What is {i} + {i}?", "completion": f"It is {2 * i}."} for i in range(64)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run = folder / f"run-{turn}"
    settings = ["data.split.validation=0", "data.split.test=0", "train.max_steps=1"]
    settings += ["train.tokens_per_step=512", "model.name=smollm2-135m-instruct", f"output.dir={run}"]
    begun = time.time()
    call = [str(TUNEWRIGHT), "train", "--data", str(rows), *settings]
    subprocess.run(call, check=True, capture_output=True)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    return float(next(event["time"] for event in events if event["event"] == "StepEnd") - begun)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        helped = statistics.median(seconds_of_help() for _ in range(options.repeats))
        seconds_to_step(Path(folder), -1)  # fills the caches
        stepped = statistics.median(seconds_to_step(Path(folder), turn) for turn in range(options.repeats))
    print(verdict("seconds of --help", helped, *HELP, at_most=True))
    print(verdict("seconds to the first update", stepped, *STEP, at_most=True))


if __name__ == "__main__":
    main()
