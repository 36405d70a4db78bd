"""Take a picture of a report with headless Chromium.

    python tools/screenshot.py runs/tickets/report.html docs/images/report.png
    python tools/screenshot.py report.html phone.png --width 390 --dark

A ``.json`` file with the fields of ``ReportData`` is rendered first, for example
tests/unit/evaluate/report_sample.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tunewright.evaluate.report import ReportData, render_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def find_browser() -> str:
    """The first Chromium on the path; ends the program with advice if there is none."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    return found or sys.exit(
        "no Chromium found: install one (apt-get install chromium) or open the report by hand"
    )


def html_of(source: Path, folder: Path) -> Path:
    """The report itself, or the page rendered from its data into ``folder``."""
    if source.suffix != ".json":
        return source.resolve()
    page = folder / "report.html"
    page.write_text(render_report(ReportData(**json.loads(source.read_text("utf-8")))), "utf-8")
    return page


def take(source: Path, picture: Path, size: tuple[int, int], dark: bool) -> None:
    """Write a PNG of the top ``size`` pixels (width, height) of the page."""
    with tempfile.TemporaryDirectory() as folder:
        page = html_of(source, Path(folder))
        scheme = "--blink-settings=preferredColorScheme=" + ("0" if dark else "1")
        window = f"--window-size={size[0]},{size[1]}"
        target = f"--screenshot={picture.resolve()}"
        command = [
            find_browser(),
            *QUIET,
            f"--user-data-dir={folder}/profile",
            scheme,
            window,
            target,
            page.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="report.html, or the report's data as .json")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--width", type=int, default=1240)
    parser.add_argument("--height", type=int, default=1240)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    take(options.source, options.picture, (options.width, options.height), options.dark)
    print(f"{options.picture}: {options.picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
