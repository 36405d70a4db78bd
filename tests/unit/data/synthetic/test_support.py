"""What a passage supports, and what was added to it."""

import pytest

from tunewright.data.synthetic.support import fixed_parts, kinship, says_the_same, unsupported, words_of

PASSAGE = (
    "Goods may be returned to Fernhill within 30 days, if the seal is intact. Shipping costs of 4.50 euros"
    " are not refunded. Orders above 1,200 euros are shipped by Mr Okafor himself, in two parcels."
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How long can goods be returned?", "Goods can be returned within 30 days."),
        ("How long can customers send goods back?", "Customers can return goods for 30 days."),
        ("Are shipping costs refunded?", "No, shipping costs are not refunded."),
        ("What do shipments cost?", "Shipping costs 4.5 euros."),
        ("Who ships orders above 1200 euros?", "Mr Okafor ships them, in 2 parcels."),
        ("Who ships large orders?", "Okafor himself."),
        ("Within how many days?", "30"),
    ],
)
def test_supported(question, answer):
    assert unsupported(question, answer, PASSAGE) is None


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("How long?", "Goods may be returned within 14 days.", "1 number(s)"),
        ("How long after 60 days?", "Goods may be returned.", "1 number(s)"),
        ("Who ships orders?", "They are shipped by Mr Miller himself.", "1 name(s)"),
        ("Does Amazon return goods?", "Goods may be returned.", "1 name(s)"),
        ("How?", "Write an email to support and wait for the label.", "5 of 5 content words"),
        ("Is the seal intact?", "Yes.", "nothing that could be looked up"),
        ("Is the lid glued?", "The lid is glued.", "2 of 2 content words"),
    ],
)
def test_unsupported(question, answer, why):
    assert why in unsupported(question, answer, PASSAGE)


def test_a_denial_needs_one_in_the_passage():
    passage = "The warranty covers the battery."
    assert unsupported("Is the battery covered?", "The warranty covers it.", passage) is None
    said = unsupported("Is the battery covered?", "The warranty doesn't cover it.", passage)
    assert said == "the answer denies something, and the passage nothing"


def test_languages_without_spaces_are_compared_by_pairs_of_characters():
    passage = "保修期为两年，电池除外。"
    assert unsupported("保修多久？", "保修期为两年。", passage) is None
    assert "content words" in unsupported("保修多久？", "请联系我们的客服部门。", passage)


def test_words():
    found = words_of("In May, Anna's 3 parcels weren't sent. Two were.")
    assert found.numbers == {"3", "2"} and found.denies and found.names == {"anna"}
    assert found.content == ("anna", "parcel", "sent")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Reset [NAME] at https://a.b/c with `rm x`, 3 times.", True),
        ("With `rm x` reset [NAME] three times at https://a.b/c please.", True),
        ("Reset [NAME] at https://a.b/d with `rm x`, 3 times.", False),
        ("Reset Anna at https://a.b/c with `rm x`, 3 times.", False),
        ("Reset [NAME] at https://a.b/c with `rm y`, 3 times.", False),
        ("Reset [NAME] at https://a.b/c with `rm x`, 4 times.", False),
    ],
)
def test_fixed_parts(text, same):
    original = "Reset [NAME] at https://a.b/c with `rm x`, 3 times."
    assert (fixed_parts(text) == fixed_parts(original)) is same


def test_kinship_and_sameness():
    assert kinship("Return the parcel", "How do I return parcels?") == 1.0
    assert kinship("Bake a cake", "How do I return parcels?") == 0.0
    assert says_the_same("The battery lasts 2 years.", "2 years lasts the Battery")
    assert not says_the_same("The battery lasts 2 years.", "The battery lasts 3 years.")
    assert not says_the_same("It is covered.", "It is not covered.")
