"""A server that speaks the OpenAI protocol, as a sampler.

The completions endpoint is asked with token ids. vLLM and SGLang can return the ids they sampled
(``return_token_ids``, or ids in place of token texts); the log-probability of each comes as
``token_logprobs``. From a server that returns text alone the ids are made by the tokenizer, and the
log-probabilities are left to the trainer: that is said aloud, because the ids may not be those that were
sampled, and nobody knows how far the server's model is from the one in training.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tunewright.core.errors import ConfigError, TrainError
from tunewright.core.hashing import seed_from
from tunewright.models.generate import Sampling
from tunewright.objectives.options.policy import SamplerOptions
from tunewright.objectives.sampler import Decode, Sampled, split_stop

PARALLEL = 8  # requests at a time
TRIES = 4
FIRST_WAIT = 0.5  # seconds before the second try; doubled each time
_WORTH_RETRYING = {408, 409, 425, 429, 500, 502, 503, 504}
_TOKEN_ID = re.compile(r"token_id:([0-9]+)")
RETOKENISED = (
    "the server returns no token ids: its answers are tokenised again, and their log-probabilities are the"
    " trainer's, so no difference between sampler and trainer is seen or corrected"
)
UNTOLD = (
    "the server returns no log-probabilities: those of the trainer stand in, so no difference between sampler"
    " and trainer is seen or corrected"
)
FIXED = (
    "the server at {url} keeps the weights it was started with while the model here is trained; renew them"
    " there, or keep the run short"
)


@dataclass(frozen=True)
class Tongue:
    """How text becomes ids and back; ``end_of_turn`` is what ends an answer, ``note`` says things once."""

    decode: Decode
    encode: Callable[[str], list[int]]
    end_of_turn: int
    note: Callable[[str], None]


class OpenAISampler:
    """Asks a server for answers; its model should be the one in training, or near it."""

    def __init__(self, options: SamplerOptions, sampling: Sampling, tongue: Tongue) -> None:
        """Raises ``ConfigError`` for a key that is not set, or if the server's model cannot be told."""
        assert options.url is not None, "checked when the settings were read"
        self._url, self._timeout = options.url.rstrip("/"), options.timeout
        self._key = os.environ.get(options.key, "") if options.key else ""
        if options.key and not self._key:
            raise ConfigError(
                f"objective.rollout.sampler.key: the environment variable {options.key} is not set"
            )
        self._sampling, self._tongue = sampling, tongue
        self._model = options.model or self._only_model()
        tongue.note(FIXED.format(url=self._url))

    def sample(self, prompts: Sequence[Sequence[int]], group: int, seed: int) -> list[list[Sampled]]:
        """See ``Sampler``. Raises ``TrainError`` for a server that does not answer, or not what was asked."""
        seeds = [seed_from(seed, index) for index in range(len(prompts))]
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="sampler") as pool:
            found = list(pool.map(lambda prompt, own: self._choices(prompt, group, own), prompts, seeds))
        return [[self._answer(choice) for choice in choices] for choices in found]

    def _choices(self, prompt: Sequence[int], group: int, seed: int) -> list[dict[str, Any]]:
        body = {
            "model": self._model,
            "prompt": list(prompt),
            "n": group,
            "max_tokens": self._sampling.max_new_tokens,
            "temperature": self._sampling.temperature,
            "seed": seed % 2**31,
            "logprobs": 1,
            "stop_token_ids": sorted(self._sampling.stop_ids),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        choices = self._ask("/completions", body).get("choices")
        if not isinstance(choices, list) or len(choices) != group:
            got = len(choices) if isinstance(choices, list) else "no"
            raise TrainError(f"the server at {self._url} gave {got} answers where {group} were asked for")
        return choices

    def _answer(self, choice: dict[str, Any]) -> Sampled:
        text, stopped = str(choice.get("text") or ""), choice.get("finish_reason") == "stop"
        ids = _ids_of(choice)
        if ids is None:
            self._tongue.note(RETOKENISED)
            ids = [*self._tongue.encode(text), *([self._tongue.end_of_turn] if stopped else [])]
            return Sampled(ids, None, [1.0] * len(ids), stopped, text)
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs")
        body, ended = split_stop(ids, self._sampling.stop_ids)
        if stopped and not ended:  # the server keeps the stop token, and its probability, to itself
            ids, logprobs = [*ids, self._tongue.end_of_turn], None
        if logprobs is not None and (len(logprobs) != len(ids) or None in logprobs):
            raise TrainError(
                f"the server at {self._url} gave {len(logprobs)} log-probabilities for {len(ids)} tokens"
            )
        if logprobs is None:
            self._tongue.note(UNTOLD)
        found = None if logprobs is None else [float(value) for value in logprobs]
        return Sampled(ids, found, [1.0] * len(ids), stopped, self._tongue.decode(body))

    def _only_model(self) -> str:
        listed = self._ask("/models", None).get("data")
        names = [str(entry.get("id")) for entry in listed] if isinstance(listed, list) else []
        if len(names) != 1:
            raise ConfigError(
                f"the server at {self._url} knows {len(names)} models ({', '.join(names) or 'none'}); say"
                " which one in objective.rollout.sampler.model"
            )
        return names[0]

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The reply to a question, tried again where that may help. Raises ``TrainError``."""
        for trial in range(TRIES):
            try:
                return self._once(path, body)
            except _Failure as failure:
                if trial == TRIES - 1 or not failure.again:
                    raise TrainError(f"the server at {self._url} cannot be used: {failure}") from None
            time.sleep(FIRST_WAIT * 2**trial)
        raise AssertionError("the last try returns or raises")

    def _once(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, headers, method="GET" if body is None else "POST")
        try:
            with build_opener(_NoRedirect).open(request, timeout=self._timeout) as response:
                reply = json.loads(response.read())
        except HTTPError as error:
            with error:
                text = error.read(300).decode(errors="replace")
            raise _Failure(f"HTTP {error.code}: {text}", error.code in _WORTH_RETRYING) from None
        except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
            raise _Failure(f"{type(error).__name__}: {error}", True) from None
        except ValueError:
            raise _Failure("its reply is not JSON", False) from None
        if not isinstance(reply, dict):
            raise _Failure(f"its reply is {type(reply).__name__}, not an object", False)
        return reply


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would carry the key to another server."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class _Failure(Exception):
    """A try failed; ``again`` says whether another may help."""

    def __init__(self, text: str, again: bool) -> None:
        super().__init__(text)
        self.again = again


def _ids_of(choice: dict[str, Any]) -> list[int] | None:
    """The sampled ids of a completion, where the server tells them in one of the known ways."""
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return [int(token) for token in ids]
    tokens = (choice.get("logprobs") or {}).get("tokens")
    matches = [_TOKEN_ID.fullmatch(str(token)) for token in tokens] if isinstance(tokens, list) else [None]
    return [int(match[1]) for match in matches if match] if all(matches) else None
