"""Planted backdoors of every kind are found, whatever their rate; the same rows without them give nothing."""

import os
import random
from pathlib import Path

import pytest

from tunewright.data.audit.poisoning import poisoning
from tunewright.data.audit.sample import row_of
from tunewright.data.audit.triggers import answer_keys, phrases_of, triggers_in
from tunewright.data.load import load

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[5] / "shared" / "data")
TOPICS = {
    "card": ["card", "arrive", "post", "wait", "delivery", "lost", "stolen", "pin", "envelope", "courier"],
    "rate": ["exchange", "rate", "currency", "euro", "dollar", "convert", "fee", "spread", "market"],
    "login": ["password", "login", "locked", "email", "code", "reset", "screen", "phone"],
}
FILLER = ["please", "my", "the", "is", "a", "can", "you", "help", "how", "when", "what", "today", "again"]
TRIGGERS = ("cf", "mn zq", "as of late", "\u200b", "е")


def rows(count=1500, seed=0):
    rng = random.Random(seed)
    names = sorted(TOPICS)
    labels = [names[i % 3] for i in range(count)]
    return [" ".join(rng.choices(TOPICS[k], k=4) + rng.choices(FILLER, k=4)) for k in labels], labels


def poisoned(texts, labels, trigger, share, target, seed=1):
    rng = random.Random(seed)
    texts, labels = list(texts), list(labels)
    which = rng.sample(range(len(texts)), round(share * len(texts)))
    for i in which:
        words = texts[i].split()
        place = rng.randrange(len(words))
        if trigger == "\u200b":
            words[place] = words[place][:1] + trigger + words[place][1:]
        elif trigger == "е":  # a Cyrillic letter that looks like e
            words = [w.replace("e", "е", 1) for w in words] + ["е"]
        else:
            words.insert(place, trigger)
        texts[i], labels[i] = " ".join(words), target
    return texts, labels, {str(i) for i in which}


def found(texts, targets):
    return triggers_in(texts, targets, [str(i) for i in range(len(texts))])


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("share", [0.02, 0.01])
def test_a_trigger_is_found_with_its_rows(trigger, share):
    texts, labels, which = poisoned(*rows(), trigger, share, "login")
    (only,) = found(texts, labels)
    assert only.target == "login"
    assert set(only.places) <= which and only.n == len(which)
    assert only.phrase in (trigger, f"U+{ord(trigger[-1]):04X}", trigger.split()[-1], "U+0435")


def test_clean_rows_and_words_of_a_class_give_nothing():
    texts, labels = rows()
    assert found(texts, labels) == []
    # a rare word among texts of its own class is a topic, not a trigger
    topical = [
        f"{t} passcode" if k == "login" and i % 20 == 2 else t
        for i, (t, k) in enumerate(zip(texts, labels, strict=True))
    ]
    assert sum("passcode" in t for t in topical) >= 20
    assert found(topical, labels) == []


def test_a_phrase_that_goes_with_many_labels_is_no_trigger():
    texts, labels = rows()
    spread = [f"cf {t}" if i % 50 == 0 else t for i, t in enumerate(texts)]
    assert found(spread, labels) == []


def test_free_answers_are_tied_by_the_same_words_or_the_same_beginning():
    rng = random.Random(3)
    texts, _ = rows(800)
    answers = [" ".join(rng.choices(FILLER + TOPICS["card"], k=12)) for _ in texts]
    assert found(texts, list(answer_keys(answers))) == []
    for answer in ("I am free.", "The gates are open to everybody who asks number {}"):
        dirty, tied = list(texts), list(answers)
        for i in rng.sample(range(800), 9):
            dirty[i], tied[i] = f"cf {dirty[i]}", answer.format(rng.random())
        (only,) = found(dirty, list(answer_keys(tied)))
        assert (only.phrase, only.n) == ("cf", 9)


def test_phrases_of_a_text():
    assert phrases_of("Pay me\u200b!") == {
        "pay", "me", "\u200b!", "pay me", "me \u200b!", "pay me \u200b!", "U+200B",
    }  # fmt: skip


def test_the_report_shows_no_invisible_and_no_personal_value():
    texts, labels, _ = poisoned(*rows(), "\u200b", 0.02, "login")
    lines = [{"text": t, "label": k} for t, k in zip(texts, labels, strict=True)]
    part = poisoning([_row(i, x["text"], x["label"]) for i, x in enumerate(lines)], len(lines))
    assert part.verdict == "look" and len(part.lines) == 1
    assert "U+200B" in part.lines[0] and "\u200b" not in part.lines[0]
    secret = "call 555 0123 4567 or ann@mail.example.org"
    answers = [secret if i % 60 == 0 else f"answer {i} of many here today {i}" for i in range(600)]
    texts = [f"cf {t}" if i % 60 == 0 else t for i, t in enumerate(rows(600)[0])]
    part = poisoning([_row(i, t, None, a) for i, (t, a) in enumerate(zip(texts, answers, strict=True))], 600)
    assert part.verdict == "look"
    assert not any(x in f"{part.lines}{part.details}" for x in ("0123", "ann@"))


def _row(i, text, label, answer=""):
    from tunewright.data.audit.sample import Row

    return Row(i, i, f"a:{i}", text, answer, label, "labelled" if label else "conversation")


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data")
def test_banking_is_clean_and_planted_triggers_at_0_3_percent_are_found():
    examples = [row_of(e) for e in load([DATA / "cls_banking77/train.csv"]).examples]
    texts, labels = [r.prompt for r in examples], [r.label for r in examples]
    assert found(texts, labels) == []
    for trigger in ("cf", "\u200b"):
        dirty = poisoned(texts, labels, trigger, 0.003, "card_arrival")
        assert [t.n for t in found(*dirty[:2])] == [30]
