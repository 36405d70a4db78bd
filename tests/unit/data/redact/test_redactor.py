"""Rows in, rows without personal data out: places, actions, pseudonyms, decisions, and nothing repeated."""

import ipaddress
import json
import pickle
import re
import socket
from dataclasses import asdict

import pytest

from tests.unit.data.redact.made import planted
from tunewright.core.config import build
from tunewright.core.errors import ConfigError
from tunewright.data.redact.payment import iban_remainder, luhn
from tunewright.data.redact.redactor import Redactor
from tunewright.data.redact.settings import RedactSettings

KEY = b"k" * 32
CHAT = {
    "messages": [
        {"role": "user", "content": "My name is Maria Lopez, call (212) 555-0199."},
        {"role": "assistant", "content": "Thank you, Maria! Mrs. Lopez, we call you."},
    ]
}


def everything(key):
    return True


def redactor(**settings):
    return Redactor(build(RedactSettings, settings, "redact"), KEY)


def text_of(text, **settings):
    return redactor(**settings).row({"text": text}, everything).row["text"]


def test_masks_stand_where_the_values_stood():
    done = redactor().row(CHAT, everything)
    assert [m["content"] for m in done.row["messages"]] == [
        "My name is [PERSON], call [PHONE].",
        "Thank you, [PERSON]! Mrs. [PERSON], we call you.",
    ]
    fields = [(r.field, r.type) for r in done.redactions]
    assert fields == [
        ("messages[0].content", "PERSON"),
        ("messages[0].content", "PHONE"),
        ("messages[1].content", "PERSON"),
        ("messages[1].content", "PERSON"),
    ]
    first = CHAT["messages"][0]["content"]
    spans = [first[r.start : r.end] for r in done.redactions[:2]]
    assert spans == ["Maria Lopez", "(212) 555-0199"]
    assert CHAT["messages"][0]["content"].startswith("My name is Maria")  # the row given is not changed


def test_offsets_are_those_of_the_original_string():
    text = "&lt;b&gt; ann&#64;firm.org \u200b and ＢＯＢ@firm.org"
    done = redactor().row({"text": text}, everything)
    assert [text[r.start : r.end] for r in done.redactions] == ["ann&#64;firm.org", "ＢＯＢ@firm.org"]
    assert done.row["text"] == "&lt;b&gt; [EMAIL] \u200b and [EMAIL]"


def test_a_json_string_inside_a_string_stays_json():
    arguments = json.dumps({"to": "Hello\nann@firm.org", "card": '"4111111111111111"'})
    done = redactor().row({"tool_calls": [{"function": {"arguments": arguments}}]}, everything)
    made = done.row["tool_calls"][0]["function"]["arguments"]
    assert json.loads(made) == {"to": "Hello\n[EMAIL]", "card": '"[CREDIT_CARD]"'}


def test_only_wanted_keys_are_looked_at():
    row = {"a": "ann@firm.org", "b": {"c": ["bob@firm.org"]}}
    done = redactor().row(row, lambda key: key == "b")
    assert done.row == {"a": "ann@firm.org", "b": {"c": ["[EMAIL]"]}}
    assert done.redactions[0].field == "b.c[0]"


def test_long_integers_and_what_their_keys_say():
    row = {
        "card": 4111111111111111,
        "count": 4111111111111112,
        "phone": "467 3395",
        "note": "467 3395",
        "n": 7,
    }
    done = redactor().row(row, everything).row
    assert done == {
        "card": "[CREDIT_CARD]",
        "count": 4111111111111112,
        "phone": "[PHONE]",
        "note": "467 3395",
        "n": 7,
    }
    kept = redactor(action="pseudonym").row(row, everything).row["card"]
    assert isinstance(kept, int) and kept != row["card"] and luhn(str(kept))


def test_drop_keep_off_and_actions_by_type():
    row = {"text": "ann@firm.org, 276-53-7303"}
    done = redactor(types={"US_SSN": "drop"}).row(row, everything)
    assert done.drop_reason == "US_SSN in text"
    done = redactor(types={"US_SSN": "keep", "EMAIL": "off"}).row(row, everything)
    assert done.row == row and done.drop_reason is None
    assert [(r.type, r.action) for r in done.redactions] == [("US_SSN", "keep")]
    assert redactor(action="off").row(row, everything).redactions == []


def test_allowed_values_stay():
    assert (
        text_of("Mail Help@firm.org or ann@firm.org", allow=["help@firm.org"])
        == "Mail Help@firm.org or [EMAIL]"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": {"EMALE": "mask"}}, "Did you mean 'EMAIL'"),
        ({"regions": ["Germany"]}, "country code of two capital letters"),
        ({"threshold": 0.3}, "threshold"),
        ({"action": "hide"}, "action"),
    ],
)
def test_wrong_settings_say_what_is_right(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(RedactSettings, settings, "redact")


def test_pseudonyms_keep_form_and_are_the_same_everywhere():
    text = (
        "Card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00, ssn 276-53-7303, ip 81.2.69.160 and "
        "2a02:8071:31c1:9d00:c1c2:8e0b:4d1f:7a3e, mac 3c:22:fb:9a:01:02, mail ann@firm.org, tel +49 30 1234 5678"  # noqa: E501
    )
    once, again = (text_of(text, action="pseudonym") for _ in range(2))
    assert once == again
    card = re.search(r"Card ((?:\d{4} ){3}\d{4})", once)[1]
    assert luhn(card.replace(" ", "")) and card.startswith("4000 00")
    iban = re.search(r"IBAN (DE\d\d(?: \d{4}){4} \d\d)", once)[1]
    assert iban_remainder(iban.replace(" ", "")) == 1
    assert re.search(r"ssn 9\d\d-[0-4]\d-\d{4}", once)
    v4, v6 = re.search(r"ip (\S+) and (\S+),", once).groups()
    nets = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    assert any(ipaddress.ip_address(v4) in n for n in nets)
    assert ipaddress.ip_address(v6) in ipaddress.ip_network("2001:db8::/32")
    assert re.search(r"mac 02(:[0-9a-f]{2}){5}", once)
    assert re.search(r"mail \w+\.\w+@example\.com", once)
    assert re.search(r"tel \+49 00 \d{4} \d{4}$", once)
    for part in ("1111 1111", "3704", "276-53", "81.2.69", "8071", "22:fb", "firm", "1234"):
        assert part not in once


def test_a_person_keeps_one_pseudonym_and_parts_of_the_name_follow():
    done = redactor(action="pseudonym").row(CHAT, everything).row["messages"]
    given, family = re.search(r"My name is (\w+) (\w+),", done[0]["content"]).groups()
    assert done[1]["content"] == f"Thank you, {given}! Mrs. {family}, we call you."
    other = text_of("I was seen by Maria Lopez.", action="pseudonym")
    assert other == f"I was seen by {given} {family}."
    assert (
        Redactor(RedactSettings(action="pseudonym"), b"x" * 32).row(CHAT, everything).row["messages"] != done
    )


def test_dates_move_by_one_distance_and_keep_their_form():
    first = text_of("DOB: 1980-03-10", action="pseudonym").split()[-1]
    second = text_of("born on 11 March 1980", action="pseudonym")
    year, month, day = map(int, first.split("-"))
    assert re.fullmatch(r"born on \d{1,2} [A-Z][a-z]+ 19\d\d", second) and (year, month, day) < (1980, 3, 10)
    assert int(second.split()[2]) == day + 1 or day >= 28


def test_pseudonyms_of_many_people_hardly_ever_meet():
    made = redactor(action="pseudonym")
    emails = {made.row({"t": f"u{i}@firm.org"}, everything).row["t"] for i in range(3000)}
    assert len(emails) == 3000


def test_secrets_are_masked_where_pseudonyms_are_asked_for():
    done = redactor(action="pseudonym").row({"t": "sk-proj-aB3dE6gH9jK2mN5pQ8rS1tU4"}, everything)
    assert done.row["t"] == "[API_KEY]" and done.redactions[0].action == "mask"


def test_uncertain_findings_become_questions_and_decisions_are_obeyed():
    row = {"text": "The order number is 4532015112830366."}
    asked = redactor().row(row, everything)
    assert asked.row == row and asked.redactions == []
    [question] = asked.questions
    other = redactor().row({"x": "see order 4532-0151-1283-0366 of"}, everything).questions[0]
    assert question.id == other.id and re.fullmatch("[0-9a-f]{16}", question.id)
    for action, text in (("mask", "The order number is [CREDIT_CARD]."), ("keep", row["text"])):
        done = Redactor(RedactSettings(), KEY, {question.id: action}).row(row, everything)
        assert done.questions == [] and done.row["text"] == text
        assert [r.action for r in done.redactions] == [action]
    assert Redactor(RedactSettings(), KEY, {question.id: "drop"}).row(row, everything).drop_reason
    assert redactor(uncertain="act").row(row, everything).row["text"] == "The order number is [CREDIT_CARD]."
    ignored = redactor(uncertain="ignore").row(row, everything)
    assert ignored.questions == [] and ignored.row == row


def test_ids_and_groups_that_hold_personal_data_become_digests():
    made = redactor()
    assert made.safe_name("row-17") == "row-17"
    name = made.safe_name("ann@firm.org")
    assert re.fullmatch("id-[0-9a-f]{16}", name) and name == made.safe_name("ann@firm.org")


def test_no_output_repeats_a_value():
    rows = [{"id": str(i), "text": text} for i, (_, text, _) in enumerate(planted(7, 15))]
    values = [value for _, _, value in planted(7, 15)]
    for settings in ({"action": "mask"}, {"action": "pseudonym"}):
        made = redactor(**settings)
        written = []
        for done in made.rows(rows, everything):
            written += [json.dumps(done.row), *(json.dumps(r.to_dict()) for r in done.redactions)]
            written += [json.dumps(q.to_dict("f", 1)) for q in done.questions] + [str(done.drop_reason)]
        whole = "\n".join([*written, repr(made)])
        assert [v for v in values if v in whole] == []
        assert KEY.decode() not in repr(made)


def test_rows_in_any_order_and_process_give_the_same():
    rows = [{"text": text} for _, text, _ in planted(3, 4)]
    made = redactor(action="pseudonym")
    copy = pickle.loads(pickle.dumps(made))
    one_by_one = [asdict(copy.row(row, everything)) for row in reversed(rows)]
    assert [asdict(d) for d in made.rows(rows, everything)] == one_by_one[::-1]
    again = made.rows([d.row for d in made.rows(rows, everything)], everything)
    assert all(isinstance(d.row["text"], str) for d in again)


def test_nothing_is_asked_of_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    rows = [{"text": text} for _, text, _ in planted(2, 2)] + [{"text": "I met Carla Bruno in Oslo."}]
    assert len(redactor(names="full").rows(rows, everything)) == len(rows)
