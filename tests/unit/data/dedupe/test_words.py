"""Words and their hashes."""

import subprocess
import sys

import numpy as np
import pytest

from tunewright.data.dedupe.words import words


def of(text):
    return words([text]).hashes.tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "hello world"),
        ("ｆｕｌｌ ﬁne", "full fine"),
        ("STRASSE", "straße"),
        ("It's “quoted”", "it’s 'quoted'"),
        ("a  b\n\nc", "a b c"),
        ("**bold** `code`", "bold code"),
        ("COVID-19", "covid 19"),
        ("e\u0301", "é"),
    ],
)
def test_texts_that_look_alike_have_the_same_words(one, other):
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("-5", "5"), ("2*3", "2/3"), ("2+3", "2 3"), ("5%", "5"), ("$5", "£5"), ("日本", "本日"), ("😀", "😡")],
)
def test_texts_that_mean_something_else_do_not(one, other):
    assert of(one) != of(other)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" \n\t", 0),
        ("?!… —", 0),
        ("don't stop", 3),
        ("日本語 text", 4),
        ("ภาษา", 4),
        ("हिन्दी भाषा", 2),
        ("한국어 단어", 2),
        ("1,000.5", 3),
        ("x" * 5000, 1),
    ],
)
def test_the_number_of_words(text, count):
    assert len(of(text)) == count


def test_the_words_of_a_text_do_not_depend_on_its_neighbours():
    texts = ["", "one", "two words", "", "日本語", "x" * 3000 + " y", "-5", "last 7"]
    found = words(texts)
    for i, text in enumerate(texts):
        assert found.hashes[found.starts[i] : found.starts[i + 1]].tolist() == of(text)
    assert words([]).starts.tolist() == [0]


def test_words_with_digits_are_marked():
    assert words(["call 911 or b2b now"]).numeric.tolist() == [False, True, False, True, False]


def test_a_long_text_has_the_words_of_its_parts():
    text = " ".join(f"word{i % 5000}" for i in range(300_000))
    assert len(text) > 2 << 20
    found = words([text])
    assert len(found.hashes) == 300_000
    assert np.array_equal(found.hashes[:5000], words([" ".join(f"word{i}" for i in range(5000))]).hashes)
    assert np.array_equal(found.hashes[-5000:], found.hashes[:5000])


def test_different_words_have_different_hashes():
    text = " ".join(f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in range(500))
    assert len(set(of(text))) == 50_000


def test_hashes_are_the_same_in_every_process():
    code = "from tunewright.data.dedupe.words import words; print(words(['Grüße, 世界 42']).hashes.tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(of("Grüße, 世界 42"))
