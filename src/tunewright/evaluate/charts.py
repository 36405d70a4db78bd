"""Charts as inline SVG: pure functions from numbers to text, no library, no script.

Colours come from CSS classes, so the page decides them for light, dark and print. One unit of the view box
is one CSS pixel at full width. Nothing to draw gives an empty string: the page says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from tunewright.evaluate.show import number, visible

Point = tuple[float, float]

_DRAWN_POINTS = 600
_LABEL_GAP = 15.0
_ONE_LINE = 400  # narrower interval charts put the value under the label


class Series(NamedTuple):
    """One line. ``style`` is its CSS class: ``plain`` (thin), ``strong`` (thick with a dot per point)."""

    name: str
    points: Sequence[Point]
    style: str = "plain"


class Mark(NamedTuple):
    """A labelled vertical line at ``x``, or a shaded zone from ``x`` to ``until``."""

    x: float
    label: str
    until: float | None = None


class Interval(NamedTuple):
    """One row of an interval chart. ``tone``: ``good``, ``bad``, ``open``; ``text`` is the value in words."""

    label: str
    value: float
    low: float
    high: float
    text: str = ""
    tone: str = "open"


class Bar(NamedTuple):
    """One row of a bar chart; ``text`` is the value as the reader should see it."""

    label: str
    value: float
    text: str


class Scale(NamedTuple):
    """A linear map from ``[low, high]`` in data to ``[start, end]`` in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def nice_step(span: float, target: int) -> float:
    """The step of 1, 2 or 5 times a power of ten that cuts ``span`` into about ``target`` parts."""
    raw = span / target
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def nice_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Round values that cover ``[low, high]``: the first at most ``low``, the last at least ``high``."""
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    step = nice_step(high - low, target)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick's label with the digits that ``step`` needs."""
    if value == 0:
        return "0"
    if step < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return number(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def downsample(points: Sequence[Point], limit: int = _DRAWN_POINTS) -> list[Point]:
    """At most ``limit`` points that keep both ends and every bucket's lowest and highest value, in order."""
    if len(points) <= limit:
        return list(points)
    inner = points[1:-1]
    buckets = max(1, (limit - 2) // 2)
    kept = [points[0]]
    for i in range(buckets):
        part = inner[i * len(inner) // buckets : (i + 1) * len(inner) // buckets]
        ends = {
            min(range(len(part)), key=lambda k: part[k][1]),
            max(range(len(part)), key=lambda k: part[k][1]),
        }
        kept += [part[k] for k in sorted(ends)]
    return [*kept, points[-1]]


def line_chart(
    series: Sequence[Series],
    marks: Sequence[Mark],
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (840, 320),
) -> Markup:
    """Lines over steps, labelled at their right ends, with marks. ``size`` is width and height in pixels."""
    series = [s for s in series if s.points]
    if not series:
        return Markup()
    width, height = size
    xs = [x for s in series for x, _ in s.points]
    y_ticks = nice_ticks(*_range([y for s in series for _, y in s.points]), target=5 if height > 240 else 4)
    y_step = y_ticks[1] - y_ticks[0]
    left = 14 + 7 * max(len(tick_text(t, y_step)) for t in y_ticks)
    right = 14 + 7 * min(20, max(len(s.name) for s in series))
    x = Scale(*_apart(min(xs), max(xs)), left, width - right)
    y = Scale(y_ticks[0], y_ticks[-1], height - 44, 34)
    body = [
        *_zones(marks, x, y),
        *_y_axis(y_ticks, y_step, x, y),
        *_x_axis(x, height - 44, whole=all(float(v).is_integer() for v in xs)),
        _text(0, 14, y_label, "axis"),
        _text(x.end, height - 6, x_label, "axis", "end"),
        *(_line(s, x, y) for s in series),
        *_lines_at(marks, series, x, y),
        *_end_labels(series, x, y),
    ]
    return _svg(size, _line_summary(series, marks, x_label, y_label), body)


def interval_chart(
    rows: Sequence[Interval], axis: tuple[str, str] = ("worse", "better"), width: int = 440
) -> Markup:
    """Differences with their intervals against a zero line; ``axis`` names its left and right side."""
    if not rows:
        return Markup()
    low, high = min(0.0, *(r.low for r in rows)), max(0.0, *(r.high for r in rows))
    air = (high - low or 1.0) * 0.06  # both sides of zero exist, even if nothing reaches one of them
    ticks = nice_ticks(low - air, high + air, target=5)
    step = ticks[1] - ticks[0]
    row_height = _row_height(width)
    bottom = 10 + row_height * len(rows)
    x = Scale(ticks[0], ticks[-1], 16, width - 16)
    body: list[str] = []
    for i, row in enumerate(rows):
        body += _interval_row(row, x, row_height * i, width)
    for tick in ticks:
        body.append(_segment((x(tick), bottom), (x(tick), bottom + 4), "tick"))
        body.append(_text(x(tick), bottom + 18, tick_text(tick, step), "number", "middle"))
    body.append(_segment((x.start, bottom), (x.end, bottom), "tick"))
    body.append(_text(x.start, bottom + 38, f"← {axis[0]}", "axis"))
    body.append(_text(x.end, bottom + 38, f"{axis[1]} →", "axis", "end"))
    summary = "Differences with intervals. " + " ".join(f"{r.label}: {r.text}." for r in rows)
    return _svg((width, bottom + 46), summary, body)


def bar_chart(rows: Sequence[Bar], title: str, width: int = 840) -> Markup:
    """Horizontal bars from zero, one under the other, each with its label and value."""
    if not rows:
        return Markup()
    largest = max(r.value for r in rows)
    x = Scale(0.0, largest if largest > 0 else 1.0, 0, width)
    body: list[str] = []
    for i, row in enumerate(rows):
        top = 44 * i
        body.append(_text(0, top + 15, _fit(row.label, width - 110), "name"))
        body.append(_text(width, top + 15, row.text, "number", "end"))
        body.append(f'<rect class="track" x="0" y="{top + 23}" width="{width}" height="8" rx="4"/>')
        body.append(
            f'<rect class="bar" x="0" y="{top + 23}" width="{max(2.0, x(row.value)):.1f}" height="8" rx="4"/>'
        )
    summary = f"{title}. " + ", ".join(f"{r.label}: {r.text}" for r in rows) + "."
    return _svg((width, 44 * len(rows)), summary, body)


def interval_mark(value: float, low: float, high: float, span: tuple[float, float], style: str) -> Markup:
    """A dot and whisker for a table cell, on the scale ``span`` that all rows of the table share."""
    x = Scale(*_apart(*span), 6, 134)
    body = [
        _segment((6, 10), (134, 10), "track"),
        _segment((x(low), 10), (x(high), 10), f"whisker {style}"),
        f'<circle class="dot {style}" cx="{x(value):.1f}" cy="10" r="4"/>',
    ]
    return Markup(
        '<svg class="mark" viewBox="0 0 140 20" width="140" height="20" aria-hidden="true">'
        f"{''.join(body)}</svg>"
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _apart(low: float, high: float) -> tuple[float, float]:
    """A domain of non-zero width around one value."""
    return (low, high) if low < high else (low - 1.0, high + 1.0)


def _y_axis(ticks: Sequence[float], step: float, x: Scale, y: Scale) -> list[str]:
    parts: list[str] = []
    for tick in ticks:
        parts.append(_segment((x.start, y(tick)), (x.end, y(tick)), "grid"))
        parts.append(_text(x.start - 8, y(tick) + 4, tick_text(tick, step), "number", "end"))
    return parts


def _x_axis(x: Scale, bottom: float, *, whole: bool) -> list[str]:
    target = max(3, round((x.end - x.start) / 90))
    step = nice_step(x.high - x.low, target)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(x.low / step - 1e-9), math.floor(x.high / step + 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    return [_text(x(t), bottom + 20, tick_text(t, step), "number", "middle") for t in ticks]


def _line(series: Series, x: Scale, y: Scale) -> str:
    drawn = [(x(a), y(b)) for a, b in downsample(series.points)]
    path = " ".join(f"{'M' if i == 0 else 'L'}{a:.1f} {b:.1f}" for i, (a, b) in enumerate(drawn))
    dotted = len(drawn) == 1 or (series.style == "strong" and len(drawn) <= 60)
    dots = [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in drawn] if dotted else []
    return f'<g class="series {escape(series.style)}"><path class="line" d="{path}"/>{"".join(dots)}</g>'


def _zones(marks: Sequence[Mark], x: Scale, y: Scale) -> list[str]:
    parts: list[str] = []
    for mark in marks:
        if mark.until is None or max(mark.x, x.low) >= min(mark.until, x.high):
            continue
        start, end = x(max(mark.x, x.low)), x(min(mark.until, x.high))
        parts.append(
            f'<rect class="zone" x="{start:.1f}" y="{y.end:.1f}" width="{end - start:.1f}" '
            f'height="{y.start - y.end:.1f}"/>'
        )
        parts.append(_text(end - 8, y.end + 18, mark.label, "zone-name", "end"))
    return parts


def _lines_at(marks: Sequence[Mark], series: Sequence[Series], x: Scale, y: Scale) -> list[str]:
    parts: list[str] = []
    for mark in marks:
        if mark.until is not None or not x.low <= mark.x <= x.high:
            continue
        at = x(mark.x)
        # The label keeps clear of both edges of the plot.
        anchor = "start" if at - x.start < 70 else "end" if x.end - at < 70 else "middle"
        parts.append(_segment((at, y.end - 4), (at, y.start), "chosen"))
        parts.append(_text(at, y.end - 10, mark.label, "chosen-name", anchor))
        for s in series:
            here = [b for a, b in s.points if a == mark.x] if s.style == "strong" else []
            parts += [f'<circle class="chosen" cx="{at:.1f}" cy="{y(b):.1f}" r="6"/>' for b in here[:1]]
    return parts


def _end_labels(series: Sequence[Series], x: Scale, y: Scale) -> list[str]:
    """Names at the right end of the lines, pushed apart where lines end close together."""
    placed: list[tuple[float, Series]] = []
    for at, s in sorted(((y(s.points[-1][1]), s) for s in series), key=lambda pair: pair[0]):
        placed.append((max(at, placed[-1][0] + _LABEL_GAP) if placed else at, s))
    overflow = max(0.0, placed[-1][0] - y.start)
    return [
        _text(x.end + 10, at - overflow + 4, _fit(s.name, 140), f"name {s.style}")
        for at, s in placed
        if s.name
    ]


def _line_summary(series: Sequence[Series], marks: Sequence[Mark], x_label: str, y_label: str) -> str:
    parts = [f"{y_label} by {x_label}."]
    for s in series:
        (x0, y0), (x1, y1) = s.points[0], s.points[-1]
        parts.append(f"{s.name or y_label}: from {y0:.4g} at {x0:g} to {y1:.4g} at {x1:g}.")
    parts += [
        f"{m.label}: {m.x:g}." if m.until is None else f"{m.label}: {m.x:g} to {m.until:g}." for m in marks
    ]
    return " ".join(parts)


def _row_height(width: int) -> int:
    return 72 if width < _ONE_LINE else 52


def _interval_row(row: Interval, x: Scale, top: float, width: int) -> list[str]:
    tone, line = escape(row.tone), top + _row_height(width) - 22
    if width < _ONE_LINE:
        names = [
            _text(16, top + 13, _fit(row.label, width - 32), "name"),
            _text(16, top + 31, row.text, "number"),
        ]
    else:
        label = _text(16, top + 13, _fit(row.label, width - 190), "name")
        names = [label, _text(width - 16, top + 13, row.text, "number", "end")]
    return [
        *names,
        _segment((x(0), line - 10), (x(0), line + 10), "zero"),
        _segment((x(row.low), line), (x(row.high), line), f"whisker {tone}"),
        *(_segment((x(end), line - 5), (x(end), line + 5), f"whisker {tone}") for end in (row.low, row.high)),
        f'<circle class="dot {tone}" cx="{x(row.value):.1f}" cy="{line:.1f}" r="6"/>',
    ]


def _fit(text: str, pixels: float) -> str:
    """Cut a label that would run into its neighbour; a character is about 7 pixels wide."""
    room = max(4, int(pixels / 7))
    return text if len(text) <= room else text[: room - 1] + "…"


def _segment(start: Point, end: Point, style: str) -> str:
    return (
        f'<line class="{style}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
    )


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(visible(text))}</text>'
    )


def _svg(size: tuple[int, int], summary: str, body: Sequence[str]) -> Markup:
    width, height = size
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(visible(summary))}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(body)}</svg>'
    )
