"""The bundled Fernhill tickets keep the promises of their RULES.md.

The triage rules are written down here once more, as patterns, without any help from the
package. The word lists were drawn up for these tickets; they are not a general classifier.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

HERE = Path(__file__).resolve().parents[3] / "src" / "tunewright" / "run" / "quickstart"
TICKETS = HERE / "tickets.jsonl"
RULES = HERE / "RULES.md"

SYSTEM = "Triage this Fernhill ticket as JSON."
QUEUES = {"bench", "ledger", "dock", "signal", "counter", "shield"}
KEYS = ["queue", "priority", "product", "escalate"]

# Planted row -> the clean row it was made from.
DUPLICATES = {
    "T-0029": "T-0318",
    "T-0104": "T-0305",
    "T-0148": "T-0265",
    "T-0182": "T-0299",
    "T-0194": "T-0049",
    "T-0246": "T-0174",
    "T-0286": "T-0066",
    "T-0294": "T-0349",
    "T-0302": "T-0351",
    "T-0327": "T-0043",
    "T-0354": "T-0388",
    "T-0366": "T-0264",
}
NEAR_DUPLICATES = {
    "T-0095": "T-0008",
    "T-0132": "T-0121",
    "T-0162": "T-0046",
    "T-0301": "T-0169",
    "T-0309": "T-0056",
    "T-0429": "T-0151",
}
CONTRADICTIONS = {
    "T-0071": "T-0038",
    "T-0205": "T-0326",
    "T-0267": "T-0222",
    "T-0341": "T-0275",
}
PERSONAL = {
    "T-0035", "T-0036", "T-0051", "T-0057", "T-0078", "T-0111", "T-0114", "T-0164",
    "T-0175", "T-0181", "T-0203", "T-0229", "T-0237", "T-0269", "T-0273", "T-0295",
    "T-0307", "T-0316", "T-0317", "T-0345", "T-0373", "T-0392", "T-0428", "T-0441",
}  # fmt: skip
EMPTY_ANSWER = "T-0048"
BROKEN_ANSWER = "T-0122"
MOJIBAKE = "T-0226"

PLANTED = (
    set(DUPLICATES) | set(NEAR_DUPLICATES) | set(CONTRADICTIONS) | PERSONAL
    | {EMPTY_ANSWER, BROKEN_ANSWER, MOJIBAKE}
)  # fmt: skip


# --------------------------------------------------------------------------- the rules


def words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


NAMES = {
    "FH-110": words(r"\blinnets?\b"),
    "FH-210": words(r"\bherons?\b"),
    "FH-320": words(r"\bwrens?\b"),
    "FH-450": words(r"\bbitterns?\b"),
    "FH-480": words(r"\brookerys?\b"),
    "FH-530": words(r"\bplovers?\b"),
    "FH-700": words(r"\baviary\b"),
    "FH-810": words(r"\bchorus pass\b"),
}

SAFETY = words(
    r"\bsmok(e\b(?! alarm)|ing\b)", r"\bsmoulder", r"\bburn(s|t|ed|ing)?\b", r"\bsparks?(ed)?\b",
    r"\bflame\b", r"\b(swollen|swelling|bulging)\b", r"\bshock\b", r"\binjur(y|ed)\b",
    r"\bhurt\b", r"\bbleeding\b",
)  # fmt: skip
LEGAL = words(
    r"\b(lawyer|solicitor|attorney|court|legal|ombudsman|trading standards)\b",
    r"\b(personal data|my data|gdpr|privacy)\b", r"\bdata (protection|breach|authority)\b",
)  # fmt: skip
MONEY = words(
    r"\brefund", r"\bmoney\b", r"\bcharg(ed me|ed my|es of|e me)\b", r"\breverse the charge\b",
    r"\bcharged (?!overnight)", r"\bplovers charged\b", r"\bbilled\b", r"\binvoices?\b",
    r"\breceipt (for|although)\b", r"\bpay(ment|ments)?\b", r"\bpaid (back|for)\b", r"\bbank\b",
    r"\bcancel(led)?\b", r"\binstalment", r"\bgift card says\b", r"\bcredit note\b",
    r"\bbe credited\b", r"\bdebit\b", r"\bdeducted\b", r"\b(left|from) my account\b",
    r"\byou're taking\b", r"\bprice change\b",
)  # fmt: skip
TAKEN_WRONGLY = words(
    r"\btwice\b", r"\btwo times\b", r"\bsecond (time, \d|sum)", r"\bwas charged\b",
    r"\btwo (herons|plovers charged|identical payments|charges)\b", r"\bbilled\b",
    r"\b59 and 59\b", r"\btoo much\b", r"\b(rather than|instead of) \d", r"\bfull (price|rate)\b",
    r"\bnever (ordered|had)\b", r"\bstill taken\b", r"\byou're taking\b", r"\bdouble payment\b",
    r"\bshop page promised\b", r"\byou took \d",
)  # fmt: skip
DELIVERY = words(
    r"\bparcel", r"\bcourier\b(?! rider)", r"\bcarrier\b", r"\btracking\b", r"\bdeliver(y|ed)\b",
    r"\bdepot", r"\bcarton", r"\bshipp?(ed)?\b(?! to the faroe)", r"\bpackage\b", r"\breceived\b",
    r"\barrived?\b(?!, sang| overnight)", r"\bwarehouse\b", r"\bcustoms\b", r"\bbox came\b",
    r"\bcame (opened|without)\b", r"\bwhat came is\b", r"\bnot here\b", r"\bwrong house\b",
    r"\bsent me one\b", r"\bin preparation\b", r"'delayed'", r"'packing'", r"'sorted'",
    r"\bpostponed\b", r"\bin transit\b", r"\bon a van\b", r"\bmissing in the\b",
    r"\blost somewhere\b",
    r"\bpromised for\b", r"\bsupposed to come\b", r"\bhas it been sent\b", r"\bwho signed for\b",
    r"\breturned to sender\b", r"\bdriver\b(?!, s)", r"\bthrew my order\b", r"\bbefore sunday\b",
    r"\bhas to be here\b", r"\bby post\b",
)  # fmt: skip
MUST_ARRIVE = words(
    r"(?<!to come )(?<!ordered )(?<!again )\b(on|by|before|this|next|starts|begins|is) "
    r"(mon|tues|wednes|thurs|fri|satur|sun)day\b",
    r"\bby (14 december|the 30th)\b", r"\btomorrow\b", r"\bon the (12th|21st)\b", r"\bon 1 june\b",
    r"\bthis weekend\b",
)  # fmt: skip
SOFTWARE = words(
    r"\bbluetooth\b", r"\bwi-?fi\b", r"\bnetwork\b", r"\bfirmware\b", r"\bupdat(e|ed|ing)\b",
    r"\bnew version\b", r"\b(the|no|aviary) app\b(?! is)", r"\bpairs? (with|up|in)\b",
    r"\bconnect(s|ed|ing|ion)?\b(?! at all)", r"\blog(ged|s)? (in|out)\b", r"\blogin\b",
    r"\bstream", r"\bsync\b", r"\bbuffer\b", r"\bdownloads\b", r"\bpass search\b",
    r"\bmesh routers\b", r"\baviary (widget|freezes|says)\b",
)  # fmt: skip
UPDATE = words(r"\bupdat(e|ed|ing)\b", r"\b(latest|new) version\b", r"\bnew firmware\b")
DEAD = words(
    r"\bdead\b", r"\bdied\b", r"\blifeless\b", r"\bno (sign of|reaction|life)\b",
    r"(n't|\bwont|\bnot|\bnever|\brefused to) (power|turn|switch|start)s?\b(?! (red|up the))",
    r"\bneither\b.*\bpowers on\b", r": nothing\. doesn't spin\b",
)  # fmt: skip
FAULT = words(
    r"\bquieter\b", r"\bsnapped\b", r"\brattl", r"\bbattery (of|indicator)\b", r"\bwhistles\b",
    r"\bpauses my\b", r"\bpicks up nothing\b", r"\bonly charges\b", r"\bhas split\b", r"\bcrackl",
    r"\bthump", r"\bjumps\b", r"\bcracked\b", r"\bonly in the left\b", r"\bbroken\b(?!, I)",
    r"\bunder water\b", r"\bbuzzes\b", r"\btore\b", r"\bstuck\b", r"\bscratch",
    r"\bblinks orange\b",
    r"\bonly one of\b", r"\bripped\b", r"\bhums?\b", r"\bis gone\b", r"\bupper half\b",
    r"\bsilent\b",
    r"\bworks only\b", r"\bonly works\b", r"\bcuts out\b", r"\bstripped\b", r"\bhalf as loud\b",
    r"\bpeeling\b", r"\bhiss\b", r"\bwobble", r"\bdistorts\b", r"\btoo fast\b", r"\bdoesnt lift\b",
    r"\bdisappears\b", r"\bis bent\b", r"\brumble\b", r"\bcome loose\b", r"\bslips\b",
    r"\bclicks when\b",
)  # fmt: skip
ORDINAL = "(third|fourth|fifth|sixth|seventh)"
NUMBER = "(three|four|five|six)"
THIRD_CONTACT = words(
    ORDINAL + r" (message|mail|e-mail|ticket|report|contact|enquiry|time|attempt)\b",
    NUMBER + r" (contacts|tickets|separate messages|earlier occasions)\b",
    r"\b(reported this|contacted you|written|asked) " + NUMBER + r" times\b",
    r"\bcontact number four\b",
    r"\bcalled twice and e-mailed twice\b",
)


def triage(text: str) -> dict[str, object]:
    """The answer that RULES.md asks for; the first rule that fits decides."""
    if SAFETY.search(text):
        queue, priority = "shield", "P1"
    elif LEGAL.search(text):
        queue, priority = "shield", "P2"
    elif MONEY.search(text):
        queue, priority = "ledger", "P2" if TAKEN_WRONGLY.search(text) else "P3"
    elif DELIVERY.search(text):
        queue, priority = "dock", "P2" if MUST_ARRIVE.search(text) else "P3"
    elif SOFTWARE.search(text):
        queue, priority = "signal", "P2" if UPDATE.search(text) else "P3"
    elif DEAD.search(text):
        queue, priority = "bench", "P2"
    elif FAULT.search(text):
        queue, priority = "bench", "P3"
    else:
        queue, priority = "counter", "P4"
    named = [code for code, name in NAMES.items() if name.search(text)]
    assert len(named) <= 1, text
    return {
        "queue": queue,
        "priority": priority,
        "product": named[0] if named else "none",
        "escalate": queue == "shield" or bool(THIRD_CONTACT.search(text)),
    }


# ---------------------------------------------------------------------------- the data


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts(rows) -> dict[str, str]:
    return {row["id"]: row["messages"][1]["content"] for row in rows}


@pytest.fixture(scope="module")
def answers(rows) -> dict[str, str]:
    return {row["id"]: row["messages"][2]["content"] for row in rows}


@pytest.fixture(scope="module")
def clean(texts) -> dict[str, str]:
    return {key: text for key, text in texts.items() if key not in PLANTED}


def queue_of(answer: str) -> str:
    try:
        return json.loads(answer)["queue"]
    except ValueError:
        return ""


def test_file_is_tidy_utf8_jsonl():
    raw = TICKETS.read_bytes()
    assert raw.endswith(b"\n") and not raw.endswith(b"\n\n")
    assert b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf")
    lines = raw.decode("utf-8").split("\n")[:-1]
    for line in lines:
        assert line == json.dumps(json.loads(line), ensure_ascii=False)


def test_every_row_is_one_exchange(rows):
    assert len(SYSTEM.split()) <= 12
    for row in rows:
        assert list(row) == ["id", "messages"]
        assert [list(m) for m in row["messages"]] == [["role", "content"]] * 3
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == SYSTEM
        text = row["messages"][1]["content"]
        assert text == " ".join(text.split())
    assert [row["id"] for row in rows] == [f"T-{i:04d}" for i in range(1, len(rows) + 1)]


def test_answers_are_compact_and_in_key_order(answers):
    for key, answer in answers.items():
        if key in {EMPTY_ANSWER, BROKEN_ANSWER}:
            continue
        value = json.loads(answer)
        assert list(value) == KEYS, key
        assert answer == json.dumps(value, separators=(",", ":")), key
        assert value["queue"] in QUEUES
        assert value["priority"] in {"P1", "P2", "P3", "P4"}
        assert value["product"] in {*NAMES, "none"}
        assert isinstance(value["escalate"], bool)


def test_counts(rows, clean):
    assert len(rows) == 451
    assert len(clean) == len(set(clean.values())) == 402
    assert len(PLANTED) == 49
    assert PLANTED.issubset(row["id"] for row in rows)


def test_rows_obey_the_rules(texts, answers):
    unchecked = set(CONTRADICTIONS) | {EMPTY_ANSWER, BROKEN_ANSWER}
    wrong = {
        key: (triage(texts[key]), answers[key], texts[key])
        for key in texts
        if key not in unchecked and triage(texts[key]) != json.loads(answers[key])
    }
    assert not wrong


def test_queue_decides_the_priority_range(clean, answers):
    allowed = {
        "shield": {"P1", "P2"}, "ledger": {"P2", "P3"}, "dock": {"P2", "P3"},
        "signal": {"P2", "P3"}, "bench": {"P2", "P3"}, "counter": {"P4"},
    }  # fmt: skip
    for key in clean:
        value = json.loads(answers[key])
        assert value["priority"] in allowed[value["queue"]]


def test_classes_are_balanced(clean, answers):
    values = [json.loads(answers[key]) for key in clean]
    for field, low, high, size in (
        ("queue", 0.08, 0.25, 6), ("product", 0.05, 0.20, 9), ("priority", 0.05, 0.50, 4),
    ):  # fmt: skip
        share = Counter(value[field] for value in values)
        assert len(share) == size
        for name, count in share.items():
            assert low <= count / len(values) <= high, (field, name, count)
    assert 0.15 <= mean(value["escalate"] for value in values) <= 0.30
    # Escalation is not simply another word for the shield queue.
    assert sum(value["escalate"] and value["queue"] != "shield" for value in values) >= 25
    # Both priorities of a queue are worth learning.
    pairs = Counter((value["queue"], value["priority"]) for value in values)
    assert len(pairs) == 11 and min(pairs.values()) >= 20


def test_products_do_not_give_the_queue_away(clean, answers):
    seen = Counter()
    for key in clean:
        value = json.loads(answers[key])
        seen[value["product"], value["queue"]] += 1
    for code in {*NAMES, "none"}:
        counts = [seen[code, queue] for queue in QUEUES]
        assert sum(count > 0 for count in counts) >= 4, code
        assert max(counts) <= 0.5 * sum(counts), code


def test_order_is_mixed(rows, answers):
    size = len(rows) // 4
    for start in range(0, 4 * size, size):
        part = [row["id"] for row in rows[start : start + size]]
        queues = Counter(queue_of(answers[key]) for key in part)
        assert all(queues[queue] >= 0.08 * size for queue in QUEUES)
        assert len(PLANTED.intersection(part)) >= 6


# ------------------------------------------------------------------- what was planted


def test_duplicates(texts, answers):
    assert len(DUPLICATES) == 12
    for copy, original in DUPLICATES.items():
        assert original not in PLANTED
        assert texts[copy] == texts[original] and answers[copy] == answers[original]


def test_near_duplicates(texts, answers):
    assert len(NEAR_DUPLICATES) == 6
    for copy, original in NEAR_DUPLICATES.items():
        assert original not in PLANTED
        assert texts[copy] != texts[original] and answers[copy] == answers[original]
        assert SequenceMatcher(None, texts[copy], texts[original]).ratio() > 0.85


def test_contradictions(texts, answers):
    assert len(CONTRADICTIONS) == 4
    for copy, original in CONTRADICTIONS.items():
        assert original not in PLANTED
        assert texts[copy] == texts[original]
        assert json.loads(answers[copy]) != json.loads(answers[original])
        assert json.loads(answers[original]) == triage(texts[original])


def test_equal_tickets_are_all_accounted_for(texts):
    groups: dict[str, set[str]] = {}
    for key, text in texts.items():
        groups.setdefault(text.casefold(), set()).add(key)
    found = {frozenset(group) for group in groups.values() if len(group) > 1}
    assert found == {frozenset(pair) for pair in (DUPLICATES | CONTRADICTIONS).items()}


def test_the_three_broken_rows(texts, answers):
    assert [key for key, answer in answers.items() if not answer.strip()] == [EMPTY_ANSWER]
    with pytest.raises(ValueError):
        json.loads(answers[BROKEN_ANSWER])
    assert answers[BROKEN_ANSWER].startswith('{"queue":')
    signs = re.compile("â€|Ã.|Â|\ufffd|[\x00-\x1f\x7f-\x9f]")
    assert [key for key, text in texts.items() if signs.search(text)] == [MOJIBAKE]
    assert "donâ€™t" in texts[MOJIBAKE]


EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w+")
PHONE = re.compile(r"\+\d[\d -]{7,}\d|\b0\d{4} \d{6}\b")
ADDRESS = re.compile(r"[A-Z]\w+ [A-Z]\w+, \d+ (?:[A-Z][\w']+ )+(?:Lane|Row|Road|Street|Avenue)\b")
CARD = re.compile(r"\b\d{4} \d{4} \d{4} \d{4}\b(?! \d)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: [A-Z0-9]{4})+ [A-Z0-9]{1,4}\b")


def test_personal_data_only_where_planted(texts):
    kinds = {"email": EMAIL, "phone": PHONE, "address": ADDRESS, "card": CARD, "iban": IBAN}
    found = {name: {k for k, t in texts.items() if p.search(t)} for name, p in kinds.items()}
    assert {name: len(keys) for name, keys in found.items()} == {
        "email": 8, "phone": 7, "address": 7, "card": 1, "iban": 1,
    }  # fmt: skip
    assert set().union(*found.values()) == PERSONAL and len(PERSONAL) == 24
    for key in set(texts) - PERSONAL:
        assert "@" not in texts[key] and "://" not in texts[key]
        assert not re.search(r"\d{5}|\d[\d -]{6,}\d", texts[key]), texts[key]


def test_personal_data_is_harmless(texts):
    everything = "\n".join(texts.values())
    for address in EMAIL.findall(everything):
        assert address.endswith(("@example.com", "@example.org"))
    for number in PHONE.findall(everything):
        assert re.fullmatch(r"\+1-(?:202-)?555-01\d\d|01632 960\d{3}", number)
    (card,) = CARD.findall(everything)
    digits = [int(digit) for digit in card.replace(" ", "")][::-1]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    assert total % 10 == 0
    (iban,) = IBAN.findall(everything)
    plain = iban.replace(" ", "")
    assert int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


# ---------------------------------------------------------------------------- variety


def test_lengths(texts):
    lengths = [len(text.split()) for text in texts.values()]
    assert min(lengths) >= 15 and max(lengths) <= 65
    assert mean(20 <= n <= 40 for n in lengths) > 0.6
    assert sum(n > 40 for n in lengths) >= 12 and sum(n < 20 for n in lengths) >= 15


def test_tickets_are_not_one_template(clean):
    bags = {key: frozenset(re.findall(r"\w+", text.lower())) for key, text in clean.items()}
    for (a, left), (b, right) in combinations(bags.items(), 2):
        assert len(left & right) / len(left | right) < 0.45, (clean[a], clean[b])
    openings = Counter(" ".join(text.lower().split()[:3]) for text in clean.values())
    assert len(openings) > 0.9 * len(clean) and max(openings.values()) <= 6
    runs = Counter()
    for text in clean.values():
        parts = re.findall(r"\w+", text.lower())
        runs.update({tuple(parts[i : i + 5]) for i in range(len(parts) - 4)})
    assert runs.most_common(1)[0][1] <= 4
    assert len(set().union(*bags.values())) > 2200


def test_voices(clean):
    total = len(clean)
    lower = sum(text == text.lower() for text in clean.values())
    questions = sum("?" in text for text in clean.values())
    greetings = sum(bool(re.match(r"(hi|hello|dear|good|greetings)\b", t, re.I)) for t in clean.values())
    shouting = sum(bool(re.search(r"\b[A-Z]{4,}\b", t)) for t in clean.values())
    assert 0.10 < lower / total < 0.40
    assert 0.20 < questions / total < 0.60
    assert greetings >= 12 and shouting >= 3


# -------------------------------------------------------------------------- RULES.md


def test_rules_file_names_every_label_and_count():
    rules = RULES.read_text(encoding="utf-8")
    for label in QUEUES | set(NAMES):
        assert f"`{label}`" in rules
    for count in ("451 rows", "402 clean"):
        assert count in rules
    table = dict(re.findall(r"^\| (\w+)[^|]*\| (\d+) +\|$", rules.split("## Planted")[1], re.M))
    assert table == {
        "Exact": "12", "Near": "6", "Contradictions": "4", "Tickets": "24",
        "Empty": "1", "Answer": "1", "Leftover": "1",
    }  # fmt: skip
