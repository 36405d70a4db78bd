"""Text to ids, in pieces, such that the ids of a prompt never depend on the answer that follows it.

Why pieces. A tokenizer may join the last character of a prompt with the first of an answer ("\\n" + "\\n"),
and a pre-tokenizer that looks ahead may split a prompt's last white space differently once text follows. At
inference nothing follows. So the text is cut where every prompt ends, and each piece is encoded by itself:
the ids up to a cut are then the same with and without what comes after, whatever the tokenizer does.

What it costs. Nothing, wherever the tokenizer itself has a token boundary at the cut. BPE applies merges in
rank order; if no merge crossed the cut, the merges left of it are those it would make for the left part
alone, and likewise for the right. Unigram picks the best path; if it passes through the cut, its first half
is the best path of the left part, by optimal substructure. So cutting changes ids only where it has to
(and may swap pieces of equal score in Unigram), which is what the parity tests assert.

Beginnings. SentencePiece-like tokenizers put "▁" before a text. A piece from the middle of a text must not
get one, so it is encoded behind an anchor character, and the anchor's ids are taken off again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from tunewright.core.errors import RenderError
from tunewright.data.controls import Controls, Veil

After = Literal["nothing", "control", "text"]  # what stands before a piece
_ANCHORS = ("\n", "\t", ".", "a", "0", "\x01", "¤", "\U0001f9ff")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of covered text that is encoded by itself."""

    text: str
    veil: Veil
    after: After


@dataclass(slots=True)
class Encoded:
    """Ids of one piece; ``starts[i]`` is the first character of token i in the covered text of the piece.

    ``control_ends`` maps the end of each control token (a character position) to the token after it.
    """

    ids: list[int]
    starts: list[int]
    control_ends: dict[int, int]

    def token_at(self, character: int) -> int:
        """The first token that starts at or after ``character``."""
        return bisect_left(self.starts, character)


class Encoder:
    """Encodes covered text: control tokens only where the template wrote them, plain text everywhere else."""

    def __init__(self, tokenizer: Any, controls: Controls) -> None:
        self.backend = tokenizer.backend_tokenizer
        self._controls = controls
        probes = ("b", " b", "\nb", ".")
        ids = [self._ids(text) for text in probes]
        anchored = [self._behind_anchor(text, plain=False) for text in probes]
        self._needs_anchor = ids != anchored
        self._anchor_ids = self._ids(_ANCHORS[0])[0]
        self._restarts = self._needs_anchor and self._restarts_after_control(ids[0])

    def encode(self, pieces: list[Piece]) -> list[Encoded]:
        """One ``Encoded`` per piece, in one batch call for all that hold no covered text.

        Raises ``RenderError`` if a control string in the data cannot be written as plain text.
        """
        usual = [i for i, piece in enumerate(pieces) if not piece.veil.covers(piece.text)]
        skips = [self._anchor_ids if self._anchors(pieces[i]) else [] for i in usual]
        texts = [_ANCHORS[0] * bool(skip) + pieces[i].text for i, skip in zip(usual, skips, strict=True)]
        results: dict[int, Encoded] = {}
        self.reset()
        batch = self.backend.encode_batch(texts, add_special_tokens=False)
        for i, skip, encoding in zip(usual, skips, batch, strict=True):
            ids, starts = encoding.ids[len(skip) :], [start for start, _ in encoding.offsets[len(skip) :]]
            ends = self._control_ends(pieces[i].text, ids)
            if ends is not None and encoding.ids[: len(skip)] == skip:
                moved = len(_ANCHORS[0]) * bool(skip)
                results[i] = Encoded(
                    ids, [max(start - moved, 0) for start in starts] if moved else starts, ends
                )
        return [results[i] if i in results else self._by_sections(piece) for i, piece in enumerate(pieces)]

    def opening(self) -> list[int]:
        """Ids that the tokenizer puts before a document of its own accord (usually bos, or nothing)."""
        self.reset()
        bare = self.backend.encode("b", add_special_tokens=False).ids
        full = self.backend.encode("b", add_special_tokens=True).ids
        return full[: full.index(bare[0])] if bare and bare[0] in full else []

    def _control_ends(self, text: str, ids: list[int]) -> dict[int, int] | None:
        """Where the control tokens of ``text`` end in ``ids``; ``None`` if ids and text disagree on them."""
        matches = self._controls.find(text)
        known = self._controls.id_set
        found = [i for i, token in enumerate(ids) if token in known]
        if [ids[i] for i in found] != [self._controls.ids[m.group()] for m in matches]:
            return None
        return {m.end(): i + 1 for m, i in zip(matches, found, strict=True)}

    def _by_sections(self, piece: Piece) -> Encoded:
        """The careful way: the template's control tokens by name, and what is between them as plain text."""
        result = Encoded([], [], {})
        position, after, stripped = 0, piece.after, False
        for match in [*self._controls.find(piece.text), None]:
            end = match.start() if match else len(piece.text)
            text = piece.text[position:end].lstrip() if stripped else piece.text[position:end]
            start, sides = end - len(text), self._controls.stripping.get(match.group(), ()) if match else ()
            text = text.rstrip() if "left" in sides else text
            self._add_section(result, text, start, piece.veil, after)
            if match:
                result.ids.append(self._controls.ids[match.group()])
                result.starts.append(match.start())
                result.control_ends[match.end()] = len(result.ids)
                position, after, stripped = match.end(), "control", "right" in sides
        return result

    def _add_section(self, result: Encoded, text: str, start: int, veil: Veil, after: After) -> None:
        if not text:
            return
        revealed = veil.reveal(text)
        ids, starts = self._section(revealed, after)
        result.ids += ids
        places = list(
            accumulate((len(veil.reveal(c)) for c in text), initial=0)
        )  # of covered text in revealed
        result.starts += [start + bisect_right(places, s) - 1 for s in starts]

    def _section(self, text: str, after: After) -> tuple[list[int], list[int]]:
        """Ids and starts of text that must hold no control token, however it is spelled."""
        anchored = after == "text" or (after == "control" and not self._restarts)
        for attempt in (self._as_usual, self._without_added, self._broken_up):
            ids, starts = attempt(text, anchored and self._needs_anchor)
            if self._controls.id_set.isdisjoint(ids):
                return ids, starts
        raise RenderError(f"this tokenizer has no plain spelling for {text[:80]!r}; remove it from the data")

    def _as_usual(self, text: str, anchored: bool) -> tuple[list[int], list[int]]:
        if anchored:
            return self._behind_anchor(text, plain=False)
        return self._ids(text)

    def _without_added(self, text: str, anchored: bool) -> tuple[list[int], list[int]]:
        if anchored:
            return self._behind_anchor(text, plain=True)
        return self._plain_ids(text)

    def _broken_up(self, text: str, anchored: bool) -> tuple[list[int], list[int]]:
        """Control strings that are in the vocabulary itself (Unigram) are spelled character by character."""
        ids: list[int] = []
        starts: list[int] = []
        position = 0
        for part in self._parts(text):
            found, offsets = self._without_added(part, self._needs_anchor and (anchored or position > 0))
            ids += found
            starts += [position + o for o in offsets]
            position += len(part)
        return ids, starts

    def _parts(self, text: str) -> list[str]:
        parts: list[str] = []
        position = 0
        for match in self._controls.find(self._normalised(text)):
            parts += [text[position : match.start()], *text[match.start() : match.end()]]
            position = match.end()
        return [part for part in (*parts, text[position:]) if part]

    def _normalised(self, text: str) -> str:
        """``text`` as the tokenizer reads it, if that keeps every character in its place."""
        if self.backend.normalizer is None:
            return text
        characters = [self.backend.normalizer.normalize_str(c) for c in text]
        return "".join(n if len(n) == 1 else c for n, c in zip(characters, text, strict=True))

    def _anchors(self, piece: Piece) -> bool:
        """Whether a piece must be encoded behind the anchor."""
        if not self._needs_anchor or not piece.text or piece.after == "nothing":
            return False
        begins = self._controls.find(piece.text[:64])
        return not (begins and begins[0].start() == 0) and (piece.after == "text" or not self._restarts)

    def _restarts_after_control(self, bare: tuple[list[int], list[int]]) -> bool:
        """Whether text after a control token begins like a text of its own."""
        for token, token_id in self._controls.ids.items():
            ids = self._ids(f"{token}b")[0]
            if ids[:1] == [token_id]:
                return ids[1:] == bare[0]
        return False

    def _behind_anchor(self, text: str, *, plain: bool) -> tuple[list[int], list[int]]:
        encode = self._plain_ids if plain else self._ids
        for anchor in _ANCHORS:
            alone = encode(anchor)[0]
            ids, starts = encode(anchor + text)
            if ids[: len(alone)] == alone:
                return ids[len(alone) :], [max(s - len(anchor), 0) for s in starts[len(alone) :]]
        raise RenderError(
            f"this tokenizer joins {text[:40]!r} with any text before it, so it cannot be cut there"
        )

    def _ids(self, text: str) -> tuple[list[int], list[int]]:
        self.reset()
        encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def _plain_ids(self, text: str) -> tuple[list[int], list[int]]:
        """The tokenizer's own pipeline without its added tokens."""
        backend = self.backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        splits = [(text, (0, len(text)))]
        if backend.pre_tokenizer is not None:
            splits = backend.pre_tokenizer.pre_tokenize_str(text)
        ids: list[int] = []
        starts: list[int] = []
        for split, (start, end) in splits:
            start -= split.startswith("▁") and text[start : start + 1] not in (
                " ",
                "▁",
            )  # a "▁" put before it
            for token in backend.model.tokenize(split):  # its offsets are bytes of the split
                inside = len(split.encode()[: token.offsets[0]].decode(errors="ignore"))
                ids.append(token.id)
                starts.append(max(min(start + inside, end - 1), 0))
        return ids, starts

    def reset(self) -> None:
        """Undo what earlier calls left set on the tokenizer; as transformers does on each call."""
        if self.backend.truncation is not None:
            self.backend.no_truncation()
        if self.backend.padding is not None:
            self.backend.no_padding()
        if self.backend.encode_special_tokens:
            self.backend.encode_special_tokens = False
