"""What a chat template asks of a message's content, found by letting it read a string that takes notes.

A template is a program. Its text is the same for all contents, but for the contents themselves, if it only
ever puts them somewhere, or asks what can be answered for a whole class of contents: "is it empty", "does it
hold ``</think>``", "without the white space around it". ``WatchedTemplate`` runs a template on strings that
answer such questions for the class in ``Needs`` and write down what the class must promise. They raise
``Looked`` for any other question, such as a length or a slice.

What reads characters behind the back of such a string is left out of the environment or refused: filters, the
methods of other strings, ``in`` for other strings, ``~``. So is the time of day; a date is a promise too.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Never

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

FILTERS = frozenset(
    (
        *("capitalize", "count", "d", "default", "first", "items", "last", "length", "list", "lower", "map"),
        *("reject", "rejectattr", "select", "selectattr", "string", "trim", "upper"),
    )
)
_DAYS = frozenset("aAbBdjmuUVwWyYG%")  # directives of strftime that change once a day


class Looked(Exception):
    """A template asked something of a content that has no answer for all contents of a class."""


@dataclass(slots=True)
class Needs:
    """A class of contents: none is blank, no other promise is made unless asked for.

    ``stripped``: no white space around it. ``absent``: strings that it does not hold. ``day``: the day on
    which the rendering is valid, in ISO form; empty for any.
    """

    stripped: bool = False
    absent: set[str] = field(default_factory=set)
    day: str = ""


class WatchedTemplate:
    """``render`` gives the text of ``messages`` as the template does, or raises ``Looked``; see ``needs``.

    ``variables`` are those of the template: special tokens by name, and options. Raises ``Looked`` for a
    source that cannot be watched.
    """

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self.needs = Needs()
        self._variables = dict(variables)
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        kept = {name: environment.filters[name] for name in FILTERS}
        environment.filters = {**kept, "replace": _replaced, "tojson": _looked}
        environment.tests["in"] = _inside
        environment.globals.pop("lipsum")
        environment.globals |= {"raise_exception": _refuse, "strftime_now": self._today}
        environment.concat = _joined  # type: ignore[assignment]
        try:
            tree = environment.parse(source)
            if tree.find(nodes.Concat):
                raise Looked("the template joins with ~")
            _ask_for_in(tree, environment)
            code = environment.compile(tree)
            self._template = Template.from_code(environment, code, environment.make_globals(None))
        except TemplateError as error:
            raise Looked(str(error)) from None

    def render(self, messages: Sequence[Mapping[str, Any]], *, generate: bool) -> str:
        """The text; the ``content`` of each message is watched."""
        watched = [{**message, "content": _Content(message["content"], self.needs)} for message in messages]
        try:
            text = self._template.render(
                messages=watched,
                tools=None,
                documents=None,
                add_generation_prompt=generate,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise Looked(str(error)) from None
        return str.__str__(text)

    def _today(self, layout: str) -> str:
        directives = {found[:1] for found in layout.replace("%%", "").split("%")[1:]}
        if not directives <= _DAYS:
            raise Looked(f"the time of day ({layout})")
        now = datetime.now()
        self.needs.day = now.date().isoformat()
        return now.strftime(layout)


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses to give watched text to a method of a string that is not watched."""

    def call(self, context: Context, method: Any, *given: Any, **named: Any) -> Any:
        if type(getattr(method, "__self__", None)) is str:
            values = (*given, *named.values())
            if method.__name__ == "join" or any(isinstance(value, _Watched) for value in values):
                _looked()
        return super().call(context, method, *given, **named)


class _Generation(Extension):
    """``{% generation %}`` only marks what stands inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _ask_for_in(tree: nodes.Template, environment: Environment) -> None:
    """Let ``x in y`` call the test ``in``, since Python would not ask ``x``."""
    for compare in list(tree.find_all(nodes.Compare)):
        operators = [operand.op for operand in compare.ops]
        if not {"in", "notin"} & set(operators):
            continue
        if len(operators) > 1:
            raise Looked("the template chains comparisons with in")
        [operand] = compare.ops
        asked = nodes.Test(compare.expr, "in", [operand.expr], [], None, None, lineno=compare.lineno)
        true = nodes.Operand(
            "eq", nodes.Const(operand.op == "in", lineno=compare.lineno), lineno=compare.lineno
        )
        compare.expr, compare.ops = asked, [true]
        compare.set_environment(environment)


def _inside(value: Any, container: Any) -> bool:
    if isinstance(value, _Watched) and type(container) is str:
        _looked()
    return value in container


def _replaced(text: Any, wanted: Any, new: Any, count: int = -1) -> Any:
    if isinstance(wanted, _Watched) or isinstance(new, _Watched):
        _looked()
    return str(text).replace(str(wanted), str(new), count)


def _refuse(message: str) -> Never:
    raise TemplateError(message)


def _joined(parts: Iterable[str]) -> str:
    """``"".join`` that stays watched; the text of macros and of ``{% set %}`` blocks goes through it."""
    found = list(parts)
    needs = next((part._needs for part in found if isinstance(part, _Watched)), None)
    text = "".join(found)
    return text if needs is None else _Mixed(text, needs)


def _looked(*_: object, **__: object) -> Never:
    raise Looked("the template reads a message's content")


class _Watched(str):
    """Text with some content in it, which is not blank. Raises ``Looked`` for what it does not know."""

    _needs: Needs
    _answers = frozenset({"strip", "lstrip", "rstrip", "_needs"})

    def __new__(cls, text: str, needs: Needs) -> _Watched:
        made = super().__new__(cls, text)
        made._needs = needs
        return made

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name in type(self)._answers:
            return super().__getattribute__(name)
        return _looked()

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return True

    def __add__(self, other: str) -> str:
        return _Mixed(str.__add__(self, other), self._needs)

    def __radd__(self, other: str) -> str:
        return _Mixed(str.__add__(other, self), self._needs)

    def strip(self, chars: str | None = None) -> str:
        return self._bare(str.strip(self, chars), chars)

    def lstrip(self, chars: str | None = None) -> str:
        return self._bare(str.lstrip(self, chars), chars)

    def rstrip(self, chars: str | None = None) -> str:
        return self._bare(str.rstrip(self, chars), chars)

    def _bare(self, text: str, chars: str | None) -> str:
        if chars is not None and not set(chars) <= set(string.whitespace):
            _looked()
        self._needs.stripped = True
        return type(self)(text, self._needs)

    _answers |= {"_bare"}

    def __iter__(self) -> Iterator[str]:
        yield _looked()  # only when it is read: templates ask what can be iterated over

    __contains__ = __eq__ = __ne__ = __hash__ = __len__ = __getitem__ = _looked
    __lt__ = __le__ = __gt__ = __ge__ = _looked
    __mul__ = __rmul__ = __mod__ = __rmod__ = __format__ = __repr__ = _looked


class _Mixed(_Watched):
    """Content together with other text: it may be stripped and joined, nothing else."""


class _Content(_Watched):
    """A content by itself. That it does not hold what it is asked for becomes a promise of the class."""

    _answers = _Watched._answers | {"_without", "split", "startswith", "endswith", "replace"}

    def _without(self, wanted: Any) -> None:
        if (
            not isinstance(wanted, str)
            or isinstance(wanted, _Watched)
            or not wanted
            or str.__contains__(self, wanted)
        ):
            _looked()
        self._needs.absent.add(wanted)

    def __contains__(self, wanted: Any) -> bool:  # type: ignore[override]
        self._without(wanted)
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        if not isinstance(other, str) or other == "":
            return False
        self._without(other)
        return False

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    __hash__ = _looked

    def startswith(self, wanted: Any, *_: Any) -> bool:
        self._without(wanted)
        return False

    def endswith(self, wanted: Any, *_: Any) -> bool:
        self._without(wanted)
        return False

    def split(self, wanted: Any = None, limit: Any = -1) -> list[str]:  # type: ignore[override]
        self._without(wanted)
        return [self]

    def replace(self, wanted: Any, new: Any, count: Any = -1) -> str:
        self._without(wanted)
        return self
