"""English words that name people of a group. Few and precise: a word with another common meaning is left out
("polish", "straight", "black", "disabled" alone), as is a nationality that is a language, too. What is left out
is not counted, so counts are lower bounds; that is better here than a count of something else.
"""

from __future__ import annotations

PEOPLE = ("person", "people", "man", "men", "woman", "women", "girl", "girls", "boy", "boys", "child", "children",
          "student", "students", "worker", "workers", "employee", "employees", "patient", "patients",
          "community", "communities", "family", "families", "veteran", "veterans", "adult", "adults")  # fmt: skip


def _of(*adjectives: str) -> tuple[str, ...]:
    """Adjectives that say something of a person only before a word for people."""
    return tuple(f"{adjective} {people}" for adjective in adjectives for people in PEOPLE)


GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {
        "female": (
            "she", "her", "hers", "herself", "woman", "women", "girl", "girls", "female", "females", "mother",
            "mothers", "mom", "mum", "wife", "wives", "daughter", "daughters", "sister", "sisters", "aunt",
            "grandmother", "grandma", "niece", "girlfriend", "mrs", "ms", "lady", "ladies", "actress", "waitress",
            "stewardess", "businesswoman", "policewoman", "saleswoman", "chairwoman", "widow", "bride", "heroine",
        ),
        "male": (
            "he", "him", "his", "himself", "man", "men", "boy", "boys", "male", "males", "father", "fathers", "dad",
            "husband", "husbands", "son", "sons", "brother", "brothers", "uncle", "grandfather", "grandpa", "nephew",
            "boyfriend", "mr", "gentleman", "gentlemen", "businessman", "policeman", "salesman", "chairman",
            "widower", "bridegroom",
        ),
        "transgender or non-binary": (
            "transgender", "nonbinary", "non-binary", "genderqueer", "trans man", "trans men", "trans woman",
            "trans women", "trans people", "trans person",
        ),
    },
    "age": {
        "young": (
            "teenager", "teenagers", "teenage", "toddler", "toddlers", "schoolboy", "schoolgirl", "schoolchildren",
            "adolescent", "adolescents", "young man", "young men", "young woman", "young women", "young people",
            "young person", "young adult", "young adults", "youngster", "youngsters", "millennials",
        ),
        "old": (
            "elderly", "pensioner", "pensioners", "retiree", "retirees", "octogenarian", "senior citizen",
            "senior citizens", "old man", "old men", "old woman", "old women", "old people", "old person", "old lady",
            "older adult", "older adults", "older people", "older person", "aged person",
        ),
    },
    "religion": {
        "christian": (
            "christian", "christians", "christianity", "catholic", "catholics", "catholicism", "protestant",
            "protestants", "evangelicals", "baptists", "mormon", "mormons",
        ),
        "muslim": ("muslim", "muslims", "islam", "islamic", "sunni", "shia", "shiite"),
        "jewish": ("jew", "jews", "jewish", "judaism"),
        "hindu": ("hindu", "hindus", "hinduism"),
        "buddhist": ("buddhist", "buddhists", "buddhism"),
        "sikh": ("sikh", "sikhs", "sikhism"),
        "none": ("atheist", "atheists", "atheism", "agnostics"),
    },
    "ethnicity or nationality": {
        "black": ("african american", "african-american", "african americans", "african-americans", "blacks",
                  *_of("black")),
        "white": ("caucasian", "caucasians", *_of("white")),
        "asian": ("asian", "asians", "asian-american", "asian american"),
        "hispanic": ("hispanic", "hispanics", "latino", "latinos", "latina", "latinas", "latinx"),
        "arab": ("arab", "arabs", "middle eastern", "middle-eastern"),
        "indigenous": ("native american", "native americans", "aboriginal", "aboriginals", "first nations", "inuit"),
        "roma": ("romani", "gypsies", "gypsy"),
        "mexican": ("mexican", "mexicans"),
        "nigerian": ("nigerian", "nigerians"),
        "pakistani": ("pakistani", "pakistanis"),
        "syrian": ("syrian", "syrians"),
        "afghan": ("afghan", "afghans"),
        "brazilian": ("brazilian", "brazilians"),
        "immigrant": ("immigrant", "immigrants", "refugee", "refugees", "asylum seeker", "asylum seekers"),
    },
    "disability": {
        "disability": (
            "disability", "disabilities", "wheelchair user", "wheelchair users", "paraplegic", "quadriplegic",
            "amputee", "amputees", "autistic", "dyslexic", "visually impaired", "hearing impaired", "hard of hearing",
            "deaf", "in a wheelchair", *_of("disabled", "blind"),
        ),
    },
    "sexual orientation": {
        "homosexual or bisexual": (
            "gay", "gays", "lesbian", "lesbians", "homosexual", "homosexuals", "bisexual", "bisexuals", "lgbt", "lgbtq",
            "lgbtq+", "queer", "same-sex", "gay man", "gay men",
        ),
        "heterosexual": ("heterosexual", "heterosexuals"),
    },
}  # fmt: skip
