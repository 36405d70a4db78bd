"""Sentences with planted personal data, made from templates and generators that no data set gave."""

from __future__ import annotations

import random

from tunewright.data.redact.payment import iban_remainder, luhn


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(n))


def card(rng: random.Random) -> str:
    head, length = rng.choice([("4", 16), ("52", 16), ("37", 15), ("6011", 16), ("36", 14)])
    body = head + digits(rng, length - len(head) - 1)
    whole = body + next(d for d in "0123456789" if luhn(body + d))
    if length == 16 and rng.random() < 0.6:
        mark = rng.choice(" -")
        return mark.join(whole[i : i + 4] for i in range(0, 16, 4))
    return whole


def iban(rng: random.Random) -> str:
    country, body = rng.choice(
        [
            ("DE", digits(rng, 18)),
            ("FR", digits(rng, 23)),
            ("NL", "INGB" + digits(rng, 10)),
            ("NO", digits(rng, 11)),
        ]
    )
    whole = f"{country}{98 - iban_remainder(country + '00' + body):02d}{body}"
    return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4)) if rng.random() < 0.5 else whole


def ssn(rng: random.Random) -> str:
    return f"{rng.randint(100, 660)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"


def phone(rng: random.Random) -> str:
    return rng.choice(
        [
            f"+49 30 {digits(rng, 3)} {digits(rng, 4)}",
            f"+33 6 {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)}",
            f"(0{rng.randint(20, 99)}) {rng.randint(200, 999)} {digits(rng, 4)}",
            f"{rng.randint(201, 989)}.{rng.randint(200, 999)}.{digits(rng, 4)}",
            f"+1 ({rng.randint(201, 989)}) {rng.randint(200, 999)}-{digits(rng, 4)} ext. {rng.randint(10, 999)}",  # noqa: E501
        ]
    )


def birth(rng: random.Random) -> str:
    y, m, d = rng.randint(1930, 2009), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        [
            f"{d:02d}.{m:02d}.{y}",
            f"{y}-{m:02d}-{d:02d}",
            f"{m}/{d}/{y}",
            f"{d}. Oktober {y}",
            f"June {d}, {y}",
        ]
    )


def ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return ":".join(f"{rng.randint(4096, 65535):x}" for _ in range(8))
    return ".".join(str(rng.randint(21, 250)) for _ in range(4))


def email(rng: random.Random) -> str:
    return f"{rng.choice(['ana.m', 'o-brien', 'li_wei', 'x'])}{rng.randint(1, 99)}@{rng.choice(['uni-graz.ac.at', 'post.co.uk', 'b.io'])}"  # noqa: E501


def key(rng: random.Random) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789"
    some = "".join(rng.choice(letters) for _ in range(36))
    return rng.choice(
        [
            f"ghp_{some}",
            f"sk-proj-{some}7",
            f"AKIA{some[:16].upper()}",
            f"hf_{some[:34]}",
            f"glpat-{some[:20]}",
        ]
    )


def street(rng: random.Random) -> str:
    return rng.choice(
        [f"{rng.randint(2, 999)} Willow Bend Road", f"{rng.randint(2, 99)} Queen Anne Terrace, Flat {rng.randint(1, 9)}",  # noqa: E501
         f"Lindenstraße {rng.randint(2, 99)}", f"{rng.randint(2, 99)} rue des Lilas", f"Calle Mayor {rng.randint(2, 99)}"]  # noqa: E501
    )  # fmt: skip


KINDS = {
    "CREDIT_CARD": (card, ["They took 12 euros twice from {} yesterday.", "New plastic: {}, expiring soon.", "Visa {}"]),  # noqa: E501
    "IBAN": (iban, ["Überweisung an {} bitte.", "The refund goes to {}, thanks.", "{} is where rent is paid."]),  # noqa: E501
    "US_SSN": (ssn, ["Put {} on the W-2 form.", "Her social is {}.", "SSN:{}"]),
    "PHONE": (phone, ["Ring me on {} after six.", "Fax: {}", "Text {} if late.", "Meine Handynummer: {}."]),
    "DATE_OF_BIRTH": (birth, ["Patient, born {}, came in.", "Date of birth: {}", "Geburtsdatum: {}", "DOB - {}"]),  # noqa: E501
    "IP_ADDRESS": (ip, ["Blocked after 3 tries from {}.", "ssh root@host -p 22 # {}", "Client {} timed out"]),
    "EMAIL": (email, ["cc {} please", "<{}>", "mailto:{}?subject=x", "Escribe a {}."]),
    "API_KEY": (key, ["curl -H 'x: {}' https://a.io", 'KEY = "{}"', "He pasted {} into the chat."]),
    "STREET_ADDRESS": (street, ["Send the parcel to {}.", "Meine Adresse ist {}.", "We have lived at {} since March."]),  # noqa: E501
}  # fmt: skip

CLEAN = [
    "Take 500 mg every 12 hours for 7-10 days, not above 4,000 mg.",
    "The order number is 4111-22-8 and the ticket is 12345678.",
    "Version 10.2.3.4 of the driver fixes bug 98213.",
    "ISBN 978-3-16-148410-0 was printed in 2001-2002.",
    "In 1999, 2000, and 2001 the rate was 12.5 per 100 000 people.",
    "Use port 8080 on localhost, see section 3.1.4.2.",
    "The trial NCT01234567 enrolled 1,204 adults aged 18-65.",
    "x = 1234567890123456 % 97  # a constant",
    "The score was 1234 5678 after 3 rounds.",
    "a[1:2], b[::2] and f::g are code, 12:30:45 is a time.",
    "The token was lost and the key is to listen.",
    "He was born in 1879 and moved in 1895.",
    "My 2 Main points are about 3 Common Causes of pain.",
    "md5 d41d8cd98f00b204e9800998ecf8427e, sha 4b825dc642cb6eb9a060e54bf8d69288fbee4904.",
    "Mail it by 5 pm @ the desk, see img@2x.png.",
    "Hodgkin lymphoma, Crohn's disease and Kidney Failure are described in Chapter 12.",
]


def planted(seed: int, per_kind: int = 40) -> list[tuple[str, str, str]]:
    """(type, sentence, value) for every kind."""
    rng = random.Random(seed)
    made = []
    for kind, (make, templates) in KINDS.items():
        for _ in range(per_kind):
            value = make(rng)
            made.append((kind, rng.choice(templates).format(value), value))
    return made
