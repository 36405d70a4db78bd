"""What the model answers to held-out questions, before and after training on the winner."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.core.records import Example, as_conversation
from tunewright.data.keys import answer_of, prompt_of
from tunewright.models.generate import Sampling, generate
from tunewright.models.save import own_stop_ids
from tunewright.run.recommend.race import Lap, Track, put

NEW_TOKENS = 96


def replies(track: Track, winner: Lap, asked: Sequence[Example]) -> list[dict[str, str]]:
    """Question, wanted answer, and the model's likeliest answers; none for documents, which ask nothing.

    The model has the weights of ``winner`` afterwards.
    """
    subject = track.subject
    chats = [chat for example in asked if (chat := as_conversation(example)) is not None]
    if not chats:
        return []
    renderer = subject.renderer
    prompts = [renderer.prompt(prompt_of(chat), chat.tools) for chat in chats]
    stop_ids = renderer.stop_ids | own_stop_ids(subject.loaded.model)
    sampling = Sampling(max_new_tokens=NEW_TOKENS, stop_ids=stop_ids)
    texts = []
    for weights in (track.start, winner.weights):
        put(subject, weights)
        texts.append(
            [g.text or "" for g in generate(subject.model, prompts, sampling, decode=renderer.decode)]
        )
    return [
        {"question": prompt_of(chat)[-1].content, "wanted": answer_of(chat), "before": before, "after": after}
        for chat, before, after in zip(chats, *texts, strict=True)
    ]
