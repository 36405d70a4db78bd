"""Charts: geometry (everything inside, monotone, right ticks), and lists of 0, 1, 2 and 10,000 points."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.evaluate.charts import (
    Bar,
    Interval,
    Mark,
    Scale,
    Series,
    bar_chart,
    downsample,
    interval_chart,
    interval_mark,
    line_chart,
    nice_step,
    nice_ticks,
    tick_text,
)


def path_points(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'class="line" d="([^"]+)"', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", found[1])]


def attributes(svg: str, element: str, style: str) -> list[dict[str, float]]:
    """Numeric attributes of every ``element`` whose class is ``style``."""
    tags = re.findall(rf'<{element} class="{style}"([^>]*)>', svg)
    return [{k: float(v) for k, v in re.findall(r'([a-z0-9]+)="(-?[\d.]+)"', tag)} for tag in tags]


def loss_chart(points, marks=(), size=(840, 320)) -> str:
    return str(line_chart([Series("training", points)], marks, "step", "Loss", size))


@pytest.mark.parametrize(
    "low, high, target, expected",
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 2.87, 5, [0.0, 1.0, 2.0, 3.0]),
        (-12.0, 33.3, 5, [-20.0, -10.0, 0.0, 10.0, 20.0, 30.0, 40.0]),
        (2.5e-5, 2e-4, 4, [0.0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
        (7.0, 7.0, 2, [6.0, 7.0, 8.0]),
        (0.0, 0.0, 2, [-1.0, 0.0, 1.0]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, target, expected):
    assert nice_ticks(low, high, target) == pytest.approx(expected, abs=1e-12)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_cover_any_range_with_steps_of_1_2_or_5(low, span, target):
    high = low + span
    if high - low < 1e-9 * max(abs(low), 1.0):
        return
    ticks = nice_ticks(low, high, target)
    step = nice_step(high - low, target)
    assert ticks[0] <= low + step * 1e-6
    assert ticks[-1] >= high - step * 1e-6
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)
    assert 2 <= len(ticks) <= target + 3


def test_tick_labels_have_the_digits_their_step_needs():
    assert [tick_text(t, 0.2) for t in (0.0, 0.2, 1.0)] == ["0", "0.2", "1.0"]
    assert tick_text(12000, 2000) == "12,000"
    assert tick_text(-20, 10) == "−20"
    assert [tick_text(t, 5e-5) for t in (0.0, 5e-5, 1.5e-4)] == ["0", "5e−5", "1.5e−4"]


def test_scale_maps_ends_to_ends():
    y = Scale(0.0, 3.0, 276.0, 34.0)
    assert (y(0), y(3), y(1.5)) == (276.0, 34.0, 155.0)


def test_line_lies_where_the_numbers_say():
    svg = loss_chart([(0, 3.0), (50, 1.0), (100, 0.0)])
    points = path_points(svg)
    # y ticks are 0 to 3; the plot reaches from 34 to 320 - 44.
    assert [y for _, y in points] == pytest.approx([34.0, 276.0 - 242.0 / 3, 276.0], abs=0.06)
    left, middle, right = (x for x, _ in points)
    assert middle == pytest.approx((left + right) / 2, abs=0.06)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_points_stay_inside_and_order_is_kept(values):
    svg = loss_chart([(float(i), v) for i, v in enumerate(values)])
    points = path_points(svg)
    assert all(0 <= x <= 840 and 0 <= y <= 320 for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    for (_, y0), (_, y1), v0, v1 in zip(points, points[1:], values, values[1:], strict=False):
        assert v0 <= v1 or y0 <= y1 + 1e-9, "a lower value must not be drawn higher"
        assert v0 >= v1 or y0 >= y1 - 1e-9, "a higher value must not be drawn lower"


def test_nothing_to_draw_is_an_empty_string():
    assert line_chart([], (), "step", "Loss") == ""
    assert line_chart([Series("training", [])], [Mark(3, "kept")], "step", "Loss") == ""
    assert interval_chart([]) == ""
    assert bar_chart([], "Seconds") == ""


def test_one_point_is_a_dot_in_the_middle():
    svg = loss_chart([(5, 2.0)])
    (dot,) = attributes(svg, "circle", "dot")
    left, right = 14 + 7 * 3, 840 - 14 - 7 * len("training")
    assert dot["cx"] == pytest.approx((left + right) / 2, abs=0.1)
    assert 34 < dot["cy"] < 276


def test_two_equal_points_are_drawn():
    assert len(path_points(loss_chart([(1, 2.0), (2, 2.0)]))) == 2


def test_ten_thousand_points_keep_ends_and_spikes():
    points = [(float(i), math.sin(i / 500)) for i in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[8765] = (8765.0, -7.0)
    kept = downsample(points)
    assert len(kept) <= 600
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert (4321.0, 9.0) in kept and (8765.0, -7.0) in kept
    assert kept == sorted(kept)
    assert len(loss_chart(points)) < 20_000


def test_short_series_are_not_thinned():
    points = [(float(i), 1.0) for i in range(600)]
    assert downsample(points) == points


def test_chosen_step_and_overfitting_zone_are_at_their_steps():
    validation = [(0, 2.0), (50, 1.0), (100, 1.5)]
    marks = [Mark(50, "overfitting", until=100), Mark(50, "kept: step 50")]
    svg = str(line_chart([Series("validation", validation, "strong")], marks, "step", "Loss"))
    (zone,), (line,) = attributes(svg, "rect", "zone"), attributes(svg, "line", "chosen")
    (ring,) = attributes(svg, "circle", "chosen")
    x0, x1, x2 = (x for x, _ in path_points(svg))
    assert line["x1"] == line["x2"] == zone["x"] == ring["cx"] == x1
    assert zone["x"] + zone["width"] == pytest.approx(x2, abs=0.11)
    assert ring["cy"] == path_points(svg)[1][1]
    assert x0 < x1
    assert ">kept: step 50<" in svg and ">overfitting<" in svg


def test_mark_outside_the_range_is_not_drawn():
    svg = loss_chart([(10, 1.0), (20, 2.0)], [Mark(99, "kept"), Mark(30, "zone", until=40)])
    assert ">kept<" not in svg and not attributes(svg, "line", "chosen")
    assert ">zone<" not in svg and not attributes(svg, "rect", "zone")


def test_labels_of_lines_that_end_together_do_not_overlap():
    series = [Series(name, [(0, 1.0), (1, 0.0)]) for name in ("a", "b", "c")]
    svg = str(line_chart(series, (), "step", "Loss"))
    ys = [float(y) for y in re.findall(r'<text class="name plain" x="[\d.]+" y="([\d.]+)"', svg)]
    assert len(ys) == 3
    assert all(b - a >= 14.9 for a, b in pairwise(ys))
    assert max(ys) <= 320 - 44 + 5


@pytest.mark.parametrize("width", [310, 440])
def test_intervals_stand_right_of_zero_if_they_are_above_it(width):
    rows = [
        Interval("clear", 20.0, 6.7, 33.3, "+20.0", "good"),
        Interval("open", 1.0, -9.0, 11.0, "+1.0", "open"),
        Interval("worse", -12.0, -22.0, -3.0, "−12.0", "bad"),
    ]
    svg = str(interval_chart(rows, width=width))
    zero = attributes(svg, "line", "zero")[0]["x1"]
    (good,), (undecided,), (bad,) = (
        attributes(svg, "line", f"whisker {t}")[:1] for t in ("good", "open", "bad")
    )
    assert zero < good["x1"] < good["x2"] <= width
    assert undecided["x1"] < zero < undecided["x2"]
    assert 0 <= bad["x1"] < bad["x2"] < zero
    dot = attributes(svg, "circle", "dot good")[0]["cx"]
    # Ticks run from −40 to 40 in steps of 20, over 16 … width − 16.
    assert dot == pytest.approx(16 + (20 + 40) / 80 * (width - 32), abs=0.06)
    assert "← worse" in svg and "better →" in svg


def test_zero_is_never_at_the_edge_of_an_interval_chart():
    svg = str(interval_chart([Interval("a", 0.5, 0.4, 0.6, "", "good")], width=440))
    assert attributes(svg, "line", "zero")[0]["x1"] > 17


def test_bars_are_proportional():
    svg = str(
        bar_chart(
            [Bar("train", 200.0, "3 min 20 s"), Bar("score", 50.0, "50 s"), Bar("none", 0.0, "0.0 s")], "Time"
        )
    )
    widths = [b["width"] for b in attributes(svg, "rect", "bar")]
    assert widths == [840.0, 210.0, 2.0]
    assert 'aria-label="Time. train: 3 min 20 s, score: 50 s, none: 0.0 s."' in svg


def test_mark_in_a_cell_uses_the_shared_scale():
    svg = str(interval_mark(50.0, 25.0, 75.0, (0.0, 100.0), "tuned"))
    assert attributes(svg, "circle", "dot tuned")[0]["cx"] == 70.0
    assert attributes(svg, "line", "whisker tuned") == [{"x1": 38.0, "y1": 10.0, "x2": 102.0, "y2": 10.0}]


def test_charts_tell_their_content_to_a_screen_reader_and_escape_names():
    svg = loss_chart([(1, 2.5), (9, 0.5)], [Mark(9, 'kept "<b>"')])
    assert 'role="img"' in svg
    assert "training: from 2.5 at 1 to 0.5 at 9." in svg
    assert "<b>" not in svg and "kept &#34;&lt;b&gt;" in svg
    assert "⟦U+202E⟧" in line_chart([Series("a\u202eb", [(0, 1)])], (), "x", "y")


def test_a_label_that_would_run_into_its_value_is_cut():
    svg = str(interval_chart([Interval("m" * 90, 1.0, 0.5, 1.5, "+1.0 (+0.5 to +1.5)", "good")], width=440))
    assert "m" * 34 + "…" in svg
    assert f">{'m' * 40}" not in svg
