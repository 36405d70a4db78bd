"""Why ``data recommend`` scores as it does: other scores and other numbers of layers, on the same gradients.

    python benchmarks/detective_ways.py             # about 5 minutes on one core
    python benchmarks/detective_ways.py --seeds 1

For each seed, for a medical and a maths problem, and with each of the four other sets as the wrong half: is
the right set first and the half one second? So 8 questions a seed for each way of scoring: the plain mean of
cosines or the mean of the best fifth, with the mean gradient of all candidates taken off or not.
"""

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from detective import SETTINGS, distinct, pools_of, shuffled, written

from tunewright.data.load import load
from tunewright.run.recommend import subject as subjects
from tunewright.run.recommend.gradients import Reader, unit
from tunewright.run.recommend.projection import Projection
from tunewright.run.recommend.settings import DetectiveSettings
from tunewright.run.recommend.similarity import SHARE, top_mean

ROWS = 24
TOPS = (15, 5, 2)  # one in so many of the 30 layers carries the adapter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for top in TOPS:
        subjects.TOP = top
        right: dict[str, int] = {}
        spent = 0.0
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                vectors, seconds = read(seed, Path(folder))
            spent += seconds
            for way, good in ways(vectors).items():
                right[way] = right.get(way, 0) + good
        told = ", ".join(f"{way} {count}/{8 * given.seeds}" for way, count in right.items())
        print(f"{30 // top:>2} layers: {told}; {spent / given.seeds:.0f} s of CPU a seed", flush=True)


def read(seed: int, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Unit gradients by the name of a set, a problem called ``NAME problem``; seconds of CPU they took."""
    settings = DetectiveSettings(**{**SETTINGS, "seed": seed})
    subject = subjects.make_subject(settings, "chat", folder)
    subject.forward.below = lambda batch: nullcontext()  # each text is read once: keeping states only costs
    reader = Reader(subject.model, subject.forward, subject.objective, Projection(seed))
    found, begun = {}, time.process_time()
    for name, rows in pools_of().items():
        drawn = shuffled(distinct(rows), seed)
        parts = {name: drawn[:ROWS]}
        if name in ("medical", "maths"):
            parts[f"{name} problem"] = drawn[ROWS : ROWS + 16]
        for part, chosen in parts.items():
            examples = load([written(folder / "rows.jsonl", chosen)]).examples
            found[part] = reader.read([row for row in subject.rendered(examples) if row])
    return found, time.process_time() - begun


def ways(vectors: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many of the eight questions each way answers rightly."""
    names = [name for name in vectors if not name.endswith("problem")]
    right: dict[str, int] = {}
    for goal in ("medical", "maths"):
        for other in (name for name in names if name != goal):
            half = torch.cat([vectors[goal][: ROWS // 2], vectors[other][: ROWS // 2]])
            sets = {**{name: vectors[name] for name in names}, "half": half}
            common = torch.stack([rows.mean(0) for rows in sets.values()]).mean(0)
            for taken, label in ((torch.zeros_like(common), "as they are"), (common, "mean off")):
                own = unit(vectors[f"{goal} problem"] - taken)
                cosines = {n: (own @ unit(rows - taken).T).double().numpy() for n, rows in sets.items()}
                for share, name in ((1.0, "plain mean"), (SHARE, "best fifth")):
                    scores = {n: top_mean(found, share) for n, found in cosines.items()}
                    order = sorted(scores, key=scores.__getitem__, reverse=True)
                    way = f"{name}, {label}"
                    right[way] = right.get(way, 0) + (order[:2] == [goal, "half"])
    return right


if __name__ == "__main__":
    main()
