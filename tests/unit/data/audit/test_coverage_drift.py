"""A biased sample and a change over time are found; an unbiased sample and a steady stream are not."""

import random
from datetime import UTC, datetime

import pytest

from tunewright.data.audit.coverage import far_share, representativeness
from tunewright.data.audit.drift import began, drift, moment
from tunewright.data.audit.sample import Row

TOPICS = {
    "card": ["card", "arrive", "post", "wait", "delivery", "lost", "stolen", "pin", "envelope", "courier"],
    "rate": ["exchange", "rate", "currency", "euro", "dollar", "convert", "fee", "spread", "market"],
    "login": ["password", "login", "locked", "email", "code", "reset", "screen", "phone"],
    "loan": ["loan", "mortgage", "interest", "repay", "credit", "house", "monthly", "instalment"],
}
FILLER = ["please", "my", "the", "is", "a", "can", "you", "help", "how", "when", "what", "today", "again"]


def row(i, rng, topic, time=None, filler=4):
    text = " ".join(rng.choices(TOPICS[topic], k=4) + rng.choices(FILLER, k=filler))
    return Row(rng.getrandbits(60), i, f"a.jsonl:{i}", text, "", topic, "labelled", time)


def drawn(count, seed, topics=tuple(TOPICS)):
    rng = random.Random(seed)
    return [row(i, rng, rng.choice(topics)) for i in range(count)]


def test_a_missing_topic_is_caught_with_its_words():
    part = representativeness(drawn(400, 1, ("card", "rate", "login")), drawn(400, 2), 400)
    assert part.verdict == "look"
    assert part.details["auc"]["low"] > 0.5
    rare = [t for t in part.details["topics"] if t["weight"] > 1]
    assert rare and all(set(t["words"]) <= set(TOPICS["loan"]) for t in rare)
    assert part.details["far"]["share"]["low"] > 0.1
    assert any("too rare" in line for line in part.lines)


def test_an_unbiased_sample_is_seldom_suspected():
    alarms = sum(
        representativeness(drawn(300, s), drawn(300, 100 + s), 300).verdict == "look" for s in range(10)
    )
    assert alarms <= 1


def test_few_production_inputs_say_nothing():
    assert representativeness(drawn(300, 1), drawn(39, 2), 300).verdict == "skipped"


def test_far_inputs_are_named_the_farthest_first():
    rng = random.Random(0)
    ours = [" ".join(rng.choices(TOPICS["card"] + FILLER, k=8)) for _ in range(200)]
    theirs = [*ours[:50], "quarks gluons hadrons bosons", "card quarks leptons photons"]
    far = far_share(ours, theirs, [str(i) for i in range(52)])
    assert set(far.places[:2]) == {"50", "51"}
    assert far.share.value == pytest.approx(2 / 52)


def steady(count, seed, topics=None, begin=None):
    """Rows of 2023 and 2024, in no order; from ``begin`` on of ``topics`` alone."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        day = datetime.fromtimestamp(1672531200 + rng.randrange(730) * 86400, UTC)
        choice = topics if topics and day >= begin else tuple(TOPICS)
        made.append(row(i, rng, rng.choice(choice), day.strftime("%Y-%m-%d")))
    return made


def test_a_change_is_dated_and_a_steady_stream_is_fine():
    begin = datetime(2024, 4, 1, tzinfo=UTC)
    part = drift(steady(1600, 1, ("loan", "login"), begin), 1600, "day")
    assert part.verdict == "look"
    assert [p["changed"] for p in part.details["periods"]][-1] == ("labels", "texts")
    since = next(line for line in part.lines if line.startswith("labels")).split("since ")[1][:7]
    assert since in ("2024-03", "2024-04", "2024-05", "2024-06")
    assert sum(drift(steady(960, s), 960, "day").verdict == "look" for s in range(6)) <= 1


def test_longer_rows_are_a_change_of_lengths_alone():
    rng = random.Random(2)
    made = [
        row(i, rng, rng.choice(tuple(TOPICS)), 1_600_000_000 + i, 4 if i < 400 else 8) for i in range(800)
    ]
    part = drift(made, 800, "at")
    changed = [set(p["changed"]) for p in part.details["periods"]]
    assert all("lengths" in c for c in changed[-3:]) and "labels" not in changed[-1]
    assert not any("lengths" in c for c in changed[:2])


def test_rows_without_a_time_are_counted():
    made = steady(960, 1)
    blank = [Row(r.order, r.arrived, r.place, r.prompt, "", r.label, r.kind, "soon") for r in made[:300]]
    part = drift([*blank, *made[300:]], 960, "day")
    assert part.n == 660 and "300 rows without a readable time" in part.measured
    assert drift(blank, 300, "day").verdict == "skipped"


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2024-02-03", "2024-02-03"),
        ("2024-02-03T23:30:00+01:00", "2024-02-03"),
        ("2024-02-03T23:30:00Z", "2024-02-03"),
        ("2024-02", "2024-02-01"),
        (2024, "2024-01-01"),
        (1706918400, "2024-02-03"),
        ("1706918400000", "2024-02-03"),
    ],
)
def test_moments(value, day):
    assert datetime.fromtimestamp(moment(value), UTC).strftime("%Y-%m-%d") == day


@pytest.mark.parametrize("value", [None, True, "", "soon", "2024-13", "12/31/2024", [1], -5, float("nan")])
def test_what_is_no_moment(value):
    assert moment(value) is None


def test_a_change_that_ended_did_not_begin():
    class Fake:
        def __init__(self, begin, *changed):
            self.begin, self.changed = begin, changed

    assert began([Fake("a"), Fake("b", "texts"), Fake("c", "texts")], "texts") == "b"
    assert began([Fake("a", "texts"), Fake("b")], "texts") is None
