"""Rendering and tokenising chats, against the bare tokenizers library on finished texts.

    python benchmarks/rendering.py [--chats 100000] [--repeats 3]

Our side starts from messages: chat template, tokens, and the weight of every token. The peer gets the texts
that the template would make and only encodes them, in one batch on all cores, with and without offsets; what
counts is the faster.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from race import MODEL, verdict

from tunewright.core.records import Conversation, Message
from tunewright.data.render import Renderer
from tunewright.models.load import load_tokenizer

PEERS = ("encode_batch", "encode_batch_fast")  # of the tokenizers library
FASTER = (0.9, 1.0)  # must and aim: times the peer's speed
WORDS = [
    "the",
    "order",
    "was",
    "sent",
    "on",
    "monday",
    "but",
    "the",
    "parcel",
    "never",
    "came",
    "so",
    "please",
    "tell",
    "me",
    "where",
    "it",
    "is",
    "or",
    "refund",
    "my",
    "card",
    "because",
    "invoice",
    "4711",
    "says",
    "paid",
    "while",
    "the",
    "account",
    "shows",
    "nothing",
    "and",
    "support",
    "has",
    "not",
    "answered",
    "yet",
]


def chats(count: int) -> list[Conversation]:
    """Two to four turns of 10 to 60 words."""
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(10, 60)))

    found = []
    for _ in range(count):
        turns = rng.choice((1, 1, 2))
        roles = ("user", "assistant") * turns
        found.append(Conversation(tuple(Message(role, text()) for role in roles)))
    return found


def encoded(encode: Callable[..., list[Any]], texts: list[str]) -> int:
    """The number of ids of all ``texts``, which must be there as Python has them."""
    return sum(len(found.ids) for found in encode(texts, add_special_tokens=False))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chats", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tokenizer, _ = load_tokenizer(MODEL)
    rows, renderer = chats(options.chats), Renderer(tokenizer)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in row.messages], tokenize=False
        )
        for row in rows
    ]
    bare = tokenizer.backend_tokenizer
    sides: dict[str, Callable[[], int]] = {
        "Tunewright": lambda: sum(t.size for found in renderer.conversations(rows) for t in found),
        **{name: partial(encoded, getattr(bare, name), texts) for name in PEERS},
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tokens = {}
    for _ in range(options.repeats):
        for name, side in sides.items():
            begun = time.perf_counter()
            tokens[name] = side()
            seconds[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    for name, value in median.items():
        print(f"{name:17} {value:6.1f} s {len(rows) / value:9.0f} chats/s {tokens[name]:10} tokens")
    assert len(set(tokens.values())) == 1, "the sides made different numbers of tokens"
    peer = min(PEERS, key=median.__getitem__)
    print(verdict(f"times the speed of {peer}", median[peer] / median["Tunewright"], *FASTER))


if __name__ == "__main__":
    main()
