"""Numbers that Presidio's recognisers know: found by name or check digits."""

import subprocess
import sys

import pytest

from tunewright.core.errors import ConfigError
from tunewright.data.redact import library
from tunewright.data.redact.findings import without_overlaps
from tunewright.data.redact.folding import fold
from tunewright.data.redact.redactor import Redactor
from tunewright.data.redact.settings import RedactSettings
from tunewright.data.redact.structured import structured


def found(text):
    hits = without_overlaps(structured(fold(text).text, ("US", "GB"), lambda kind: True))
    return [(f.type, text[f.start : f.end]) for f in hits if f.score >= 0.7]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("The DEA of the prescriber is AB1234563.", "MEDICAL_LICENSE", "AB1234563"),
        ("NPI on the form: 1234567893", "MEDICAL_LICENSE", "1234567893"),
        ("The card says 1EG4-TE5-MK73 on it.", "NATIONAL_ID", "1EG4-TE5-MK73"),
        ("medicare card 2123 45670 1", "NATIONAL_ID", "2123 45670 1"),
        ("our ABN, 51 824 753 556, is new", "NATIONAL_ID", "51 824 753 556"),
        ("He showed MORGA657054SM9IJ at the desk.", "DRIVER_LICENSE", "MORGA657054SM9IJ"),
        ("send it to 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "CRYPTO", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        (
            "to bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "CRYPTO",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        ),
        ("Krankenversichertennummer A123456780", "NATIONAL_ID", "A123456780"),
        ("Rentenversicherungsnummer 15070649C103", "NATIONAL_ID", "15070649C103"),
        ("her NRIC, S1234567D, was copied", "NATIONAL_ID", "S1234567D"),
        ("my passport, from India, has number J8369854", "PASSPORT", "J8369854"),
        ("please refund account 12345678", "BANK_ACCOUNT", "12345678"),
        ("Steuernummer 181/815/08155", "NATIONAL_ID", "181/815/08155"),
        ("patente di guida U1B123456C", "DRIVER_LICENSE", "U1B123456C"),
    ],
)
def test_numbers_of_many_countries_and_trades_are_found(text, kind, value):
    assert found(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "Order AB1234563 was sent with 1234567893.",
        "The DEA seized AB1234564.",  # the check digit is wrong
        "NPI 1234567890 is invalid",
        "medicare card 2123 45671 1",
        "order 1EG4-TE5-MK73",
        "part S1234567D, batch A123456780",
        "my passport came with order number 925665416",
        "please see account order 12345678",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "md5 1BoatSLRHtKNngkdXEeobR76b53LETtpyZ",
        "We drove 123456 miles with one driver.",
        "He banks 12345678 reasons not to.",
        "x15070649C103y and MORGA657054SM9IJX",
    ],
)
def test_look_alikes_stay(text):
    assert found(text) == []


def test_each_kind_has_a_word_or_a_shape_and_each_word_a_kind():
    known = set()
    for kind, recogniser, words in library._recognisers():
        assert words is not None or (kind.alone and kind.checked), kind
        known |= {word.lower() for word in recogniser.context}
    assert known >= library.TELLING


def test_a_text_without_such_a_number_loads_nothing(monkeypatch):
    def refuse():
        raise AssertionError("the recognisers were loaded")

    monkeypatch.setattr(library, "_recognisers", refuse)
    for text in (
        "My passport and my account are lost.",
        "12345678 of them in 1999",
        "call +49 30 1234567 for an account",
    ):
        found(text)
    with pytest.raises(AssertionError, match="were loaded"):
        found("account 12345678")


def test_no_language_model_comes_with_it():
    code = (
        "import sys\nfrom tunewright.data.redact import library\nlibrary._recognisers()\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'stanza')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_told_and_not_passed_over(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == "presidio_analyzer" else object())
    monkeypatch.setattr(library, "missing_packages", library.missing_packages.__wrapped__)
    with pytest.raises(ConfigError, match=r"presidio_analyzer.*tunewright\[pii\]"):
        Redactor(RedactSettings(), b"k" * 32)
    Redactor(RedactSettings(action="off"), b"k" * 32)  # needs none of it
