"""A model on this machine that writes rows, with the project's own generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunewright.core.endpoint import Completion, Failure
from tunewright.core.records import Message
from tunewright.data.render import Renderer
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load
from tunewright.models.save import own_stop_ids
from tunewright.run.compose import context_of
from tunewright.run.writers import Body


class LocalWriter:
    """Writes with the model ``name``; a reply depends on its request alone."""

    def __init__(self, name: str, at_once: int = 8) -> None:
        self.where = "this machine"
        self.at_once = at_once
        self._loaded = load(name)
        self._renderer = Renderer(self._loaded.tokenizer)
        self._stop = self._renderer.stop_ids | own_stop_ids(self._loaded.model)
        self._room = context_of(self._loaded)

    def write(self, bodies: Sequence[Body]) -> Iterator[Completion | Failure]:
        """The replies in order; a request that the model's context does not hold is a ``Failure``."""
        for body in bodies:
            yield self._one(body)

    def _one(self, body: Body) -> Completion | Failure:
        turns = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        prompt = self._renderer.prompt(turns)
        room = min(body["max_tokens"], self._room - len(prompt))
        if room < 1:
            text = f"the prompt takes {len(prompt)} tokens, the model reads {self._room}"
            return Failure(text, again=False, status=413)
        sampling = Sampling(
            max_new_tokens=room,
            temperature=body["temperature"],
            seed=body["seed"],
            stop_ids=self._stop,
        )
        [found] = generate(self._loaded.model, [prompt], sampling)
        return Completion(self._renderer.decode(found.ids), len(prompt) + len(found.ids))
