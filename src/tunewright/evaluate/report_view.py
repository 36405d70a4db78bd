"""From the facts of a run to what the report page prints: one function per section, plain values out.

Templates only lay out what these functions return; every decision about words, digits and charts is here
and in ``report_scores``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunewright.evaluate import show
from tunewright.evaluate.charts import Bar, Mark, Series, bar_chart, line_chart
from tunewright.evaluate.report_scores import TUNED, View, system_name, systems_in_order

_GROUPS = {
    "random": ("Drawn at random", "Nobody picked these, so start here."),
    "worst": ("Weakest answers", "Where the tuned model scored lowest, or fell furthest behind."),
    "best": ("Biggest gains", "Where the tuned model improved most, or scored highest."),
}
PREDICTED = ("labels", "numbers")  # ways of judging by what a head predicts
COMPARED = ("preferences", "scores")  # … and by answers that are read, not written
SAMPLED = "rewards"  # … and by the rewards of answers, which are sampled while training
_ANSWERS_OPEN = 3
_TEXT_LIMIT = 4000
_BATCH_TOKENS = 6000
_SPACE = str.maketrans({" ": "·", "\t": "→\t", "\n": "↵\n"})


def answer_groups(answers: Sequence[Mapping[str, Any]]) -> list[View]:
    """Answers by group: the random ones first, so that the picked extremes do not set the tone."""
    names = [g for g in _GROUPS if any(a["group"] == g for a in answers)]
    names += sorted({a["group"] for a in answers} - set(_GROUPS))
    views = []
    for name in names:
        title, about = _GROUPS.get(name, (show.words_of(name), ""))
        cards = [_answer(a) for a in answers if a["group"] == name]
        views.append(
            {
                "name": name,
                "title": title,
                "about": about,
                "open": cards[:_ANSWERS_OPEN],
                "rest": cards[_ANSWERS_OPEN:],
            }
        )
    return views


def unfinished(result: Mapping[str, Any]) -> list[str]:
    """One sentence per system whose answers were cut at the length limit, which lowers its score."""
    counts = {name: facts.get("unfinished", 0) for name, facts in (result.get("answers") or {}).items()}
    return [
        f"{system_name(name)}: {show.number(count)} answer{'s' * (count != 1)} cut at the length limit."
        for name, count in counts.items()
        if count
    ]


def _answer(answer: Mapping[str, Any]) -> View:
    scores, notes = answer.get("scores") or {}, answer.get("notes") or {}
    columns = []
    for name in systems_in_order(answer["answers"]):
        text = answer["answers"][name]
        score = scores.get(name)
        columns.append(
            {
                "name": system_name(name),
                "tuned": name == TUNED,
                "score": None if score is None else f"{score:.3g}",
                "note": notes.get(name),
                "exact": bool(answer["reference"]) and text == answer["reference"],
                "pieces": _pieces(answer["reference"], text)
                if name == TUNED and name not in notes
                else _plain(text),
            }
        )
    return {
        "where": answer["where"],
        "prompt": _plain(answer["prompt"]),
        "reference": _plain(answer["reference"]) if answer["reference"] else [],
        "columns": columns,
    }


def _plain(text: str) -> list[show.Piece]:
    head, left_out = show.shortened(text, _TEXT_LIMIT)
    return [show.Piece("same", head), *_left_out(left_out)]


def _pieces(reference: str, text: str) -> list[show.Piece]:
    head, left_out = show.shortened(text, _TEXT_LIMIT)
    return [*show.difference(reference[:_TEXT_LIMIT], head), *_left_out(left_out)]


def _left_out(count: int) -> list[show.Piece]:
    return [show.Piece("note", f" … {show.number(count)} more characters not shown")] if count else []


def training(result: Mapping[str, Any], curves: Mapping[str, Any]) -> View:
    """Charts of loss, learning rate and the watched metric, with the kept step marked."""
    facts = result.get("training") or {}
    train, validation = curves.get("train") or [], curves.get("validation") or []
    last = max((x for x, _ in [*train, *validation]), default=0)
    best = facts.get("best_step")
    marks = [Mark(best, f"kept: step {best}")] if best is not None else []
    if facts.get("overfitting") and best is not None and best < last:
        marks.insert(0, Mark(best, "overfitting", until=last))
    lines = [Series("training", train, "plain"), Series("validation", validation, "strong")]
    metric, rates = curves.get("metric"), curves.get("learning_rate") or []
    small = (400, 220)
    return {
        "facts": facts,
        "reason": f"{(facts.get('stop_reason') or '').rstrip('.')}.",
        "watched": _watched(facts),
        "wide": line_chart(lines, marks, "step", "Loss"),
        "narrow": line_chart(lines, marks, "step", "Loss", (360, 280)),
        "rates": line_chart([Series("", rates)], (), "step", "Learning rate", small),
        "metric": line_chart(
            [Series("", metric["points"], "strong")], (), "step", show.words_of(metric["name"]), small
        )
        if metric
        else Markup(),
        "validated": bool(validation or (metric and metric["points"])),
        "table": [(show.number(x), show.number(y, 4)) for x, y in validation],
    }


def _watched(facts: Mapping[str, Any]) -> str | None:
    """What decided which checkpoint was kept, where that was not the validation loss."""
    watched = facts.get("watched") or {}
    if facts.get("best_validation_loss") is not None or watched.get("best") is None:
        return None
    name, best, step = show.words_of(watched["metric"]), watched["best"], show.number(facts["best_step"])
    return f"{name} was best at step {step} ({cell(float(best))}), and that checkpoint was kept."


def batch(documents: Sequence[Sequence[tuple[str, float, str]]], labels: Sequence[str] = ()) -> View:
    """The first packed batch: each token's text with unseen characters shown, and whether it is trained.

    Where a head learns, ``labels`` holds what it is to say of each document.
    """
    shown, left = [], _BATCH_TOKENS
    for number, document in enumerate(documents):
        tokens = [_token(document, i) for i in range(min(left, len(document)))]
        left -= len(tokens)
        if tokens:
            shown.append(
                {
                    "tokens": tokens,
                    "size": len(document),
                    "trained": sum(w != 0 for _, w, _ in document),
                    "label": labels[number] if labels else None,
                }
            )
    size = sum(len(d) for d in documents)
    trained = sum(w != 0 for d in documents for _, w, _ in d)
    return {
        "documents": shown,
        "count": len(documents),
        "size": size,
        "trained": trained,
        "labelled": bool(labels),
        "left_out": size - (_BATCH_TOKENS - left),
    }


def _token(document: Sequence[tuple[str, float, str]], i: int) -> View:
    text, weight, role = document[i]
    starts = i == 0 or document[i - 1][2] != role
    unusual = f"weight {weight:g}" if weight not in (0, 1) else None
    return {
        "text": show.visible(text).translate(_SPACE),
        "trained": weight != 0,
        "role": role if starts else None,
        "note": unusual,
    }


def cost(result: Mapping[str, Any]) -> View:
    """Where the time went, as a chart, and the totals."""
    found = result.get("cost") or {}
    seconds = found.get("seconds") or {}
    bars = [Bar(show.words_of(name), float(s), show.duration(s)) for name, s in seconds.items()]
    facts = [("Total time", show.duration(sum(seconds.values())))] if seconds else []
    facts += [("Tokens processed", show.number(found["tokens"]))] if found.get("tokens") is not None else []
    if found.get("tokens_per_second") is not None:
        facts.append(("Tokens per second", show.number(found["tokens_per_second"])))
    if found.get("peak_memory_mb") is not None:
        facts.append(("Peak memory", show.megabytes(found["peak_memory_mb"])))
    title = "Seconds per stage"
    return {"facts": facts, "wide": bar_chart(bars, title), "narrow": bar_chart(bars, title, 360)}


def run_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The strip under the banner: which model, how, on how much data."""
    model, counts = result["model"], result["counts"]
    facts = [("Model", model["name"]), ("Adapted by", model["adapt"]), ("Objective", model["objective"])]
    if model.get("parameters"):
        trained, total = model["trained_parameters"], model["parameters"]
        facts.append(
            (
                "Trained parameters",
                f"{show.number(trained)} of {show.number(total)} ({100 * trained / total:.2g}%)",
            )
        )
    facts.append(("Ran on", f"{model['device']}, {model['dtype']}"))
    rows = [
        f"{show.number(counts[k])} {k}" for k in ("train", "validation", "test") if counts.get(k) is not None
    ]
    facts.append(("Rows", ", ".join(rows)))
    facts.append(("Rows rejected", show.number(counts.get("rejected"))))
    tokens = show.number(counts.get("tokens_trained"))
    facts.append(
        (
            "Steps",
            f"{show.number(counts.get('steps'))}, {tokens} tokens read",
        )
    )
    return facts


def receipt_blocks(receipt: Mapping[str, Any], title: str = "Summary") -> list[View]:
    """Any nested mapping as facts and tables: scalars are facts, alike rows are a table, the rest nests."""
    facts = [(show.words_of(k), cell(v)) for k, v in receipt.items() if not isinstance(v, (Mapping, list))]
    blocks: list[View] = [{"title": title, "facts": facts}] if facts else []
    for key, value in receipt.items():
        name = show.words_of(key)
        if isinstance(value, list):
            alike = value and all(isinstance(v, Mapping) for v in value)
            lines = [cell(v) for v in value]
            blocks.append(_table(name, value) if alike else {"title": name, "lines": lines})
        elif isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values()):
            blocks.append(_table(name, [{"name": k, **v} for k, v in value.items()]))
        elif isinstance(value, Mapping):
            blocks.append({"title": name, "facts": [(show.words_of(k), cell(v)) for k, v in value.items()]})
    return blocks


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> View:
    columns = list(dict.fromkeys(k for row in rows for k in row))
    numeric = [all(isinstance(r.get(c), (int, float)) for r in rows) for c in columns]
    cells = [[cell(row.get(c)) for c in columns] for row in rows]
    return {"title": title, "columns": [show.words_of(c) for c in columns], "numeric": numeric, "rows": cells}


def cell(value: Any) -> str:
    """One value as text: words for booleans and nothing, separators in counts, commas in lists."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return show.number(value)
    if isinstance(value, float):
        return show.number(value) if value.is_integer() else f"{value:.6g}".replace("-", "−")
    if isinstance(value, str):
        return value
    if not value:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {cell(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(v) for v in value)
    return str(value)
