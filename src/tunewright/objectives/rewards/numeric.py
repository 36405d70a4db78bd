"""The reward for questions with a number for an answer, in the form of GSM8K.

GSM8K (Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems") ends each solution with
``#### N``, and compares N without commas. Here N is compared as an exact fraction, so 0.5, .50 and 1/2 agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from tunewright.core.errors import DataError
from tunewright.objectives.rewards.spec import Each, Reward, RewardSpec, column

LONGEST = (
    200  # characters of a number, and size of an exponent: longer ones would cost time and are no answer
)

_SIGN = r"(?:(?<![\w)\]}%])[-+−])?"  # in "7-5" the dash is an operation
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = (
    rf"(?P<sign>{_SIGN})(?:\\?[$€£])?(?P<late_sign>{_SIGN})(?=\.?[0-9])"
    rf"(?P<top>{_DIGITS}?(?:\.[0-9]+)?)(?P<power>(?:[eE][-+]?[0-9]+)?)(?:/(?P<bottom>{_DIGITS}))?"
)
_ANY = re.compile(_NUMBER)
_ONLY = re.compile(rf"{_NUMBER} ?%?")
_MARKED = re.compile(rf"####[ \t*]*{_NUMBER}")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")


def numeric(
    prompt: str, answer: str, example: Mapping[str, Any], field: str = "answer", strict: bool = False
) -> float:
    """1 if the answer's number equals the reference's, else 0.

    The answer's number is the last ``#### N``; without one, and unless ``strict``, the last ``\\boxed{N}``,
    else the last number. Thousands commas and the signs $, €, £, % are left out of the comparison, so 50% is
    50. A decimal comma is not understood. The reference is ``#### N``, a plain number as text, or a number.
    """
    wanted = reference_number(column(example, field), field)
    return float(answer_number(answer, strict) == wanted)


def answer_number(answer: str, strict: bool = False) -> Fraction | None:
    """The number an answer ends with, or ``None`` if it has none that can be read."""
    marked = _last(_MARKED, answer)
    if marked is not None or strict:
        return _value(marked)
    boxed = _boxed(answer)
    return _value(_last(_ANY, answer if boxed is None else boxed))


def reference_number(reference: Any, field: str) -> Fraction:
    """The reference as a fraction; raises ``DataError`` if it is no number."""
    found = None
    if isinstance(reference, str):
        found = _value(_last(_MARKED, reference) or _ONLY.fullmatch((_boxed(reference) or reference).strip()))
    elif isinstance(reference, int | float) and not isinstance(reference, bool):
        found = _value(_ONLY.fullmatch(str(reference)))
    if found is None:
        raise DataError(
            f"column {field!r} holds no number to compare with: {str(reference)[-60:]!r}; "
            "it must be `#### N` at the end of a solution, or a plain number"
        )
    return found


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text):  # noqa: B007
        pass
    return last


def _value(match: re.Match[str] | None) -> Fraction | None:
    """The exact value of a match of ``_NUMBER``; ``None`` if it is too long or has none."""
    if match is None:
        return None
    top, power, bottom = match["top"], match["power"], match["bottom"] or "1"
    if len(top) + len(bottom) > LONGEST or len(power) > 5 or abs(int(power[1:] or 0)) > LONGEST:
        return None
    below = int(bottom.replace(",", ""))
    if below == 0:
        return None
    negative = (match["sign"] in "-−") if match["sign"] else match["late_sign"] in ("-", "−")
    value = Fraction(top.replace(",", "") + power) / below
    return -value if negative else value


def _boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{…}``, with LaTeX fractions and thousands commas written plainly."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    inside, depth = start + len("\\boxed{"), 1
    for end in range(inside, min(len(text), inside + LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            plain = text[inside:end].replace("{,}", ",").replace("\\,", "").replace("\\!", "")
            return _FRACTION.sub(r"\1/\2", plain).replace("\\%", "%")
    return None


class Numeric(RewardSpec):
    """1 if the number that the answer ends with is the reference's."""

    field: str = Field(default="answer", description="Column of the row that holds the reference.")
    strict: bool = Field(default=False, description="Whether the answer must have the form `#### N`.")

    def make(self, folder: Path) -> Reward:
        return Each(partial(numeric, field=self.field, strict=self.strict))
