"""The language of a text, said only where it is sure."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tunewright.data.clean.code import looks_like_code

SAMPLE = 240  # characters that are judged
FEW_LETTERS = 48  # nothing is said of a text with fewer letters
SURE = 0.9  # probability from which a language is believed
STEPS = 40  # words that are looked up in the list
ENGLISH_SHARE = 0.2
_LETTERS = re.compile(r"[^\W\d_]")
# Words of English that no other language with a Latin alphabet is full of, and words of such others.
_ENGLISH_WORDS = """
    the of and to that is are was were with for from this have has had you your it's they their which what how
    when who will would can could should been being be by at not or but as if about there these those
"""
_OTHER_WORDS = """
    der die das und ist nicht ein eine les des est une dans que el los las una por para il che di per non het
    een van niet och att som det er og ikke jest nie się não uma com os
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_OTHER = frozenset(_OTHER_WORDS.split())


def language_of(text: str) -> str | None:
    """ISO 639 code of a text's language; ``None`` where it is short, mixed, code, or not sure.

    English prose is told by its commonest words; the model is asked about everything else.
    """
    if len(text) < FEW_LETTERS:
        return None
    sample = text[:SAMPLE]
    words = sample.lower().split()[:STEPS]
    if len(words) >= 12:
        english = sum(map(_ENGLISH.__contains__, words))
        if english >= ENGLISH_SHARE * len(words) and not any(map(_OTHER.__contains__, words)):
            return "en"
    if len(_LETTERS.findall(sample)) < min(FEW_LETTERS, len(sample) // 2 + 1) or "```" in sample:
        return None
    code, probability = _identifier().classify(sample)
    if probability < SURE or code == "zxx" or looks_like_code(text[: 4 * SAMPLE]):
        return None
    return str(code)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # loading the model takes half a second

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
