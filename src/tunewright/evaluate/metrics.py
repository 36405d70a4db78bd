"""What a metric is, and every metric by name.

A metric turns each row into numbers that may be added up, and the sums into one value. So the value of any
resampled, swapped or weighted set of rows is one matrix product away, and BLEU or macro-F1 get the same
honest interval as a plain mean.

    >>> metric = METRICS["exact_match"]
    >>> rows = metric.rows(["4", "5 "], ["4", "6"])
    >>> metric.aggregate(rows)
    0.5

Shapes: n rows, k additive statistics of a row, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import Registry

Array = npt.NDArray[np.float64]
Stats = Any  # (n, k): an Array, or a scipy csr_array where k is large, as for one column per class


def mean(sums: Array, sizes: Array) -> Array:
    """The mean score: (R, 1) sums over (R,) numbers of rows -> (R,)."""
    return sums[:, 0] / sizes


def as_columns(rows: Array) -> Stats:
    """Rows that can be added up as they are: (n,) or (n, k) -> (n, k)."""
    return rows.reshape(len(rows), -1)


@dataclass(frozen=True)
class Metric:
    """One way to score answers against references.

    ``score`` makes the rows, ``spread`` the additive statistics (n, k) of the rows, and ``finish`` one value
    from each of R sums (R, k) and numbers of rows (R,). ``bounds`` are the worst and best possible values in
    ascending order, where there are such. ``signature`` names the settings of a metric that has variants.
    """

    name: str
    description: str
    score: Callable[[Sequence[Any], Sequence[Any]], Array]
    spread: Callable[[Array], Stats] = as_columns
    finish: Callable[[Array, Array], Array] = mean
    higher_is_better: bool = True
    needs: Literal["text", "logprobs", "pairs", "head"] = "text"
    unit: str = "share"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    signature: str = ""

    def rows(self, predictions: Sequence[Any], references: Sequence[Any]) -> Array:
        """Per-row statistics: (n,) scores where the value is their mean, else (n, k).

        A metric with ``needs == "text"`` takes generated and reference answers. One with ``"logprobs"``
        takes, per row, the summed negative log-likelihood of the reference answer (nats) and its number of
        tokens. One with ``"pairs"`` (log-likelihoods of judged answers) or ``"head"`` (what a head says)
        takes that and what is right, in a form of its own.
        Raises ``DataError`` if the two differ in length, if there is no row, or if a row cannot be scored.
        """
        if len(predictions) != len(references):
            raise DataError(
                f"{self.name}: {len(predictions)} predictions for {len(references)} references; "
                "give exactly one prediction per test row"
            )
        if len(references) == 0:
            raise DataError(f"{self.name}: there is no row to score; give at least one test row")
        return np.asarray(self.score(predictions, references), dtype=np.float64)

    def aggregate(self, rows: Array) -> float:
        """The value over all ``rows``."""
        return float(self.aggregate_weighted(rows, np.ones((1, len(rows))))[0])

    def aggregate_weighted(self, rows: Array, counts: Array) -> Array:
        """The value of each of R resamples, where ``counts`` (R, n) says how often a row is in it -> (R,)."""
        if len(rows) == 0:
            raise DataError(f"{self.name}: there is no row to aggregate; give at least one test row")
        return self.finish(dense(counts @ self.spread(rows)), counts.sum(axis=1))

    def per_row(self, rows: Array) -> Array:
        """The value that each row would have alone: (n,)."""
        stats, step = self.spread(rows), 1024  # a sparse row is made dense here, so a slice at a time
        slices = [dense(stats[i : i + step]) for i in range(0, len(rows), step)]
        return np.concatenate([self.finish(part, np.ones(len(part))) for part in slices])

    def is_binary(self, rows: Array) -> bool:
        """Whether every row is plainly right (1) or wrong (0) and the value is their mean."""
        return self.finish is mean and bool(np.isin(rows, (0.0, 1.0)).all())


def dense(stats: Any) -> Array:
    """A plain array from a plain or sparse one."""
    return stats.toarray() if hasattr(stats, "toarray") else np.asarray(stats)


class Metrics(Registry[Metric]):
    """Metrics by name, where ``family:argument`` makes one on demand (``json_field:queue``).

    ``task/metric`` is the metric of that name, on the rows of one of several tasks.
    """

    def __getitem__(self, name: str) -> Metric:
        task, metric = split_task(name)
        if task:
            found = self[metric]
            return replace(found, name=name, unit=name if found.unit == found.name else found.unit)
        family, colon, argument = name.partition(":")
        if not colon:
            return super().__getitem__(name)
        if not argument:
            raise ConfigError(f"metric {name!r} needs a name after the colon, as in {family + ':queue'!r}")
        return FAMILIES[family](argument)

    def __contains__(self, name: object) -> bool:
        family, colon, argument = split_task(str(name))[1].partition(":")
        return (bool(argument) and family in FAMILIES) if colon else super().__contains__(family)


def split_task(name: str) -> tuple[str, str]:
    """``support/exact_match`` -> task and metric; the task is empty where the name has none."""
    task, slash, metric = name.partition("/")
    return (task, metric) if slash and ":" not in task else ("", name)


_HERE = "tunewright.evaluate"
FAMILIES: Registry[Callable[[str], Metric]] = Registry(
    "metric family",
    {"json_field": f"{_HERE}.metrics_json:json_field", "reward": f"{_HERE}.metrics_reward:part"},
)
METRICS = Metrics(
    "metric",
    {
        "exact_match": f"{_HERE}.metrics_text:exact_match",
        "token_f1": f"{_HERE}.metrics_text:token_f1",
        "rouge_l": f"{_HERE}.metrics_text:rouge_l",
        "json_valid": f"{_HERE}.metrics_json:json_valid",
        "json_fields": f"{_HERE}.metrics_json:json_fields",
        "accuracy": f"{_HERE}.metrics_label:accuracy",
        "macro_f1": f"{_HERE}.metrics_label:macro_f1",
        **{name: f"{_HERE}.metrics_head:{name}" for name in ("label_exact", "label_f1", "label_macro_f1")},
        **{name: f"{_HERE}.metrics_head:{name}" for name in ("rank_error", "calibration_error")},
        **{name: f"{_HERE}.metrics_number:{name}" for name in ("mae", "rmse", "r2")},
        **{name: f"{_HERE}.metrics_number:{name}" for name in ("interval_coverage", "interval_width")},
        "bleu": f"{_HERE}.metrics_corpus:bleu",
        "chrf": f"{_HERE}.metrics_corpus:chrf",
        "perplexity": f"{_HERE}.metrics_corpus:perplexity",
        "reward": f"{_HERE}.metrics_reward:reward",
        **{name: f"{_HERE}.metrics_pairs:{name}" for name in ("prefers_chosen", "liked_auc", "reward_auc")},
        **{n: f"{_HERE}.metrics_pairs:{n}" for n in ("reward_accuracy", "reward_margin", "liked_margin")},
        **{name: f"{_HERE}.metrics_ranked:{name}" for name in ("pair_accuracy", "pair_calibration")},
        **{name: f"{_HERE}.metrics_ranked:{name}" for name in ("shorter_accuracy", "length_correlation")},
    },
)
