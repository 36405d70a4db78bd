"""Samplers: what the model in training writes, and what a server sends back."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from tests.tiny import tiny_model
from tunewright.core.errors import ConfigError, TrainError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling
from tunewright.objectives import completions
from tunewright.objectives.completions import FIXED, RETOKENISED, UNTOLD, OpenAISampler, Tongue
from tunewright.objectives.options.policy import SamplerOptions
from tunewright.objectives.sampler import TransformersSampler, VllmSampler, split_stop

STOPS = frozenset(range(10))
PROMPTS = [[5, 6, 7], [8, 9]]


def words(ids):
    return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def sampler():
    sampling = Sampling(max_new_tokens=6, temperature=1.0, stop_ids=STOPS)
    return TransformersSampler(tiny_model("llama", 60), sampling, words, batch_size=4)


# --- the model in training


def test_groups_come_in_order_and_end_with_their_stop(sampler):
    groups = sampler.sample(PROMPTS, 5, seed=1)
    assert [len(group) for group in groups] == [5, 5]
    answers = [answer for group in groups for answer in group]
    assert {answer.finished for answer in answers} == {True, False}
    for answer in answers:
        assert (answer.ids[-1] in STOPS) == answer.finished
        assert not STOPS & set(answer.ids[:-1])
        assert answer.weights == [1.0] * len(answer.ids)
        assert answer.text == words(answer.ids[:-1] if answer.finished else answer.ids)
        assert answer.finished or len(answer.ids) == 6
    assert len({tuple(answer.ids) for answer in answers}) > 5


def test_the_seed_decides(sampler):
    assert sampler.sample(PROMPTS, 3, seed=1) == sampler.sample(PROMPTS, 3, seed=1)
    assert sampler.sample(PROMPTS, 3, seed=1) != sampler.sample(PROMPTS, 3, seed=2)


def test_log_probabilities_are_those_the_trainer_finds(sampler):
    groups = sampler.sample(PROMPTS, 4, seed=3)
    sequences = [
        Tokens(prompt, [0.0] * len(prompt), branches=tuple(Tokens(a.ids, a.weights) for a in group))
        for prompt, group in zip(PROMPTS, groups, strict=True)
    ]
    with torch.no_grad():
        found = ModelForward(tiny_model("llama", 60)).logprobs(build_batch(sequences))
    told = [value for group in groups for answer in group for value in answer.logprobs]
    torch.testing.assert_close(found, torch.tensor(told), rtol=0, atol=2e-6)


def test_vllm_names_its_extra():
    with pytest.raises(ConfigError, match=r"tunewright\[vllm\]"):
        VllmSampler("model", 8, lambda folder: None, Sampling(), words)


def test_split_stop():
    assert split_stop([4, 5, 1], frozenset({1})) == ([4, 5], True)
    assert split_stop([4, 1, 5], frozenset({1})) == ([4, 1, 5], False)
    assert split_stop([], frozenset({1})) == ([], False)


# --- a server


@contextmanager
def serving(*replies, models=("policy",)):
    """A server on this machine that gives ``replies`` (a body, or a status); yields url and requests."""
    seen, left = [], list(replies)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send(200, {"data": [{"id": name} for name in models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            reply = left.pop(0)
            self.send(*((reply, {"error": "no"}) if isinstance(reply, int) else (200, reply)))

        def send(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(url, notes=None, prompts=((5, 6),), group=1, **options):
    """The answers of the server at ``url``; ids are characters of the text."""
    said = [] if notes is None else notes
    tongue = Tongue(
        lambda ids: "".join(map(chr, ids)),
        lambda text: [ord(c) for c in text],
        end_of_turn=1,
        note=said.append,
    )
    sampling = Sampling(max_new_tokens=9, temperature=0.7, stop_ids=frozenset({1, 2}))
    made = OpenAISampler(SamplerOptions(kind="openai", url=url, **options), sampling, tongue)
    return made.sample([list(p) for p in prompts], group, seed=2**40)


def choice(**facts):
    return {"index": 0, "text": "ab", "finish_reason": "stop", **facts}


WHOLE = choice(
    token_ids=[97, 98, 2], logprobs={"token_logprobs": [-0.5, -1.0, -0.25], "tokens": ["a", "b", ""]}
)


def test_token_ids_and_log_probabilities_of_a_server():
    notes = []
    with serving({"choices": [WHOLE, {**WHOLE, "finish_reason": "length"}]}) as (url, seen):
        [[answer, cut]] = asked(url, notes, group=2)
    assert answer.ids == [97, 98, 2] and answer.logprobs == [-0.5, -1.0, -0.25]
    assert answer.finished and answer.text == "ab" and answer.weights == [1.0] * 3
    assert not cut.finished
    [request] = seen
    assert request["path"] == "/v1/completions" and request["prompt"] == [5, 6] and request["n"] == 2
    assert request["model"] == "policy" and request["max_tokens"] == 9 and request["temperature"] == 0.7
    assert request["stop_token_ids"] == [1, 2] and request["key"] is None and 0 <= request["seed"] < 2**31
    assert notes == [FIXED.format(url=url)]


def test_token_ids_in_place_of_token_texts():
    told = choice(logprobs={"tokens": ["token_id:97", "token_id:1"], "token_logprobs": [-0.5, -2.0]})
    with serving({"choices": [told]}) as (url, _):
        [[answer]] = asked(url)
    assert answer.ids == [97, 1] and answer.logprobs == [-0.5, -2.0] and answer.text == "a"


def test_text_alone_is_tokenised_again_and_that_is_said():
    notes = []
    with serving({"choices": [choice(logprobs=None), choice(finish_reason="length")]}) as (url, _):
        [[ended, cut]] = asked(url, notes, group=2)
    assert ended.ids == [97, 98, 1] and ended.finished and ended.logprobs is None
    assert cut.ids == [97, 98] and not cut.finished
    assert RETOKENISED in notes


def test_a_stop_token_kept_back_leaves_no_log_probabilities():
    notes = []
    with serving({"choices": [choice(token_ids=[97], logprobs={"token_logprobs": [-0.5]})]}) as (url, _):
        [[answer]] = asked(url, notes)
    assert answer.ids == [97, 1] and answer.logprobs is None and answer.text == "a"
    assert UNTOLD in notes


def test_each_prompt_has_a_seed_of_its_own():
    with serving({"choices": [WHOLE]}, {"choices": [WHOLE]}) as (url, seen):
        asked(url, prompts=[[5], [6]])
    assert len({request["seed"] for request in seen}) == 2


def test_a_busy_server_is_asked_again(monkeypatch):
    monkeypatch.setattr(completions, "FIRST_WAIT", 0.01)
    with serving(503, 429, {"choices": [WHOLE]}) as (url, seen):
        assert asked(url)[0][0].text == "ab"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (400, "HTTP 400"),
        ({"choices": []}, "gave 0 answers where 1 were asked for"),
        ({"object": "none"}, "gave no answers"),
        ([1], "list, not an object"),
        (
            {"choices": [{**WHOLE, "logprobs": {"token_logprobs": [-0.5]}}]},
            "1 log-probabilities for 3 tokens",
        ),
    ],
)
def test_a_server_that_does_not_do_as_asked(reply, message):
    with serving(reply) as (url, _), pytest.raises(TrainError, match=message):
        asked(url)


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(completions, "FIRST_WAIT", 0.01)
    with pytest.raises(TrainError, match="cannot be used"):
        asked("http://127.0.0.1:9/v1")


def test_the_model_must_be_clear_and_the_key_set(monkeypatch):
    with serving(models=("a", "b")) as (url, _), pytest.raises(ConfigError, match=r"2 models \(a, b\)"):
        asked(url)
    with pytest.raises(ConfigError, match="SOME_KEY is not set"):
        asked("http://127.0.0.1:9/v1", key="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "hush")
    with serving({"choices": [WHOLE]}) as (url, seen):
        asked(url, key="SOME_KEY", model="mine")
    assert seen[0]["key"] == "Bearer hush" and seen[0]["model"] == "mine"
