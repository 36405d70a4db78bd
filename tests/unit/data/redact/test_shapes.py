"""What has a shape is found in other words than those of any data set; what looks alike is left alone."""

import time

import pytest

from tests.unit.data.redact.made import CLEAN, KINDS, planted
from tunewright.data.redact.findings import without_overlaps
from tunewright.data.redact.folding import fold
from tunewright.data.redact.structured import structured

KEY = b"k" * 32


def found(text, regions=("US", "GB")):
    """(type, value as it stands in the text, score) of what is found."""
    folded = fold(text)
    hits = without_overlaps(structured(folded.text, regions, lambda kind: True))
    places = [(f, *folded.original(f.start, f.end)) for f in hits]
    return [(f.type, text[start:end], f.score) for f, start, end in places]


def sure(text):
    return [(kind, value) for kind, value, score in found(text) if score >= 0.7]


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_sentences_give_their_value_back(kind):
    rows = [row for seed in range(5) for row in planted(seed) if row[0] == kind]
    missed = [
        text
        for kind, text, value in rows
        if not any(k == kind and value in found_value for k, found_value in sure(text))
    ]
    assert len(rows) == 200
    assert len(missed) <= 2, missed[:5]


@pytest.mark.parametrize("text", CLEAN)
def test_look_alikes_are_left_alone(text):
    assert sure(text) == []


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("j\u200bohn.d@exam\u200bple.com!", "EMAIL", "j\u200bohn.d@exam\u200bple.com"),
        ("card ４１１１ １１１１ １１１１ １１１１", "CREDIT_CARD", "４１１１ １１１１ １１１１ １１１１"),
        ("tel&#58; (212)&nbsp;555&#45;0199.", "PHONE", "(212)&nbsp;555&#45;0199"),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "IBAN", "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000"),  # noqa: E501
        ("ssn ٢٧٦-٥٣-٧٣٠٣", "US_SSN", "٢٧٦-٥٣-٧٣٠٣"),
        ("SSN 276‑53–7303", "US_SSN", "276‑53–7303"),
        ('{"to": "x\\nbob@x.com"}', "EMAIL", "bob@x.com"),
        ("ann [at] example [dot] org", "EMAIL", "ann [at] example [dot] org"),
        ("my password is Tr0ub4dor&3.", "PASSWORD", "Tr0ub4dor&3"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY", "API_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY"),  # noqa: E501
        ("postgres://bob:s3cr3t@db:5432/x", "URL_CREDENTIALS", "bob:s3cr3t"),
        ("ether 3c:22:fb:9a:01:02 up", "MAC_ADDRESS", "3c:22:fb:9a:01:02"),
        ("codice fiscale RSSMRA85T10A562S", "NATIONAL_ID", "RSSMRA85T10A562S"),
        ("NHS number 943 476 5919", "NATIONAL_ID", "943 476 5919"),
        ("CPF 390.533.447-05", "NATIONAL_ID", "390.533.447-05"),
        ("my passport number is 533380006", "PASSPORT", "533380006"),
        ("driver's license: D6101-40706-60905", "DRIVER_LICENSE", "D6101-40706-60905"),
        ("Token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "API_KEY",
         "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
    ],
)  # fmt: skip
def test_values_are_seen_through_disguise_and_in_other_countries(text, kind, value):
    assert (kind, value) in sure(text)


def test_a_private_key_is_found_whole_and_cut_off():
    head, body = "-----BEGIN RSA PRIVATE KEY-----", "MIIEpAIBAAKCAQEA7\nabc+/="
    whole = f"{head}\n{body}\n-----END RSA PRIVATE KEY-----"
    assert sure(f"see {whole} there") == [("PRIVATE_KEY", whole)]
    assert sure(f"see {head}\n{body}") == [("PRIVATE_KEY", f"{head}\n{body}")]


def test_the_words_around_a_number_decide():
    assert found("The order number is 4532015112830366")[0][2] < 0.7
    assert sure("Charge my card 4532015112830366") == [("CREDIT_CARD", "4532015112830366")]
    assert sure("Charge my card 4532015112830367") == []  # the checksum is wrong
    assert sure("Refund to DE89370400440532013001") == []
    assert sure("call 943 476 5919 for the NHS") != [("NATIONAL_ID", "943 476 5918")]
    assert sure("firmware 10.20.30.40") == [] and sure("server 10.20.30.40") == [
        ("IP_ADDRESS", "10.20.30.40")
    ]


def test_a_plain_text_is_not_folded_and_a_folded_one_leads_back():
    assert fold("plain").starts is None
    assert fold("naïve – 5 €").text == "naïve - 5 €"
    assert fold("\ud800 \\ud800").text == "\ufffd \ufffd"
    folded = fold("a&amp;b\u200bc")
    assert folded.text == "a&bc"
    assert folded.original(1, 2) == (1, 6)
    assert folded.original(2, 4) == (6, 9)


@pytest.mark.parametrize(
    "piece",
    ["1-", "a@", "A ", "1 ", "1", "a", "1 A ", ":", "a:", "1.", "key=", "a://", "(1)", "born ", "1 Oak ", "AB12 ",  # noqa: E501
     "-----BEGIN PRIVATE KEY-----", "eyJ", "sk-a", "a[at]", "&#", "password is ", "\\", "é1", "+1 (",
     "account 12345678 ", "1A1zP1eP5QGefi2DMPTfTL5SLmv7Div ", "AB1234567890-"],
)  # fmt: skip
def test_a_megabyte_of_anything_takes_seconds_not_hours(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    structured(fold(text).text, ("US", "GB"), lambda kind: True)
    assert time.process_time() - start < 15
