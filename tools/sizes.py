"""Print what has grown large in the source: files, classes, functions, parameters, repeated blocks.

Judgement decides what to do about it, so the exit status is always 0.

    python tools/sizes.py [DIRECTORY]
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FILE_LINES = 250
CLASS_LINES = 150
FUNCTION_LINES, LONG_FUNCTION_LINES = 25, 60
PARAMETERS = 5
BLOCK = 6  # lines that stand twice
DEFAULT = Path(__file__).resolve().parents[1] / "src" / "tunewright"


class Outlier(NamedTuple):
    """One thing that is larger than its aim."""

    what: str
    size: int
    where: str


def main(root: Path) -> None:
    """Print the outliers of ``root`` and the lines of each of its packages."""
    sources = {p: p.read_text(encoding="utf-8") for p in sorted(root.rglob("*.py"))}
    found = [o for path, text in sources.items() for o in outliers(path.relative_to(root), text)]
    for what in ("file", "class", "function", "parameters"):
        group = sorted((o for o in found if o.what == what), key=lambda o: -o.size)
        print(f"{TITLES[what]}: {len(group)}")
        for outlier in group:
            print(f"  {outlier.size:>5}  {outlier.where}")
    long = sum(o.what == "function" and o.size > LONG_FUNCTION_LINES for o in found)
    print(f"functions over {LONG_FUNCTION_LINES} lines: {long}")
    share, total = duplicated_share(sources.values())
    print(f"lines in blocks of {BLOCK} that stand more than once: {share:.1%} of {total}")
    print("lines: " + ", ".join(f"{name} {count}" for name, count in lines_by_package(sources, root).items()))


TITLES = {
    "file": f"files over {FILE_LINES} lines",
    "class": f"classes over {CLASS_LINES} lines",
    "function": f"functions over {FUNCTION_LINES} lines",
    "parameters": f"functions with more than {PARAMETERS} parameters",
}


def outliers(path: Path, text: str) -> Iterator[Outlier]:
    """What in one file is over its aim; a function's lines are those of its body, its docstring left out."""
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield Outlier("file", lines, str(path))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            size, aim, what = _length(node), CLASS_LINES, "class"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size, aim, what = body_lines(node), FUNCTION_LINES, "function"
            count = parameters(node)
            if count > PARAMETERS:
                yield Outlier("parameters", count, f"{path}:{node.lineno} {node.name}")
        else:
            continue
        if size > aim:
            yield Outlier(what, size, f"{path}:{node.lineno} {node.name}")


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code in a function, without its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller passes: all but ``self`` and ``cls``."""
    args = node.args
    named = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    extra = (args.vararg is not None) + (args.kwarg is not None)
    return len([name for name in named if name not in {"self", "cls"}]) + extra


def duplicated_share(texts: Iterable[str]) -> tuple[float, int]:
    """Share of the lines of code in blocks of ``BLOCK`` lines that stand in two places, and their number.

    White space is folded; blank lines, comments, imports and lone brackets do not count.
    """
    files = [_code_lines(text) for text in texts]
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, lines in enumerate(files):
        for start in range(len(lines) - BLOCK + 1):
            places[tuple(lines[start : start + BLOCK])].append((number, start))
    repeated = {
        (number, start + i)
        for found in places.values()
        if len(found) > 1
        for number, start in found
        for i in range(BLOCK)
    }
    total = sum(map(len, files))
    return len(repeated) / max(1, total), total


def lines_by_package(sources: dict[Path, str], root: Path) -> dict[str, int]:
    """Lines of each package below ``root``, and of all."""
    counts: Counter[str] = Counter()
    for path, text in sources.items():
        parts = path.relative_to(root).parts
        counts[parts[0] if len(parts) > 1 else "top"] += len(text.splitlines())
    return {**dict(sorted(counts.items())), "all": sum(counts.values())}


def _code_lines(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    skipped = ("#", "import ", "from ")
    return [line for line in lines if any(c.isalnum() for c in line) and not line.startswith(skipped)]


def _length(node: ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
