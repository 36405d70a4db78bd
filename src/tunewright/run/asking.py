"""How held-out rows become questions for a model: the same way in a run, after it, and for other models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer
from tunewright.core.records import Conversation, Example, Message, Text, as_conversation
from tunewright.data.render import Renderer
from tunewright.evaluate.baselines import SYSTEM, choose_shots, with_shots
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Evaluator, Question, drawn, longest_answer, questions, reading
from tunewright.evaluate.suggest import suggest
from tunewright.models.forward import ModelForward
from tunewright.models.generate import AtOnce, Sampling
from tunewright.models.load import Loaded
from tunewright.models.save import own_stop_ids
from tunewright.run.compose import context_of


@dataclass(frozen=True)
class Asking:
    """Which numbers to take and how to ask; documents are read ``piece`` tokens at a time."""

    metrics: Sequence[str]
    max_new_tokens: int
    piece: int = 2048
    batch_size: AtOnce = "auto"
    micro_tokens: int = 2048


def suggested(asked: Sequence[Question]) -> tuple[list[str], str]:
    """The metrics that fit the reference answers, and why."""
    if all(isinstance(q.example, Text) for q in asked):
        return ["perplexity"], "documents have no answers to compare"
    suggestion = suggest([q.reference for q in asked])
    return list(suggestion.metrics), suggestion.reason


def reader(loaded: Loaded) -> Renderer:
    """The renderer of questions; not that of training, whose ``train_on`` must not decide a score."""
    return Renderer(loaded.tokenizer, max_length=context_of(loaded))


def evaluator(loaded: Loaded, asked: Sequence[Question], how: Asking, observe: Observer) -> Evaluator:
    """The judge over ``asked``.

    Raises ``ConfigError`` for metrics that do not fit, ``DataError`` for a prompt beyond the model's context.
    """
    if loaded.judges:
        raise ConfigError(f"{loaded.ref.name} was trained to judge text with a head; it cannot write answers")
    renderer, dtype = reader(loaded), loaded.precision.dtype  # the judge must not hold on to the model
    stop_ids = renderer.stop_ids | own_stop_ids(loaded.model)
    _check_metrics(how.metrics, asked)
    if any(METRICS[name].needs == "text" for name in how.metrics):
        _check_room(renderer, asked, how.max_new_tokens, context_of(loaded), observe)
        _check_reach(renderer, asked, how.max_new_tokens, observe)
    if any(METRICS[name].needs == "logprobs" for name in how.metrics):
        _check_readable(renderer, asked, how.piece)
    return Evaluator(
        renderer=renderer,
        questions=asked,
        metrics=how.metrics,
        sampling=Sampling(max_new_tokens=how.max_new_tokens, stop_ids=stop_ids),
        forward_of=lambda model: ModelForward(model, compute=dtype),
        batch_size=how.batch_size,
        micro_tokens=how.micro_tokens,
        piece=min(how.piece, context_of(loaded)),
        context=context_of(loaded),
        on_progress=lambda done, total: observe(events.Progress("answers", done, total)),
    )


def longest(loaded: Loaded, asked: Sequence[Question]) -> tuple[int, str]:
    """``max_new_tokens: auto``, and what decided it."""
    return longest_answer(reader(loaded), asked, context_of(loaded))


def chosen(
    examples: Sequence[Example], limit: int | None, seed: int, note: Callable[[str], None]
) -> list[Question]:
    """The questions to ask: of all ``examples``, or of a seeded draw of ``limit``, which is said aloud."""
    taken = drawn(examples, limit, seed)
    if len(taken) < len(examples):
        note(f"{len(taken)} of {len(examples)} rows are scored, a seeded draw")
    return questions(taken)


def apart(shots: Sequence[Example], asked: Sequence[Question], note: Callable[[str], None]) -> list[Example]:
    """``shots`` without those whose prompt is asked too, which would give the answer away.

    Raises ``ConfigError`` if none is left.
    """
    taken = {_turns(q.prompt) for q in asked}
    kept = [e for e in shots if (c := as_conversation(e)) is None or _turns(c.messages[:-1]) not in taken]
    if not kept:
        raise ConfigError("every few-shot example is also among the questions; take them from another file")
    if len(kept) < len(shots):
        note(f"{len(shots) - len(kept)} rows are not used as few-shot examples: they are among the questions")
    return kept


def _turns(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((m.role, m.content.strip()) for m in messages if m.role not in SYSTEM)


def fitting_shots(
    judge: Evaluator, train: Sequence[Example], count: int, seed: int, warn: Callable[[str], None]
) -> list[Conversation]:
    """As many examples, up to ``count``, as leave every question room in the model's context.

    Fewer than asked for are said aloud; raises ``ConfigError`` if not even one fits or there is none.
    """
    shots = choose_shots(train, count, seed)
    if not shots:
        raise ConfigError("a few-shot prompt needs rows with answers to take its examples from")
    limit = judge.context - judge.sampling.max_new_tokens
    hardest = max(judge.questions, key=lambda q: len(judge.renderer.prompt(q.prompt, q.tools)))
    kept = list(shots)
    while kept and len(judge.renderer.prompt(with_shots(kept, hardest.prompt), hardest.tools)) > limit:
        kept.pop()
    if not kept:
        raise ConfigError(
            f"few_shot: not even one example fits before {hardest.where} in the model's context of"
            f" {judge.context} tokens; leave few_shot out of the baselines"
        )
    if len(kept) < count:
        why = (
            "only so many rows have an answer"
            if len(kept) == len(shots)
            else f"more do not fit before {hardest.where} in the model's context of {judge.context} tokens"
        )
        warn(f"the few-shot prompt has {len(kept)} examples instead of {count}: {why}")
    return kept


def _check_metrics(names: Sequence[str], asked: Sequence[Question]) -> None:
    documents = [q for q in asked if isinstance(q.example, Text)]
    for name in names:
        if METRICS[name].needs == "head":
            raise ConfigError(f"metric {name!r} is about what a head says, but this model writes its answers")
        if METRICS[name].needs == "pairs":
            raise ConfigError(f"metric {name!r} is about pairs, or liked and other answers; give such rows")
        if METRICS[name].needs == "text" and documents:
            raise ConfigError(
                f"metric {name!r} compares answers, but {documents[0].where} is a document; use perplexity"
            )


def _check_room(
    renderer: Renderer, asked: Sequence[Question], new: int, context: int, observe: Observer
) -> None:
    short = 0
    for question in asked:
        size = len(renderer.prompt(question.prompt, question.tools))
        if size > context:
            raise DataError(
                f"{question.where}: the prompt takes {size} tokens, but the model has room for {context};"
                " shorten or remove the row"
            )
        short += size + new > context + 1
    if short:
        observe(
            events.Warned(
                0,
                f"{short} of {len(asked)} test prompts leave room for fewer than {new} new tokens in the"
                f" model's context of {context}; their answers may be cut",
            )
        )


def _check_reach(renderer: Renderer, asked: Sequence[Question], new: int, observe: Observer) -> None:
    beyond = sum(len(renderer.plain_ids(q.reference)) > new for q in asked)
    if beyond:
        observe(
            events.Warned(
                0,
                f"{beyond} of {len(asked)} references are longer than {new} tokens (evaluate.max_new_tokens)"
                " and cannot be matched",
            )
        )


def _check_readable(renderer: Renderer, asked: Sequence[Question], piece: int) -> None:
    for question in asked:
        if not sum(tokens.trained for tokens in reading(renderer, question, piece)):
            raise DataError(
                f"{question.where}: no token of the answer stands within the first {renderer.max_length}"
                " tokens, so its perplexity cannot be measured; shorten or remove the row"
            )
