"""Kill a run again and again, at random moments, and show that it ends in the same bits.

    python benchmarks/kill_resume.py [--kills 100]

A tiny model is trained in child processes that are killed with SIGKILL after a random time, anywhere from the
first read of the data to the last write of the report. Each is resumed until it ends. Passes if every final
adapter, answer and number equals those of the run that nobody disturbed. Prints the share that did.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.errors import RunError
from tunewright.run.resolve import resolve
from tunewright.run.train import resume, train

WORDS = ["refund", "parcel", "app", "speaker", "card", "late", "broken", "update", "question", "thanks"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    wanted = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_inputs(root)
        begun = time.monotonic()
        assert in_child(root, root / "whole", None) == 0, "the undisturbed run failed"
        length = time.monotonic() - begun
        expected = fingerprint(root / "whole")
        kills, runs, equal = 0, 0, 0
        random.seed(0)
        while kills < wanted:
            run, runs = root / f"run-{runs}", runs + 1
            while (status := in_child(root, run, random.uniform(0, length))) != 0:
                assert status == -signal.SIGKILL, f"a resumed run ended with status {status}"
                kills += 1
            equal += fingerprint(run) == expected
        print(f"{kills} kills over {runs} runs of {length:.1f} s: {equal} of {runs} ended in the same bits")
        sys.exit(equal != runs)


def make_inputs(root: Path) -> None:
    """A two-layer model and 60 rows."""
    tiny_model("llama", 420).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    rows = [{"prompt": f"{a} and {b}", "completion": a} for a in WORDS for b in WORDS[:6]]
    (root / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def in_child(root: Path, run: Path, kill_after: float | None) -> int:
    """Start or resume ``run`` in a forked child; kill it after some seconds. Its exit status, or -9."""
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            work(root, run)
            os._exit(0)
        finally:  # whatever was raised, the child must not go on as a second parent
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work(root: Path, run: Path) -> None:
    """Resume if there is something to resume; a run killed before its data were ready is started again."""
    try:
        resume(run)
        return
    except RunError:
        pass
    for path in sorted(run.rglob("*"), reverse=True) if run.exists() else ():
        path.rmdir() if path.is_dir() else path.unlink()
    train(
        resolve(
            None,
            None,
            {
                "model.name": str(root / "model"),
                "model.dtype": "float32",
                "data.train": str(root / "rows.jsonl"),
                "train.tokens_per_step": 256,
                "train.epochs": 2,
                "adapt.dropout": 0.1,
                "evaluate.every": 3,
                "evaluate.max_new_tokens": 8,
                "output.save_every": 1,
                "output.dir": str(run),
            },
        )
    )


def fingerprint(run: Path) -> str:
    """Hash of the weights, the answers and the figures of a finished run."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    answers = json.loads((run / "answers.json").read_text(encoding="utf-8"))
    texts = {name: [a["texts"], a["scores"]] for name, a in answers.items()}
    weights = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    figures = json.dumps([result["metrics"], result["verdict"], texts], sort_keys=True)
    return hashlib.sha256(weights + figures.encode()).hexdigest()


if __name__ == "__main__":
    main()
