"""How many of the wrong labels that were planted stand among the most suspected rows.

    python benchmarks/label_errors.py [--seeds 5] [--data ../shared/data]

3 % of the labels of banking77 (10,003 rows, 77 classes) are replaced by another one, drawn at random
("random") or the one that the models find most probable after the right one ("near", as people err). What
counts is the share of them among the top 5 % of the ranking. The last line is a sanity figure: naive Bayes on
words and pairs of words reaches 0.86 on the test file, so the texts were read as others read them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.core.records import Labelled
from tunewright.data.audit.label_errors import out_of_fold, ranking
from tunewright.data.load import load

SHARE, TOP, MUST = 0.03, 0.05, 0.70


def rows_of(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a file."""
    rows = [e for e in load([path]).examples if isinstance(e, Labelled)]
    return [r.messages[-1].content for r in rows], [str(r.label) for r in rows]


def flipped(labels: np.ndarray[Any, Any], seed: int, instead: np.ndarray[Any, Any] | None) -> Any:
    """Labels with ``SHARE`` of them wrong, and which: by ``instead``, or by any other class."""
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    which = rng.choice(len(labels), round(SHARE * len(labels)), replace=False)
    wrong = labels.copy()
    drawn = (wrong[which] + rng.integers(1, classes, len(which))) % classes
    wrong[which] = drawn if instead is None else instead[which]
    return wrong, which


def found(texts: list[str], wrong: Any, which: Any, seed: int) -> tuple[float, float]:
    """Share of the planted rows in the top ``TOP``, and CPU seconds."""
    begun = time.process_time()
    probabilities = out_of_fold(texts, wrong, seed)
    ranked = ranking(probabilities, wrong, [f"{i:07d}" for i in range(len(texts))])
    top = set(ranked[: round(TOP * len(texts))])
    return sum(int(i) in top for i in which) / len(which), time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    home = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TUNEWRIGHT_DATA", home)))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    texts, names = rows_of(options.data / "cls_banking77" / "train.csv")
    known = {name: i for i, name in enumerate(sorted(set(names)))}
    labels = np.array([known[name] for name in names])
    clean = out_of_fold(texts, labels)
    clean[np.arange(len(labels)), labels] = -1
    for kind, instead in (("random", None), ("near", clean.argmax(1))):
        shares, seconds = zip(
            *(found(texts, *flipped(labels, s, instead), s) for s in range(options.seeds)), strict=True
        )
        line = f"{kind}: {statistics.mean(shares):.3f} of the wrong labels in the top {TOP:.0%}"
        if len(shares) > 1:
            from scipy.special import stdtrit

            half = stdtrit(len(shares) - 1, 0.975) * statistics.stdev(shares) / len(shares) ** 0.5
            line += f" [{statistics.mean(shares) - half:.3f}, {statistics.mean(shares) + half:.3f}] over"
            line += f" {len(shares)} seeds, lowest {min(shares):.3f}"
        print(f"{line}; {statistics.median(seconds):.1f} CPU seconds", flush=True)
        if kind == "random":
            print(f"  must be {MUST}: {'met' if min(shares) >= MUST else 'MISSED'}")
    print(f"naive Bayes, accuracy on test.csv: {naive_bayes(texts, names, options.data):.3f} (known: 0.860)")


def naive_bayes(texts: list[str], names: list[str], data: Path) -> float:
    """Accuracy of multinomial naive Bayes on counts of words and pairs of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    counter = CountVectorizer(ngram_range=(1, 2))
    model = MultinomialNB(alpha=0.1).fit(counter.fit_transform(texts), names)
    asked, right = rows_of(data / "cls_banking77" / "test.csv")
    return float((model.predict(counter.transform(asked)) == np.array(right)).mean())


if __name__ == "__main__":
    main()
