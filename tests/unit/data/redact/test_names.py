"""Names: many wordings and languages are found; diseases, headings and firms that are called so are not."""

import pytest

from tunewright.core.errors import ConfigError
from tunewright.data.redact import name_model
from tunewright.data.redact.redactor import Redactor
from tunewright.data.redact.settings import RedactSettings

KEY = b"k" * 32


def masked(text, names="cues", **settings):
    made = Redactor(RedactSettings(names=names, **settings), KEY)
    return made.row({"text": text}, lambda key: True).row["text"]


@pytest.mark.parametrize(
    "text",
    [
        "Good morning, my name is {Oluwaseun Adeyemi}.",
        "Ich heiße {Jürgen Vogel} und wohne hier.",
        "Je m'appelle {Étienne Marchand}.",
        "Me llamo {Ximena Ortega}, gracias.",
        "Dr. {Kowalczyk} will see you now.",
        "Please ask Mrs. {Thistlewood} about it.",
        "Dear {Priya},\nthe parcel came.",
        "She works with {Haruto Nakamura} on Mondays.",
        "my name is {olga petrova} and i lost my card",
        "Patient: {Wilhelmina Brandt}",
        "The report by {Søren Lindqvist} is late.",
        "I spoke to {Fatima Al-Sayed} yesterday.",
    ],
)
def test_people_are_found_by_words_and_shape(text):
    value = text[text.index("{") + 1 : text.index("}")]
    plain = text.replace("{", "").replace("}", "")
    assert masked(plain) == plain.replace(value, "[PERSON]")


@pytest.mark.parametrize(
    "text",
    [
        "What is (are) Kidney Failure ?",
        "Hodgkin lymphoma and Crohn's disease differ from Graves disease.",
        "The Johns Hopkins Hospital is in Baltimore.",
        "Capitalized Words like Wisdom and Discipline are no names.",
        "May is a lovely month. Will it rain?",
        "Zollinger-Ellison Syndrome and Merkel Cell Carcinoma are rare.",
        "ELISA and PCR tests were done.",
        "Take Vitamin D. It helps.",
    ],
)
@pytest.mark.parametrize("names", ["cues", "full"])
def test_what_is_called_after_people_stays(text, names):
    assert masked(text, names) == text


def test_off_looks_for_nobody_and_firms_only_when_named():
    text = "My name is Anna Berg of Northwind Trading Ltd."
    assert masked(text, "off") == text
    assert masked(text) == "My name is [PERSON] of Northwind Trading Ltd."
    assert masked(text, types={"ORGANIZATION": "mask"}) == "My name is [PERSON] of [ORGANIZATION]."


def test_the_model_adds_what_words_alone_leave_open():
    text = "Later Bekbolat Musliyevich walked home with Darijo Curin."
    assert masked(text) == text
    assert "[PERSON]" in masked(text, "full")


def test_an_initial_and_a_family_name_speak_for_a_person():
    assert masked("Then Quorra B. Zimmermann sang.") == "Then [PERSON] sang."
    assert masked("Then Quorra B. Umbrella sang.") == "Then Quorra B. Umbrella sang."


def test_a_name_in_an_address_stays_a_part_of_it():
    assert masked("I live at 14 Melissa Grant Road.", "full") == "I live at [STREET_ADDRESS]."


def test_another_model_is_refused(monkeypatch, tmp_path):
    (tmp_path / "config.cfg").write_text("x")
    monkeypatch.setattr(name_model, "model_folder", lambda: tmp_path)
    name_model._pipeline.cache_clear()
    try:
        with pytest.raises(ConfigError, match="not the one this program was made with"):
            list(name_model.entities(["a"]))
    finally:
        name_model._pipeline.cache_clear()


def test_a_missing_model_names_the_remedy(monkeypatch):
    monkeypatch.setattr(name_model, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tunewright\[pii\]"):
        name_model.model_folder()
