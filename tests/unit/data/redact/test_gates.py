"""The cheap looks that spare dear ones must never hide what these would find."""

import re
from re import _parser

import pytest

from tests.unit.data.redact.made import planted
from tunewright.data.redact import credentials, evidence, streets


def spelled(parsed, most=2000):
    """Some texts that a parsed pattern of words matches: each branch, with and without what is optional."""
    texts = [""]
    for op, arg in parsed:
        name = str(op)
        if name == "LITERAL":
            some = [chr(arg)]
        elif name == "IN":
            some = [chr(v) for o, v in arg if str(o) == "LITERAL"][:3]
            some += [" " if "SPACE" in str(v) else "x" for o, v in arg if str(o) == "CATEGORY"]
        elif name == "BRANCH":
            some = [text for branch in arg[1] for text in spelled(branch, most)]
        elif name == "SUBPATTERN":
            some = spelled(arg[3], most)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            one = [text * max(1, arg[0]) for text in spelled(arg[2], most)]
            some = one if arg[0] else ["", *one]
        else:  # anchors, looks around
            some = [""]
        texts = [a + b for a in texts for b in some][: most * 20]
    return texts


@pytest.mark.parametrize("cue", evidence.CUES)
def test_every_cue_passes_the_gate_of_its_last_word(cue):
    texts = [text for text in spelled(_parser.parse(cue.pattern)) if cue.search(f"so {text}")]
    assert len(texts) >= 10
    assert [t for t in texts if not evidence.may_end_in_cue(f"so {t}")] == []
    assert not evidence.may_end_in_cue("we walked past ") and not evidence.may_end_in_cue("")


def test_every_street_passes_the_gate_of_its_last_word():
    texts = [text for seed in range(5) for kind, text, _ in planted(seed) if kind == "STREET_ADDRESS"]
    texts += ["see 12 Saint John The Baptist Hill Road.", "9a, 14 O'Neil's Ford Ave#5", "77/2 4th ST."]
    english = [text for text in texts if streets._ENGLISH.search(text)]
    assert len(english) > 50
    assert all(streets._may_be_english(text.lower()) for text in english)


def test_every_key_holds_the_mark_that_its_look_asks_for():
    for mark, keys in credentials._KEYS.items():
        for prefix, pattern in keys:
            assert mark in prefix or re.search(rf"\\?{re.escape(mark)}|\[[^\]]*-\]", pattern.pattern), prefix
    assert sum(map(len, credentials._KEYS.values())) == len(credentials._SHAPES)
