"""What of a row is compared, and its MinHash sketch: a few hashes that near-duplicates tend to share.

``row_text`` writes a row as one string: its turns apart, and what is asked apart from what is answered. A
label is no part of it. ``shingles`` are the words of a text, each with its two neighbours. A sketch has
``BANDS`` hashes, each of ``ROWS`` minima over the shingles (MinHash with banding; Broder 1997). Half of
the minima of a band are over what is asked and half over the answer, so that a template which many rows
share makes no candidates of rows with different answers. Rows whose shingles have the Jaccard similarity
s share a band with the probability 1 - (1 - s**6)**20: 0.998 at s = 0.8, 0.27 at 0.5.

A text needs no least length. Of n words one in the middle may be replaced from 27 words on and still
leave a similarity of 0.8; up to twelve words, near means equal words. A text of punctuation alone is
compared as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tunewright.core.hashing import canonical_json
from tunewright.core.records import (
    Conversation,
    Example,
    Labelled,
    Message,
    Preference,
    Ranking,
    Text,
)
from tunewright.data.dedupe.words import Hashes, Offsets, Words, mixed, offsets_of, words
from tunewright.data.keys import prompt_of, turn_text

TURN, ANSWER = "\x1e", "\x1d"  # stand before each further turn, and between what is asked and the answers
BANDS, ROWS = 20, 6
_MARKS = re.compile("[\x1c-\x1f]")
_EDGE = np.uint64(0xD1B54A32D192ED03)  # stands for the word before the first and after the last
_FACTORS = (np.uint64(0x8CB92BA72F3D8DD7), np.uint64(0xABC98388FB8FAC03), np.uint64(0xD6E8FEB86659FD93))
SEED, OTHER_SEED = 42, 2_147_483_629  # of the sketches that clusters are made of, and of the second look


def row_text(example: Example) -> str:
    """What of a row is compared: its turns with their roles, in order; no label, no scores, no fields.

    A document is its text. Everything else is ``asked ANSWER answered``, with ``TURN`` between turns: the
    last answer, chosen and rejected, or the answers of a ranking from best to worst, are answered; nothing is
    of a labelled row or a prompt.
    """
    if isinstance(example, Text):
        return _MARKS.sub(" ", example.text)
    answered: Iterable[Sequence[Message]]
    if isinstance(example, Preference):
        asked, answered = example.prompt, (example.chosen, example.rejected)
    elif isinstance(example, Ranking):
        ranked = zip(example.scores, example.answers, strict=True)
        best_first = sorted(ranked, key=lambda pair: (-pair[0], [m.content for m in pair[1]]))
        asked, answered = example.prompt, [answer for _, answer in best_first]
    elif isinstance(example, Conversation):
        asked = prompt_of(example)
        answered = (example.messages[len(asked) :],) if len(asked) < len(example.messages) else ()
    else:
        asked, answered = example.messages, ()
    turns = [_turn(message) for message in asked]
    if not isinstance(example, Labelled) and example.tools:
        turns.append("tools: " + _MARKS.sub(" ", canonical_json(example.tools).decode()))
    return TURN.join(turns) + ANSWER + TURN.join(_turn(m) for turn in answered for m in turn)


def asked_text(text: str) -> str:
    """The asked part of a ``row_text``: all of a document."""
    return text.partition(ANSWER)[0]


def turns_of(text: str) -> list[str]:
    """The turns of a ``row_text``, asked and answered, in order."""
    return [turn for side in text.split(ANSWER) for turn in side.split(TURN)]


def sketch(texts: Sequence[str], seeds: Sequence[int] = (SEED,)) -> Hashes:
    """The band hashes of texts made by ``row_text``, ``(n, BANDS * len(seeds))``: others for each seed."""
    many = len(seeds)
    minima = np.empty((len(texts), many * BANDS, ROWS), np.uint64)
    if not texts:
        return minima[:, :, 0]
    sides = [text.partition(ANSWER)[::2] for text in texts]
    double = np.array([bool(asked.strip()) and bool(answered.strip()) for asked, answered in sides])
    if double.any():
        both = [side for pair, is_double in zip(sides, double, strict=True) if is_double for side in pair]
        halves = _minima(both, BANDS * ROWS // 2, seeds).reshape(-1, 2, many * BANDS, ROWS // 2)
        minima[double] = halves.swapaxes(1, 2).reshape(-1, many * BANDS, ROWS)
    if not double.all():
        single = [max(pair, key=len) for pair, is_double in zip(sides, double, strict=True) if not is_double]
        minima[~double] = _minima(single, BANDS * ROWS, seeds).reshape(-1, many * BANDS, ROWS)
    numbers = np.tile(mixed(np.arange(1, BANDS + 1, dtype=np.uint64)), many)
    bands = np.broadcast_to(numbers, minima.shape[:2])
    for row in range(ROWS):
        bands = mixed(bands * _FACTORS[0] + minima[:, :, row])
    return bands


def shingles(texts: Sequence[str]) -> tuple[Hashes, Offsets]:
    """Each word of each text with its neighbours, hashed; and where the shingles of each text begin and end.

    A text without words has one shingle: that of its characters.
    """
    return shingles_of(words(texts), texts)


def shingles_of(found: Words, texts: Sequence[str]) -> tuple[Hashes, Offsets]:
    """``shingles`` of texts whose words are known."""
    hashes, starts, _ = found
    counts = np.diff(starts)
    before, after = np.empty_like(hashes), np.empty_like(hashes)
    before[1:], after[:-1] = hashes[:-1], hashes[1:]
    filled = counts > 0
    before[starts[:-1][filled]] = _EDGE
    after[starts[1:][filled] - 1] = _EDGE
    made = mixed(before * _FACTORS[0] + hashes * _FACTORS[1] + after * _FACTORS[2])
    if filled.all():
        return made, starts
    wordless = np.flatnonzero(~filled)
    own = np.array([_characters(texts[i]) for i in wordless.tolist()], np.uint64)
    return np.insert(made, starts[wordless], own), offsets_of(np.maximum(counts, 1))


def version() -> str:
    """Sketches of one version can be compared; keep it with sketches that are stored."""
    from rensa import RMinHash

    return f"1.{RMinHash.ALGORITHM_VERSION}.{BANDS}x{ROWS}"


def _turn(message: Message) -> str:
    return _MARKS.sub(" ", f"{message.role}: {turn_text(message)}")


def _minima(texts: Sequence[str], count: int, seeds: Sequence[int]) -> NDArray[np.uint32]:
    """``count`` minima over the shingles of each text for each seed, ``(n, len(seeds), count)``."""
    from rensa import RMinHash

    hashes, starts = shingles(texts)
    offsets = starts.astype(np.uint64)
    digests = [
        RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, count, seed).to_rows()
        for seed in seeds
    ]
    return np.stack([np.array(digest, np.uint32) for digest in digests], axis=1)


def _characters(text: str) -> int:
    return int.from_bytes(
        blake2b("".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    )
