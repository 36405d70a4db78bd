"""Messages to tokens: the only place where it happens, for training, evaluation, chat and serving.

    >>> renderer = Renderer(tokenizer, train_on="assistant")        # doctest: +SKIP
    >>> [tokens] = renderer.conversation(example)                   # doctest: +SKIP
    >>> renderer.prompt(example.messages[:-1])                      # doctest: +SKIP

Three promises, each held by a property test over several templates and tokenizers:

- a trained sequence begins with exactly ``prompt(messages before the answer)``, and so do answers that are
  branches of one prompt;
- the end-of-turn token is trained after every trained answer, and nothing after it is;
- text from data never becomes a control token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

from tunewright.core.errors import ConfigError, RenderError
from tunewright.core.records import (
    Conversation,
    Example,
    Labelled,
    Message,
    Meta,
    Text,
    Tokens,
    kind_of,
)
from tunewright.data.assemble import assemble, pieces_of
from tunewright.data.branches import choices_of, grown
from tunewright.data.controls import Veil
from tunewright.data.encode import Encoded, Encoder, Piece
from tunewright.data.known import Known
from tunewright.data.lengths import Limit, OverLong, chunked
from tunewright.data.notes import DATE_NOTE, unseen
from tunewright.data.roles import fit_roles
from tunewright.data.shapes import Shapes
from tunewright.data.template import ChatTemplate, controls_of
from tunewright.data.turns import Draft, Ending, Script, Stage, weights_of

TrainOn = Literal["assistant", "last", "all", "message"]


class Renderer:
    """Renders conversations and documents for one tokenizer (a loaded transformers fast tokenizer).

    ``train_on``: ``assistant`` every assistant turn, ``last`` only the last one, ``all`` every token after
    the first, ``message`` only messages with a weight of their own. A message's own ``weight`` always wins.
    ``options`` are further variables of the chat template, such as ``enable_thinking``.

    ``notes`` holds what the user should be told; ``dropped`` counts sequences left out as over-long.
    Raises ``RenderError`` for a tokenizer that has neither an end-of-turn nor an end-of-text token.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        train_on: TrainOn = "assistant",
        max_length: int | None = None,
        over_long: OverLong = "cut",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        _check("train_on", train_on, get_args(TrainOn))
        _check("over_long", over_long, get_args(OverLong))
        if max_length is not None and max_length < 2:
            raise ConfigError(f"max_length is {max_length}; a sequence needs at least 2 tokens")
        self.train_on = train_on
        self.max_length = max_length
        self._limit = Limit(max_length, over_long)
        self.dropped = 0
        self._tokenizer = tokenizer
        self._notes: dict[str, None] = {}
        self._template = ChatTemplate(tokenizer, options) if tokenizer.chat_template else None
        written = self._template.source + self._template.sample if self._template else ""
        self.controls = controls_of(tokenizer, written)
        self._encoder = Encoder(tokenizer, self.controls)
        self._eos: int | None = tokenizer.eos_token_id
        self._opening = self._encoder.opening()
        self._ending = self._find_ending()
        self._known = self._find_known()
        if "strftime_now" in written and "date_string" not in (options or {}):
            self._note(DATE_NOTE)

    @property
    def notes(self) -> list[str]:
        """Things to say aloud, each once, in the order in which they came up."""
        return list(self._notes)

    @property
    def end_of_turn(self) -> int:
        """Id of the token that ends an answer."""
        return self.controls.ids[self._ending.token or self._ending.eos or ""]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which generation stops: end of turn and end of text."""
        return frozenset({self.end_of_turn} | ({self._eos} if self._eos is not None else set()))

    @property
    def template_digest(self) -> str:
        """Hash of what decides how messages become text; empty for a tokenizer without a chat template."""
        return self._template.digest if self._template else ""

    def conversation(self, example: Example) -> list[Tokens]:
        """The sequences of one chat: one, or several if the template rewrites history between turns.

        A sequence without any trained token is returned as well; ``tally`` counts it. Raises ``RenderError``,
        with file and line, for a conversation that this template cannot render faithfully.
        """
        return self.conversations([example])[0]

    def conversations(self, examples: Iterable[Example]) -> list[list[Tokens]]:
        """``conversation`` for many examples, with one call of the tokenizer."""
        rendered = self._rendered(list(examples))
        if self.max_length is None:
            return rendered
        return [[kept for tokens in found for kept in self.limited(tokens)] for found in rendered]

    def _rendered(self, examples: Sequence[Example]) -> list[list[Tokens]]:
        """The sequences of each example in full length."""
        if self._known is None:
            return self._plainly(examples)
        found = self._known.rendered(examples)
        left = [i for i, sequences in enumerate(found) if sequences is None]
        made = dict(zip(left, self._plainly([examples[i] for i in left]), strict=True)) if left else {}
        self._pass_on(self._known.notes)
        return [made[i] if sequences is None else sequences for i, sequences in enumerate(found)]

    def _plainly(self, examples: Sequence[Example]) -> list[list[Tokens]]:
        """The same through the template of the model, each by itself."""
        planned: list[tuple[int, Draft, Veil]] = []
        for row, example in enumerate(examples):
            with _located(example.meta):
                script = self._script(_messages_of(example), getattr(example, "tools", ()))
                planned += [(row, draft, script.veil) for draft in self._drafts(script)]
        pieces = [pieces_of(draft, veil, self.controls) for _, draft, veil in planned]
        encoded = iter(self._encode_rows(pieces, [examples[row] for row, _, _ in planned]))
        results: list[list[Tokens]] = [[] for _ in examples]
        for (row, draft, veil), group in zip(planned, pieces, strict=True):
            parts = [next(encoded) for _ in group]
            tokens = assemble(draft, parts, float(self.train_on == "all"), examples[row].meta)
            if veil.hits and not results[row]:  # counted once per row, however many sequences it gives
                tokens.extras["control_hits"] = float(veil.hits)
            results[row].append(tokens)
        return results

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The ids from which the model writes its next answer, the same as in training."""
        return self._prompt(messages, tools)[0]

    def branches(self, example: Example) -> list[Tokens]:
        """The prompt of a preference, a ranking or a liked answer, with its answers as branches, in order.

        ``ids`` is exactly ``prompt(…)``, with weights 0; a branch is what ``conversation`` writes after it,
        with weights on the assistant's turns, end of turn included. Empty where ``over_long`` leaves the row
        out. Raises ``RenderError`` with file and line, see ``data.branches``.
        """
        with _located(example.meta):
            choices = choices_of(example)
            chats = choices.chats(self.train_on)
        rendered = self._rendered(chats)
        with _located(example.meta):
            prompt, hits = self._prompt(choices.prompt, choices.tools)
            tokens = grown(prompt, rendered, choices)
        in_answers = [found[0].extras.get("control_hits", 0.0) - hits for found in rendered]
        if total := hits + sum(in_answers):
            tokens.extras["control_hits"] = total
        return self.limited(self._limit.with_short(tokens, choices.spare))

    def reading(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a text or chat that is judged as a whole, in full length (see ``limited``).

        One user turn is a plain text: what the tokenizer puts before a document, then the text. It gets no
        end of text, so that the last token is one of the text whether or not it was cut. Anything else is
        what ``prompt`` gives. Raises ``RenderError`` for a text without tokens.
        """
        if [m.role for m in messages] != ["user"]:
            return self.prompt(messages)
        body = self.plain_ids(messages[0].content)
        if not body:
            raise RenderError("a text without characters cannot be judged; fill it or remove the row")
        return [*self._opening, *body]

    def limited(self, tokens: Tokens) -> list[Tokens]:
        """``tokens`` within ``max_length``, by the rule for over-long sequences; empty if left out."""
        with _located(tokens.meta):
            kept = self._limit.apply(tokens)
        self.dropped += not kept
        return kept

    def document(self, text: str) -> list[int]:
        """A whole document: what the tokenizer puts before a text (bos or nothing), the text, end of text."""
        return self._document(text, Veil(self.controls))

    def document_chunks(self, text: str, max_length: int | None = None) -> list[Tokens]:
        """A document in chunks of at most ``max_length`` tokens; the last one ends with eos.

        A later chunk starts with the last token of the one before it, as context (weight 0), because the
        first token of a sequence is never predicted. So every token but the first of the document (an opening
        bos, where there is one) has weight 1 in exactly one chunk, and chunks lose nothing: documents are
        never cut short or dropped, whatever ``over_long`` says. Raises ``ConfigError`` for a length below 2.
        """
        if max_length is not None and max_length < 2:
            raise ConfigError(f"max_length is {max_length}; a sequence needs at least 2 tokens")
        veil = Veil(self.controls)
        ids = self._document(text, veil)
        size = max_length or self.max_length or len(ids)
        weights = [0.0] * len(self._opening) + [1.0] * (len(ids) - len(self._opening))
        chunks = chunked(ids, weights, size)
        if veil.hits:
            chunks[0].extras["control_hits"] = float(veil.hits)
        return chunks

    def documents(self, example: Example) -> list[Tokens]:
        """The chunks of a ``Text`` row, with its source."""
        if not isinstance(example, Text):
            raise RenderError(
                f"{example.meta.where()} is a {kind_of(example)} row; a document needs plain text"
            )
        with _located(example.meta):
            return [replace(chunk, meta=example.meta) for chunk in self.document_chunks(example.text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def plain_ids(self, text: str) -> list[int]:
        """The ids of a text by itself, without any control token."""
        veil = Veil(self.controls)
        [body] = self._encoder.encode([Piece(veil.cover(text), veil, "nothing")])
        return body.ids

    def explain(self, tokens: Tokens) -> list[tuple[str, float, str]]:
        """``(text, weight, role)`` of each token, for showing; ``template`` is what no message wrote."""
        roles = ["template"] * len(tokens.ids)
        for span in tokens.spans:
            roles[span.start : span.end] = [span.role] * (span.end - span.start)
        return [
            (self._token_text(token), weight, role)
            for token, weight, role in zip(tokens.ids, tokens.weights, roles, strict=True)
        ]

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Any]) -> tuple[list[int], int]:
        """The ids of a prompt, and how many control strings its data holds."""
        veil, draft = Veil(self.controls), None
        if self._known and not tools:
            draft = self._known.prompt(messages, lambda: self._stage().prompt(self._script(messages, ())))
            self._pass_on(self._known.notes)
        if draft is None:
            script = self._script(messages, tools)
            veil, draft = script.veil, self._stage().prompt(script)
        parts = self._encoder.encode(pieces_of(draft, veil, self.controls))
        return [token for part in parts for token in part.ids], veil.hits

    def _document(self, text: str, veil: Veil) -> list[int]:
        [body] = self._encoder.encode([Piece(veil.cover(text), veil, "nothing")])
        return [*self._opening, *body.ids, *([] if self._eos is None else [self._eos])]

    def _find_ending(self) -> Ending:
        token = self._template.end_of_turn(self.controls) if self._template else None
        eos = str(self._tokenizer.eos_token) if self._eos is not None else None
        if token is None and eos is None:
            raise RenderError(
                "the tokenizer has no end-of-text token and its chat template writes no end-of-turn token, "
                "so a model could never learn to stop; set tokenizer.eos_token"
            )
        if token is None and self._template:
            self._note(f"the chat template writes no end-of-turn token; {eos} is put after the final answer")
        if eos is None:
            self._note("the tokenizer has no end-of-text token; documents are not closed with one")
        return Ending(token, eos if token is None else None)

    def _find_known(self) -> Known | None:
        if self._template is None:
            return None
        shapes = Shapes(self._template, self._stage(), self._encoder, self.train_on)
        return Known(shapes, self.train_on, self._plainly)

    def _stage(self) -> Stage:
        return Stage(self._chat_template(), self.controls, self._ending)

    def _chat_template(self) -> ChatTemplate:
        # A tokenizer without a template can still read documents, so the error waits until here.
        return self._template or ChatTemplate(self._tokenizer)

    def _script(self, messages: Sequence[Message], tools: Sequence[Any]) -> Script:
        """Messages that the template knows, with all control strings covered."""
        messages, notes = fit_roles(messages, self._chat_template())
        for note in notes:
            self._note(note)
        weights = weights_of(messages, self.train_on)
        veil = Veil(self.controls)
        covered_tools = [veil.cover(tool) for tool in tools]
        covered = []
        for message in messages:
            cover = veil.cover_answer if message.role == "assistant" else veil.cover
            extra = veil.cover({k: v for k, v in message.extra.items() if k not in ("role", "content")})
            covered.append({"role": message.role, "content": cover(message.content), **extra})
        return Script(covered, weights, covered_tools, veil)

    def _drafts(self, script: Script) -> list[Draft]:
        stage = self._stage()
        drafts = [stage.whole(script)] if self.train_on == "all" else stage.drafts(script)
        for note in unseen(script, drafts[-1].text):
            self._note(note)
        return drafts

    def _encode_rows(self, pieces: list[list[Piece]], rows: Sequence[Example]) -> list[Encoded]:
        """Encode all pieces in one call; an error is traced to its row."""
        try:
            return self._encoder.encode([piece for group in pieces for piece in group])
        except RenderError:
            for group, example in zip(pieces, rows, strict=True):
                with _located(example.meta):
                    self._encoder.encode(group)
            raise

    def _token_text(self, token: int) -> str:
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        begins_word = (self._tokenizer.convert_ids_to_tokens(token) or "").startswith("▁")
        return f" {text}" if begins_word and not text.startswith(" ") else str(text)

    def _pass_on(self, notes: Iterable[str]) -> None:
        for note in notes:
            self._note(note)

    def _note(self, text: str) -> None:
        self._notes.setdefault(text)


@contextmanager
def _located(meta: Meta) -> Iterator[None]:
    """Put ``file:line`` before the message of any ``RenderError``."""
    try:
        yield
    except RenderError as error:
        raise RenderError(f"{meta.where()}: {error}") from None


def _messages_of(example: Example) -> Sequence[Message]:
    if isinstance(example, Conversation | Labelled):
        return example.messages
    raise RenderError(f"a {kind_of(example)} row is not one conversation")


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}; known: {', '.join(known)}")
