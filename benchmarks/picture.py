"""Lines of a benchmark as a picture that stands by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunewright.evaluate.charts import Mark, Series, line_chart

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .grid, .axis-line { stroke: #ddd }
polyline, path { fill: none; stroke: #36c; stroke-width: 1.5 }
polyline.strong, path.strong { stroke: #c60 }
line { stroke: #ddd }
"""


def save(
    path: Path, series: Sequence[Series], x_label: str, y_label: str, marks: Sequence[Mark] = ()
) -> None:
    """Write an SVG file and say where it is."""
    chart = str(line_chart(series, marks, x_label, y_label))
    head, _, rest = chart.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    path.write_text(f"{head}><style>{STYLE}</style>{rest}\n", encoding="utf-8")
    print(f"drawn in {path}")
