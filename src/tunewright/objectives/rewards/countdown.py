"""The countdown game: reach ``target`` by an expression that uses each of ``nums`` exactly once.

An answer is the expression and nothing else, but for white space around it and ``= N`` behind it. Allowed are
+ - * / between numbers and brackets; × · ÷ − are read as * * / -. A sign in front of a bracket or of a number
that is not itself negative in ``nums`` is not allowed. Division is exact.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from tunewright.core.errors import DataError
from tunewright.objectives.rewards.spec import Each, Reward, RewardSpec, column

LONGEST = 1000  # characters of an answer

_PLAIN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})
_EXPRESSION = r"(?:[0-9()+\-*/ \t]|(?<=[0-9])\.(?=[0-9]))+?"
_ANSWER = re.compile(rf"\s*({_EXPRESSION})\s*(?:=\s*(-?[0-9]+(?:\.[0-9]+)?)\s*)?")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def countdown(prompt: str, answer: str, example: Mapping[str, Any]) -> float:
    """1 if the answer uses ``example["nums"]`` once each and equals ``example["target"]``, else 0.

    An ``= N`` behind the expression must be true as well: N is the target.
    """
    target = _number(column(example, "target"), "target")
    expression, claim = _read(answer, _numbers(example))
    if expression is None or (claim is not None and claim != target):
        return 0.0
    try:
        return float(_evaluate(expression) == target)
    except ZeroDivisionError:
        return 0.0


def countdown_format(prompt: str, answer: str, example: Mapping[str, Any]) -> float:
    """1 if the answer is an expression of exactly ``example["nums"]``, whatever its value, else 0."""
    return float(_read(answer, _numbers(example))[0] is not None)


def _read(answer: str, nums: Counter[Fraction]) -> tuple[ast.expr | None, Fraction | None]:
    """The expression of exactly ``nums`` that the answer is, else ``None``; and the N of its ``= N``."""
    match = _ANSWER.fullmatch(answer.translate(_PLAIN)) if len(answer) <= LONGEST else None
    if match is None:
        return None, None
    try:
        expression = ast.parse(match[1].strip(), mode="eval").body
    except (
        SyntaxError,
        RecursionError,
        MemoryError,
    ):  # which of them deep nesting gives, Python's version says
        return None, None
    claim = Fraction(match[2]) if match[2] else None
    leaves = _leaves(expression)
    return (expression if leaves is not None and Counter(leaves) == nums else None), claim


def _leaves(expression: ast.expr) -> list[Fraction] | None:
    """The numbers of an expression; ``None`` if it holds anything but the four operations. No recursion."""
    open_nodes, leaves = [expression], []
    while open_nodes:
        node = open_nodes.pop()
        leaf = _leaf(node)
        if leaf is not None:
            leaves.append(leaf)
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            open_nodes += [node.left, node.right]
        else:
            return None
    return leaves


def _leaf(node: ast.expr) -> Fraction | None:
    """A number, or a number with a minus sign of its own."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _leaf(node.operand) if isinstance(node.operand, ast.Constant) else None
        return None if value is None else -value
    if not isinstance(node, ast.Constant) or not isinstance(node.value, int | float):
        return None
    text = repr(node.value)
    return Fraction(text) if text != "inf" else None


def _evaluate(node: ast.expr) -> Fraction:
    """The exact value; as deep as there are numbers. Raises ``ZeroDivisionError``."""
    leaf = _leaf(node)
    if leaf is not None:
        return leaf
    assert isinstance(node, ast.BinOp), "_leaves lets nothing else pass"
    return _OPERATIONS[type(node.op)](_evaluate(node.left), _evaluate(node.right))


def _numbers(example: Mapping[str, Any]) -> Counter[Fraction]:
    nums = column(example, "nums")
    if not isinstance(nums, list | tuple) or not nums:
        raise DataError(f"column 'nums' must be a list of numbers (got {str(nums)[:60]!r})")
    return Counter(_number(value, "nums") for value in nums)


def _number(value: Any, field: str) -> Fraction:
    """A JSON number as the decimal it is written as."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return Fraction(repr(value))
        except ValueError:  # nan, infinity
            pass
    raise DataError(f"column {field!r}: {str(value)[:60]!r} is not a number")


class Countdown(RewardSpec):
    """1 if the answer reaches the target."""

    def make(self, folder: Path) -> Reward:
        return Each(countdown)


class CountdownFormat(RewardSpec):
    """1 if the answer is an expression of exactly the given numbers."""

    def make(self, folder: Path) -> Reward:
        return Each(countdown_format)
