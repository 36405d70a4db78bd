"""A model's chat template, and what it says about itself when asked with a few made-up messages.

Templates come with models and are not trusted: they run only in the sandboxed Jinja of transformers, and one
larger than ``MAX_TEMPLATE_BYTES`` is refused. Nothing is read from their source that rendering can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from tunewright.core.errors import RenderError
from tunewright.core.hashing import digest
from tunewright.data.controls import Controls

MAX_TEMPLATE_BYTES = 256 * 1024
_SYSTEM, _USER, _ANSWER, _NEXT = "probe-system", "probe-question", "probe-answer", "probe-follow-up"
_STRANGE = "\U000ea51d"  # an unassigned character that no vocabulary holds

Dicts = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """Renders messages to text with the tokenizer's own template.

    ``options`` are further variables of the template, such as ``enable_thinking``. Facts found by probing:

    - ``sample``: the rendering of a short conversation, to see which tokens the template writes;
    - ``keeps_system``, ``keeps_developer``: whether messages of these roles reach the text;
    - ``leads``: role -> the text just before a message's content.

    Raises ``RenderError`` if the template is missing, too large or cannot render a question and an answer.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._options = dict(options or {})
        if not tokenizer.chat_template:
            raise RenderError(
                "the tokenizer has no chat template, so conversations cannot be rendered; use an instruct "
                "model, or set tokenizer.chat_template"
            )
        self.source = _checked_source(tokenizer.chat_template)
        turn = [_message("user", _USER), _message("assistant", _ANSWER)]
        self.sample = self._try([*turn, _message("user", _NEXT)]) or self.render(turn)
        self._closed = self.render(turn)
        if _USER not in self._closed or _ANSWER not in self._closed:
            raise RenderError("the chat template leaves out the question or the answer; use another template")
        system = self._try([_message("system", _SYSTEM), *turn]) or ""
        developer = self._try([_message("developer", _SYSTEM), *turn]) or ""
        self.keeps_system = _SYSTEM in system
        self.keeps_developer = _SYSTEM in developer
        self.sample += system
        self.leads = {
            role: text.partition(content)[0][-16:]
            for role, text, content in (
                ("user", self._closed, _USER),
                ("system", system, _SYSTEM),
                ("developer", developer, _SYSTEM),
            )
            if content in text
        }

    @property
    def digest(self) -> str:
        """Hash of all that decides how messages become text; a part of cache keys."""
        specials = {key: str(value) for key, value in self._tokenizer.special_tokens_map.items()}
        return digest([self.source, self._options, specials])

    @property
    def plain_source(self) -> str:
        """The source of the template for conversations without tools."""
        return str(self._tokenizer.get_chat_template(None, tools=None))

    @property
    def variables(self) -> dict[str, Any]:
        """What the template can read besides messages and tools: special tokens by name, then ``options``."""
        return {**self._tokenizer.special_tokens_map, **self._options}

    def render(self, messages: Dicts, tools: Sequence[Any] = (), *, generate: bool = False) -> str:
        """The text of ``messages``; with ``generate``, up to where the assistant's answer begins.

        Raises ``RenderError`` with the template's own words if it refuses the messages.
        """
        source = self._tokenizer.get_chat_template(None, tools=list(tools) or None)
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=generate,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            roles = ", ".join(str(m["role"]) for m in messages)
            raise RenderError(f"the chat template refuses this order of roles ({roles}): {error}") from None
        return text

    def end_of_turn(self, controls: Controls) -> str | None:
        """The control token that the template writes after an answer, or ``None`` if it writes none."""
        return controls.first(self._closed.partition(_ANSWER)[2])

    def _try(self, messages: Dicts) -> str | None:
        try:
            return self.render(messages)
        except RenderError:
            return None


def controls_of(tokenizer: Any, written: str) -> Controls:
    """The tokenizer's control tokens: every special token, and every other added token in ``written``.

    ``written`` is the template's source and a sample of what it renders. White space and plain words that
    were added to the vocabulary are not control tokens, because data may use them; nor is the token that
    stands for unknown characters.
    """
    unknown = set(tokenizer.backend_tokenizer.encode(_STRANGE, add_special_tokens=False).ids)
    found: dict[str, int] = {}
    stripping: dict[str, frozenset[str]] = {}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        text = token.content
        if token_id in unknown:
            continue
        spelled = bool(text.strip()) and not text.replace("_", "").isalnum()
        if (token.special and text.strip()) or (spelled and text in written):
            found[text] = int(token_id)
            sides = {"left": token.lstrip, "right": token.rstrip}
            stripping[text] = frozenset(side for side, strips in sides.items() if strips)
    return Controls(found, stripping)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _checked_source(template: Any) -> str:
    """The template's source (of all of them if there are several by name). Raises if it is too large."""
    parts: Iterable[str] = template.values() if isinstance(template, dict) else [str(template)]
    source = "\n".join(parts)
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_TEMPLATE_BYTES:
        raise RenderError(
            f"the chat template has {size:,} bytes, more than the {MAX_TEMPLATE_BYTES:,} allowed; "
            "real templates stay below 30,000, so look at where this model came from"
        )
    return source
