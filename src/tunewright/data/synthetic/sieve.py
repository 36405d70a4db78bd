"""What is left of synthetic rows after those that copy test data, real rows or each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from tunewright.core.records import Example, Preference
from tunewright.data.apart import kept_apart
from tunewright.data.keys import Key, normalise, prompt_of, question_key
from tunewright.data.synthetic.reasons import Left

Similar = Callable[[Sequence[str]], Sequence[int]]
"""(texts) -> for each the index of the first that is nearly the same; its own where there is none."""
RUN = 8  # words in a row that are no coincidence


def sift(
    made: Sequence[Example], real: Sequence[Example], test: Sequence[Example], similar: Similar | None = None
) -> tuple[list[Example], list[Left]]:
    """The rows that are new, in order, and why each other one is left out.

    ``real`` are rows they will stand beside, ``test`` those that judge. Without ``similar`` only rows that
    are equal but for case and white space count as the same.
    """
    kept, left = _not_in_test(made, test)
    kept, doubled = _new(kept, real)
    left += doubled
    if similar is not None:
        kept, near = _unlike(kept, real, similar)
        left += near
    return kept, left


class TestPrompts:
    """The questions of test rows, to look for in texts: whole, or ``RUN`` words of one in a row.

    Words that stand in several questions are a common form of asking, and say nothing.
    """

    __test__ = False  # no case of pytest

    def __init__(self, test: Iterable[Example]) -> None:
        texts = [_last_turn(example).split() for example in test]
        seen = Counter(run for words in texts for run in set(_runs(words, RUN)))
        self.runs = {run for run, count in seen.items() if count == 1}
        self.whole = {" ".join(words) for words in texts if 3 < len(words) < RUN}

    def copied_in(self, example: Example) -> bool:
        """Whether the question of ``example`` holds one."""
        words = _last_turn(example).split()
        if any(run in self.runs for run in _runs(words, RUN)):
            return True
        return any(run in self.whole for size in range(4, RUN) for run in _runs(words, size))


def _runs(words: Sequence[str], size: int) -> Iterator[str]:
    return (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def _last_turn(example: Example) -> str:
    """The normalised text of the last turn that asks."""
    turns = prompt_of(example)
    return normalise(turns[-1].content) if turns else ""


def left(example: Example, reason: str, detail: str) -> Left:
    """The note that ``example`` is left out."""
    return Left(example.meta.source, example.meta.line, reason, detail)


def _not_in_test(made: Sequence[Example], test: Sequence[Example]) -> tuple[list[Example], list[Left]]:
    apart, asked = kept_apart(made, [], test)
    found = [Left(p.source, p.line, "copies_test", p.detail) for p in asked]
    prompts = TestPrompts(test)
    kept = []
    for example in apart:
        if prompts.copied_in(example):
            found.append(left(example, "copies_test", "words of a test question stand in it"))
        else:
            kept.append(example)
    return kept, found


def _new(made: Iterable[Example], real: Iterable[Example]) -> tuple[list[Example], list[Left]]:
    seen: dict[Key, str] = {question_key(e): e.meta.where() for e in real}
    kept, found = [], []
    for example in made:
        key = question_key(example)
        if key in seen:
            found.append(left(example, "duplicate", f"equal to {seen[key]}"))
        else:
            seen[key] = f"one made from {example.meta.where()}"
            kept.append(example)
    return kept, found


def _unlike(
    made: Sequence[Example], real: Sequence[Example], similar: Similar
) -> tuple[list[Example], list[Left]]:
    """Rows whose written text is near no other: the worse answer of a pair, else the question."""
    texts = [_written(example) for example in (*real, *made)]
    kept, found = [], []
    for i, (example, first) in enumerate(zip(made, similar(texts)[len(real) :], strict=True), len(real)):
        if first < i:
            near = real[first] if first < len(real) else made[first - len(real)]
            found.append(left(example, "near_duplicate", f"nearly equal to {near.meta.where()}"))
        else:
            kept.append(example)
    return kept, found


def _written(example: Example) -> str:
    turns = example.rejected if isinstance(example, Preference) else prompt_of(example)
    return turns[-1].content if turns else ""
