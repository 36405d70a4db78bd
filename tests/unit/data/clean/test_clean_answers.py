"""Refusals, placeholders, copies, other subjects, half texts: each with what comes near and is fine."""

import pytest

from tunewright.data.clean.answers import (
    breaks_off,
    copies,
    is_offered,
    is_placeholder,
    shares_nothing,
)
from tunewright.data.clean.refusals import is_given_text, refuses


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that request.",
        "I'm sorry, but as an AI language model I cannot answer that.",
        "I’m sorry, I can’t assist with that.",
        "Sorry, but I can't help with that.",
        "I'm unable to help with that.",
        "As an AI, I am unable to provide medical advice.",
        "I am not able to comply with this request.",
        "I must decline to answer.",
        "Unfortunately, I can't provide that information.",
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Leider kann ich Ihnen dabei nicht weiterhelfen.",
        "Es tut mir leid, ich kann diese Frage nicht beantworten.",
        "Als KI-Sprachmodell kann ich dazu nichts sagen, nicht einmal das.",
        "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
        "En tant qu'IA, je ne peux pas répondre.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Como modelo de lenguaje, no puedo opinar.",
        "Mi dispiace, ma non posso aiutarti con questa richiesta.",
        "Desculpe, mas não posso ajudar com isso.",
        "Het spijt me, maar ik kan je daar niet mee helpen.",
        "Przykro mi, ale nie mogę w tym pomóc.",
    ],
)
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't help but admire the view.",
        "I can't help falling in love with you.",
        "No.",
        "I cannot recommend it enough.",
        "I'm sorry to hear that your card was stolen. Please call us at once.",
        "Sorry, we are closed on Sundays.",
        "I'm sorry, but I can't find your order; could you send its number?",
        "Unfortunately, the results were poor.",
        "Es tut mir leid, dass Ihr Paket zu spät kam.",
        "Leider regnet es heute.",
        "As an AI researcher, she wrote a lot.",
        "Je suis désolé d'apprendre cela.",
        "Lo siento mucho, tu pedido llegará mañana.",
        "I won't be there tomorrow.",
        "I can't answer for my brother, but I like it.",
        "I'm sorry, but I can't give medical advice. However, here is what the leaflet says: "
        "take one pill in the morning with a "
        "glass of water, wait for half an hour before you eat, and call a doctor if the rash comes back.",
        "I cannot help with that request." + " But a long answer follows." * 40,
    ],
)
def test_no_refusals(text):
    assert not refuses(text)


def test_a_refusal_may_be_the_text_that_was_given():
    assert is_given_text("Translate to German: I cannot help with that.")


@pytest.mark.parametrize("text", ["N/A", "n/a.", " None ", "TODO", "...", "-", "nan", "lorem ipsum"])
def test_placeholders(text):
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["Yes", "No", "B", "42", "0", "A", "None of them", "neutral", "Nano"])
def test_short_answers_are_no_placeholders(text):
    assert not is_placeholder(text)


def test_a_placeholder_can_be_offered():
    assert is_offered("Give the name, or answer N/A.", "n/a")
    assert not is_offered("Nonexistent things?", "none")


def test_copies():
    assert copies("What is the capital of France?", "what is the capital of France")
    assert not copies("What is the capital of France?", "The capital of France is Paris.")
    assert not copies("The bus leaves the station at 7:40.", "The bus leaves the station at 8:10.")
    assert not copies("item1 item2 item3 item4 item5", "item2 item3 item4 item5 item6")
    assert not copies("How are you today?", "How are you today?")  # a greeting returned
    assert not copies("Correct the grammar: he goes to school.", "Correct the grammar: he goes to school.")


def test_shares_nothing():
    question = "The kidney filters the blood and makes urine. " * 10 + "Summarise this."
    other = (
        "Football players train every morning before breakfast, "
        "while coaches prepare tactical drills nearby and watch."
    )
    assert shares_nothing(question, other)
    assert not shares_nothing(question, other + " They drink, then their kidney works.")
    assert not shares_nothing("Summarise this.", other)
    assert not shares_nothing(question, "Fine.")
    assert not shares_nothing(
        question,
        "Die Nieren säubern alles, können Harnstoffe ausscheiden, "
        "regeln Mineralien, schützen Körper, helfen täglich.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "The doctor will look at the results of all the tests and then decide on the",
        "You can eat apples, pears, plums, and many other kinds of fruit like these,",
        "The disease nephropathy hurts the kidney, and so it is known to be a nephro",
        "Here is the code that you asked for:\n```python\nx = 1",
    ],
)
def test_texts_that_break_off(text):
    assert breaks_off(text)


@pytest.mark.parametrize(
    "text",
    [
        "Yes",
        "B",
        "the",
        "- eating well\n- sleeping enough every night of the week\n- not smoking",
        "More on: Resources for Health Professionals and for people with the disease: Treatment",
        "It is done.",
        "Here is the code that you asked for:\n```python\nx = 1\n```",
        "It rained for days; then it stopped, and the sun came out again (see above)",
        "nephrologist or any other kind of doctor can tell you all about your own nephrologists",
    ],
)
def test_texts_that_end(text):
    assert not breaks_off(text)
