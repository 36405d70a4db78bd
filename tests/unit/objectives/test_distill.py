"""The loss of distillation by worked numbers, its settings, its memory, and that packing does not matter."""

import math

import pytest
import torch

from tests.tiny import tiny_model
from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Labelled, Message, Meta, Text, Tokens
from tunewright.engine.batch import build_batch
from tunewright.models import head
from tunewright.models.forward import ModelForward
from tunewright.objectives.base import Objective, make_objective
from tunewright.objectives.distill import Distillation
from tunewright.objectives.divergences import TopK, top_k
from tunewright.objectives.options.table import options_of
from tunewright.objectives.teacher import LiveTeacher
from tunewright.objectives.teacher_cache import CachedTeacher

VOCAB = 50
SAME = {f"t{i}": i for i in range(VOCAB)}
OTHER = {f"u{i}": i for i in range(VOCAB)}
THREE = {"a": 0, "b": 1, "c": 2}


def distill(student=SAME, teacher=None, /, **options) -> Distillation:
    """The objective with its vocabularies settled; the teacher's is the student's by default."""
    found = make_objective("distill", options_of("distill", {"teacher": "big", **options}))
    return found.resolved(student, teacher or student)


class Given:
    """A student, or a teacher, whose probabilities are given."""

    def __init__(self, *rows, asked=None, logits=None):
        self.logits = torch.tensor(rows, dtype=torch.float64).log() if logits is None else logits
        self.asked = asked

    def per_target(self, batch, fn, hidden=None):
        return fn(self.logits, torch.arange(len(self.logits)))

    def logprobs(self, batch, hidden=None):
        return self.logits.log_softmax(-1).gather(1, batch.targets.ids[:, None])[:, 0]

    def distribution(self, batch, rows):
        logprobs = (self.logits / self.asked.temperature).log_softmax(-1)[rows]
        return top_k(logprobs, self.asked.top_k) if self.asked.top_k else logprobs


TEACHER, STUDENT = ((0.5, 0.25, 0.25), (0.8, 0.1, 0.1)), ((0.25, 0.5, 0.25), (0.1, 0.1, 0.8))
BATCH = build_batch([Tokens([1, 0, 2], [0.0, 1.0, 2.0])])  # answers a (weight 1) and c (weight 2)
LN2, LN8 = math.log(2), math.log(8)


@pytest.mark.parametrize(
    ("options", "total"),
    [
        # Row 1: 1/2 ln 2 - 1/4 ln 2. Row 2: 0.8 ln 8 - 0.1 ln 8, twice.
        ({"top_k": 0}, LN2 / 4 + 2 * 0.7 * LN8),
        # A quarter of the cross-entropy: -ln 1/4 and twice -ln 0.8.
        (
            {"top_k": 0, "sft_weight": 0.25},
            0.75 * (LN2 / 4 + 1.4 * LN8) + 0.25 * (2 * LN2 - 2 * math.log(0.8)),
        ),
        # The teacher's first token and the rest: (.5, .5) against (.25, .75), (.8, .2) against (.1, .9).
        (
            {"top_k": 1},
            0.5 * LN2 + 0.5 * math.log(2 / 3) + 2 * (0.8 * LN8 + 0.2 * math.log(2 / 9)),
        ),
        # T = 1/2 squares probabilities: (4,1,1)/6 against (1,4,1)/6, (64,1,1)/66 against (1,1,64)/66; x 1/4.
        (
            {"top_k": 0, "temperature": 0.5},
            0.25 * (0.5 * math.log(4) + 2 * 63 / 66 * math.log(64)),
        ),
        # Reverse KL of these mirrored pairs is the same; of one mixed with cross-entropy only it is not.
        (
            {"top_k": 0, "divergence": "reverse", "sft_weight": 0.5},
            0.5 * (LN2 / 4 + 1.4 * LN8 + 2 * LN2 - 2 * math.log(0.8)),
        ),
        # Row 1 of M = (3/8, 3/8, 1/4): 3/4 ln 4/3 ... in full: 1/2 (1/2 ln 4/3 + 1/4 ln 2/3) for either side.
        (
            {"top_k": 0, "divergence": "js"},
            (0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3))
            + 2 * (0.8 * math.log(16 / 9) + 0.1 * math.log(2 / 9)),
        ),
        # b = 1/4: M = (5/16, 7/16, 1/4) and (11/40, 1/10, 5/8).
        (
            {"top_k": 0, "divergence": "js", "js_weight": 0.25},
            0.25 * (0.5 * math.log(1.6) + 0.25 * math.log(4 / 7))
            + 0.75 * (0.25 * math.log(0.8) + 0.5 * math.log(8 / 7))
            + 2 * 0.25 * (0.8 * math.log(32 / 11) + 0.1 * math.log(0.16))
            + 2 * 0.75 * (0.1 * math.log(4 / 11) + 0.8 * math.log(1.28)),
        ),
    ],
)
def test_worked_numbers(options, total):
    objective = distill(THREE, **options)
    out = objective.with_teacher(Given(*TEACHER, asked=objective.asked)).loss(Given(*STUDENT), BATCH)
    assert out.total.item() == pytest.approx(total, rel=1e-6)
    assert objective.count(BATCH) == 3.0
    entropy = out.metrics["cross_entropy"]
    assert entropy.total.item() == pytest.approx(2 * LN2 - 2 * math.log(0.8)) and entropy.weight == 3.0


def test_another_vocabulary_by_rank_where_there_is_a_token_to_compare_with():
    """By rank row 1 is equal. Row 2 has no partner: cross-entropy only, and no NaN reaches the gradient."""
    objective = distill(THREE, {"x": 0, "y": 1}, top_k=3)
    assert objective.options.vocabulary == "uld" and objective.asked.size is None and objective.cached
    teacher = Given(asked=objective.asked, logits=torch.zeros(0))
    nothing = float("nan")
    rows = torch.tensor([[0.7, 0.2, 0.1], [nothing] * 3]).log()
    teacher.distribution = lambda batch, index: TopK(rows, torch.tensor([-math.inf, nothing]), None)
    logits = torch.tensor([(0.2, 0.2, 0.6), (0.1, 0.1, 0.8)]).log().requires_grad_()
    out = objective.with_teacher(teacher).loss(Given(logits=logits), BATCH)
    # |.7 - .6| + |.2 - .2| + |.1 - .2|, and cross-entropy of a (.2) and twice c (.8); shares .6 and .4.
    expected = 0.6 * 0.2 + 0.4 * (-math.log(0.2) - 2 * math.log(0.8))
    assert out.total.item() == pytest.approx(expected, rel=1e-6)
    assert (out.metrics["aligned"].total, out.metrics["aligned"].weight) == (1.0, 3.0)
    assert out.metrics["divergence"] == (pytest.approx(0.2), 1.0)
    out.total.backward()
    only_entropy = 0.4 * 2 * (torch.tensor([0.1, 0.1, 0.8]) - torch.tensor([0.0, 0.0, 1.0]))
    assert torch.allclose(logits.grad[1], only_entropy, atol=1e-6) and torch.isfinite(logits.grad).all()


def test_a_difference_in_padding_of_the_output_layers_does_not_matter():
    """The student has 5 outputs for 3 tokens, the teacher 3: outputs that are no tokens take no part."""
    objective = distill(THREE, top_k=0)
    wide = torch.cat([torch.tensor(STUDENT).log(), torch.tensor([[2.0, -1.0], [0.0, 3.0]])], -1)
    out = objective.with_teacher(Given(*TEACHER, asked=objective.asked)).loss(Given(logits=wide), BATCH)
    assert out.total.item() == pytest.approx(LN2 / 4 + 1.4 * LN8, rel=1e-5)


def rows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        n = int(torch.randint(4, 14, (1,), generator=generator))
        ids = torch.randint(0, VOCAB, (n,), generator=generator).tolist()
        found.append(Tokens(ids, [0.0, 0.0, *(0.5 + torch.rand(n - 2, generator=generator)).tolist()]))
    return found


def gradient(objective, model, batches):
    """Gradient of the loss over ``batches``, divided once by the count of all; one long vector."""
    forward, count = ModelForward(model), sum(float(objective.count(batch)) for batch in batches)
    model.zero_grad()
    for batch in batches:
        (objective.loss(forward, batch).total / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def teacher_forward():
    return ModelForward(tiny_model("llama", VOCAB, seed=1, initializer_range=0.1))


@pytest.mark.parametrize("top", [0, 5])
def test_micro_batches_do_not_matter_nor_does_the_cache(teacher_forward, tmp_path, top):
    objective = distill(top_k=top, divergence="js", js_weight=0.3, temperature=1.5, sft_weight=0.2)
    live = LiveTeacher(teacher_forward, objective.asked)
    student, data = tiny_model("llama", VOCAB, num_hidden_layers=1), rows(8)
    split = [build_batch(data[i : i + n]) for i, n in ((0, 1), (1, 4), (5, 3))]
    whole = gradient(objective.with_teacher(live), student, [build_batch(data)])
    assert torch.allclose(gradient(objective.with_teacher(live), student, split), whole, atol=1e-6)
    assert whole.abs().max() > 1e-3 and objective.cached == (top > 0)
    if top:
        cached = CachedTeacher(tmp_path, "t", objective.asked)
        cached.fill([(batch, batch) for batch in split], live)
        found = gradient(objective.with_teacher(cached), student, [build_batch(data[::-1])])
        assert torch.allclose(found, whole, atol=1e-6)


def test_no_more_logits_at_once_than_a_piece(teacher_forward, monkeypatch):
    """With room for 7 rows of logits neither model ever makes more, and the gradient stays the same."""
    objective = distill(top_k=0)
    student, batch = tiny_model("llama", VOCAB, num_hidden_layers=1), build_batch(rows(8))
    whole = gradient(objective.with_teacher(LiveTeacher(teacher_forward, objective.asked)), student, [batch])
    seen = []
    plain = head.Head.logits
    monkeypatch.setattr(head, "CHUNK_BYTES", {"cpu": 7 * 4 * VOCAB})
    monkeypatch.setattr(head.Head, "logits", lambda self, h: seen.append(len(h)) or plain(self, h))
    pieces = gradient(objective.with_teacher(LiveTeacher(teacher_forward, objective.asked)), student, [batch])
    n = len(batch.targets.ids)
    assert n > 40 and max(seen) == 7
    assert sum(seen) == 4 * n + 5  # both models, forward and again backward; 5 by the check of the head
    assert torch.allclose(pieces, whole, atol=1e-6)


def test_answers_that_share_their_prompt_are_as_good_as_alone(teacher_forward):
    """The form of the student's own answers (GKD): a prompt with a branch for each."""
    objective = distill(top_k=3, on_policy=1.0)
    ready = objective.with_teacher(LiveTeacher(teacher_forward, objective.asked))
    answers = ([7, 8, 9], [7, 4])
    branches = tuple(Tokens(answer, [1.0] * len(answer)) for answer in answers)
    tree = Tokens([5, 6], [0.0, 0.0], branches=branches)
    alone = [Tokens([5, 6, *answer], [0.0, 0.0] + [1.0] * len(answer)) for answer in answers]
    student = tiny_model("llama", VOCAB, num_hidden_layers=1)
    together, apart = (gradient(ready, student, [build_batch(data)]) for data in ([tree], alone))
    assert torch.allclose(together, apart, atol=1e-6) and together.abs().max() > 1e-3


def test_gradient_against_finite_differences(teacher_forward):
    """One number of the student's output layer, in float64."""
    objective = distill(top_k=4, temperature=2.0, divergence="reverse", sft_weight=0.3)
    batch = build_batch(rows(3))
    said = LiveTeacher(teacher_forward, objective.asked).distribution(
        batch, torch.arange(len(batch.targets.ids))
    )
    said = TopK(said.logprobs.double(), said.rest.double(), said.ids)
    teacher = Given(asked=objective.asked, logits=torch.zeros(0))
    teacher.distribution = lambda batch, index: said
    ready = objective.with_teacher(teacher)
    logits = torch.randn(len(said.ids), VOCAB, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ready.loss(Given(logits=x), batch).total, (logits,), atol=1e-6)


def test_text_is_plain_cross_entropy_on_what_the_teacher_wrote():
    objective = distill(THREE, OTHER, vocabulary="text")
    assert objective.uses_teacher_text and not objective.cached
    out = objective.loss(Given(*STUDENT), BATCH)
    assert out.total.item() == pytest.approx(2 * LN2 - 2 * math.log(0.8)) and out.metrics == {}
    with pytest.raises(AssertionError, match="text needs no teacher"):
        objective.with_teacher(Given(asked=objective.asked, logits=torch.zeros(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"distill: teacher: Field required"),
        ({"teacher": ""}, "teacher: String should have at least 1 character"),
        ({"js_weight": 0.3}, "js_weight is used by divergence=js only"),
        ({"divergence": "js", "js_weight": 1.0}, "js_weight: Input should be less than 1"),
        (
            {"vocabulary": "uld", "divergence": "reverse"},
            "vocabulary=uld does not use divergence; leave divergence",
        ),
        ({"vocabulary": "uld", "sft_weight": 0}, "cannot tell tokens apart; set sft_weight above 0"),
        ({"vocabulary": "uld", "top_k": 0}, "set top_k above 0"),
        (
            {"vocabulary": "uld", "on_policy": 0.5},
            "on_policy > 0 needs a teacher that can read the student's tokens",
        ),
        ({"vocabulary": "text", "on_policy": 0.5}, "on_policy > 0 needs"),
        (
            {"vocabulary": "text", "temperature": 2},
            "vocabulary=text does not use temperature; leave temperature out",
        ),
        ({"vocabulary": "text", "top_k": 5}, "vocabulary=text does not use top_k"),
        ({"temperature": 0}, "temperature: Input should be greater than 0"),
        ({"temprature": 2}, "unknown setting 'temprature'. Did you mean 'temperature'"),
        ({"sft_weight": 1.0}, "sft_weight: Input should be"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    given = options if not options or "teacher" in options else {"teacher": "big", **options}
    with pytest.raises(ConfigError, match=message):
        options_of("distill", given)


def test_settings_that_the_vocabularies_leave_without_use_are_refused():
    """auto turns out to be uld: what was asked for beside it is checked again."""
    message = r"distill \(the vocabularies need uld\): value: vocabulary=uld does not use divergence"
    with pytest.raises(ConfigError, match=message):
        distill(SAME, OTHER, divergence="js")
    with pytest.raises(ConfigError, match="set top_k above 0"):
        distill(SAME, OTHER, top_k=0)
    with pytest.raises(ConfigError, match="vocabulary=same, but the teacher has 50 tokens"):
        distill(SAME, OTHER, vocabulary="same")
    assert distill(SAME, SAME, divergence="js").options.vocabulary == "same"


def test_what_it_requires():
    plain, own = distill(), distill(on_policy=0.5)
    assert isinstance(plain, Objective) and plain.requires == {"teacher"} and plain.cached
    assert own.requires == {"teacher", "student_answers"} and not own.cached  # not known before
    assert (own.asked.temperature, own.asked.top_k, own.asked.size) == (1.0, 64, VOCAB)
    other = distill(temperature=2.0).asked
    with pytest.raises(AssertionError, match="asked for"):
        plain.with_teacher(Given(asked=other, logits=torch.zeros(0)))
    assert (
        plain.with_teacher(Given(asked=plain.asked, logits=torch.zeros(0))) is not plain
        and plain.teacher is None
    )


class Recorder:
    """A renderer that says what it was asked for."""

    def conversation(self, example):
        return [Tokens([1, len(example.messages)], [0.0, 1.0], meta=example.meta)]

    def documents(self, example):
        return [Tokens([2, len(example.text)], [0.0, 1.0], meta=example.meta)]


def test_rows_are_rendered_as_for_sft_and_text():
    user, answer, objective = Message("user", "hi"), Message("assistant", "yes"), distill()
    assert objective.encode(Conversation((user, answer)), Recorder())[0].ids == [1, 2]
    assert objective.encode(Labelled((user,), "spam"), Recorder())[0].ids == [1, 2]
    assert objective.encode(Text("abc"), Recorder())[0].ids == [2, 3]
    with pytest.raises(ConfigError, match=r"'distill' learns to write answers, but the label of a.jsonl:3"):
        objective.encode(Labelled((user,), 2.5, Meta("a.jsonl", 3)), Recorder())
