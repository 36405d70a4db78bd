"""A teacher asked live or from disk says the same; what changed is asked again, damage is never used."""

import math

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_model
from tunewright.core.errors import ConfigError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.objectives.divergences import TopK, forward_kl, matched, top_k
from tunewright.objectives.teacher import Asked, LiveTeacher, fingerprint, vocabulary_of
from tunewright.objectives.teacher_cache import CachedTeacher, aligned, sequence_keys

VOCAB = 50
ASKED = Asked(temperature=2.0, top_k=6, size=VOCAB)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", VOCAB)


def sequences(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        n = int(torch.randint(3, 12, (1,), generator=generator))
        ids = torch.randint(0, VOCAB, (n,), generator=generator).tolist()
        found.append(
            Tokens(ids, [0.0, *torch.randint(0, 2, (n - 2,), generator=generator).float().tolist(), 1.0])
        )
    return found


def batches(rows, size=3):
    return [build_batch(rows[i : i + size], range(i, i + size)) for i in range(0, len(rows), size)]


def twice(found):
    return [(batch, batch) for batch in found]


def every(batch):
    return torch.arange(len(batch.targets.ids))


class Counting:
    """A live teacher that counts the targets it is asked for and stops at a limit, as a killed run does."""

    def __init__(self, model, asked=ASKED, limit=math.inf):
        self.asked, self.limit, self.targets = asked, limit, 0
        self.live = LiveTeacher(ModelForward(model), asked)

    def distribution(self, batch, rows):
        self.targets += len(rows)
        if self.targets > self.limit:
            raise KeyboardInterrupt
        return self.live.distribution(batch, rows)


def test_live_teacher_says_what_the_model_says(model):
    batch = build_batch(sequences(4))
    rows = torch.tensor([5, 0, 7])
    found = LiveTeacher(ModelForward(model), Asked(2.0, 0, VOCAB)).distribution(batch, rows)
    for row, said in zip(rows.tolist(), found, strict=True):
        segment = batch.segments[batch.targets.segment[row]]
        prefix = batch.ids[segment.start : batch.targets.source[row] + 1]
        with torch.no_grad():
            expected = (model(prefix[None]).logits[0, -1] / 2).log_softmax(-1)
        assert torch.allclose(said, expected, atol=1e-5)
    top = LiveTeacher(ModelForward(model), ASKED).distribution(batch, rows)
    assert all(torch.equal(a, b) for a, b in zip(top, top_k(found, 6), strict=True))
    assert not found.requires_grad and top.ids.dtype == torch.long


def test_padding_rows_of_the_output_layer_are_cut_off(model):
    """Of 50 outputs 40 are tokens: their probabilities add up to 1."""
    batch = build_batch(sequences(2))
    found = LiveTeacher(ModelForward(model), Asked(1.0, 0, 40)).distribution(batch, every(batch))
    assert found.shape[1] == 40 and torch.allclose(found.exp().sum(-1), torch.ones(len(found)))


def test_hidden_states_are_computed_once_per_batch(model):
    forward, calls = ModelForward(model), []
    plain = forward.hidden
    forward.hidden = lambda batch: calls.append(batch) or plain(batch)
    teacher = LiveTeacher(forward, ASKED)
    one, other = batches(sequences(6))
    for batch in (one, one, other, other, one):
        teacher.distribution(batch, torch.tensor([0, 1]))
    assert [batch is one for batch in calls] == [True, False, True]


def same(found, expected):
    """The same tokens, and numbers that differ by the rounding of another packing at most."""
    numbers = zip(found[:2], expected[:2], strict=True)
    return torch.equal(found.ids, expected.ids) and all(torch.allclose(a, b, atol=1e-6) for a, b in numbers)


def test_cache_round_trip_in_any_order_and_packing(model, tmp_path):
    rows = sequences(20)
    live = Counting(model)
    first = CachedTeacher(tmp_path, "t", ASKED)
    filled = first.fill(twice(batches(rows)), live, file_targets=16)
    total = sum(tokens.trained for tokens in rows)
    assert filled == (total, 0, ()) and live.targets == total
    assert len(list(tmp_path.rglob("*.safetensors"))) > 3
    again = CachedTeacher(tmp_path, "t", ASKED)
    for cached in (first, again):
        for batch in batches(rows):
            order = every(batch).flip(0)[::2]
            assert same(cached.distribution(batch, order), live.live.distribution(batch, order))
        mixed = build_batch(rows[::-1])
        found, expected = (t.distribution(mixed, every(mixed)) for t in (cached, live.live))
        assert same(found, expected)
    assert again.fill(twice(batches(rows)), live) == (0, total, ()) and live.targets == total
    assert again.distribution(batch, torch.empty(0, dtype=torch.long)).logprobs.shape == (0, 6)


def test_branches_and_repeated_rows_are_found_too(model, tmp_path):
    branches = (Tokens([7, 8], [1.0, 1.0]), Tokens([9], [1.0]))
    tree, twin = Tokens([1, 2, 3], [0.0] * 3, branches=branches), Tokens([1, 2, 3, 7], [0.0, 0.0, 0.0, 1.0])
    live, cached = Counting(model), CachedTeacher(tmp_path, "t", ASKED)
    assert cached.fill(twice([build_batch([tree, twin, twin])]), live).computed == 4  # 3 in the tree, 1 once
    elsewhere = twice([build_batch([tree]), build_batch([tree, twin])])  # again before anything is written
    filled = CachedTeacher(tmp_path / "b", "t", ASKED).fill(elsewhere, live)
    assert (filled.computed, filled.reused) == (4, 3)
    batch = build_batch([twin, tree])
    assert same(cached.distribution(batch, every(batch)), live.live.distribution(batch, every(batch)))


def test_a_killed_run_goes_on_where_it_stopped(model, tmp_path):
    rows = sequences(30)
    total = sum(tokens.trained for tokens in rows)
    with pytest.raises(KeyboardInterrupt):
        CachedTeacher(tmp_path, "t", ASKED).fill(twice(batches(rows)), Counting(model, limit=80), 16)
    kept = sum(len(f["rest"]) for f in CachedTeacher(tmp_path, "t", ASKED)._files)
    assert 40 < kept <= 80 < total
    folder = next(tmp_path.rglob("*.safetensors")).parent
    (folder / ".abc.safetensors.1234.tmp").write_bytes(b"half a file")
    live = Counting(model)
    cached = CachedTeacher(tmp_path, "t", ASKED)
    assert cached.fill(twice(batches(rows)), live, 16) == (total - kept, kept, ())
    assert live.targets == total - kept
    for batch in batches(rows):
        assert same(cached.distribution(batch, every(batch)), live.live.distribution(batch, every(batch)))


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_damaged_file_is_dropped_named_and_computed_again(model, tmp_path, harm):
    rows = sequences(20)
    CachedTeacher(tmp_path, "t", ASKED).fill(twice(batches(rows)), Counting(model), 16)
    path = sorted(tmp_path.rglob("*.safetensors"))[1]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data[:-40] if harm == "cut" else data)
    live, cached = Counting(model), CachedTeacher(tmp_path, "t", ASKED)
    filled = cached.fill(twice(batches(rows)), live)
    assert filled.damaged == (path.name,) and 16 <= filled.computed < 40 and filled.reused > 0
    for batch in batches(rows):
        assert same(cached.distribution(batch, every(batch)), live.live.distribution(batch, every(batch)))
    assert CachedTeacher(tmp_path, "t", ASKED).fill(twice(batches(rows)), live).damaged == ()


def test_nothing_stale_is_used(model, tmp_path):
    row = Tokens([1, 2, 3, 4], [0.0, 0.0, 1.0, 1.0])
    CachedTeacher(tmp_path, "t", ASKED).fill(twice([build_batch([row])]), Counting(model))

    def computed(teacher="t", asked=ASKED, tokens=row):
        cached = CachedTeacher(tmp_path, teacher, asked)
        return cached.fill(twice([build_batch([tokens])]), Counting(model, asked)).computed

    assert computed() == 0
    assert computed(teacher="another") == 2
    assert computed(asked=ASKED._replace(temperature=1.0)) == 2
    assert computed(asked=ASKED._replace(top_k=5)) == 2
    assert computed(asked=ASKED._replace(size=40)) == 2
    assert computed(tokens=Tokens([1, 9, 3, 4], [0.0, 0.0, 1.0, 1.0])) == 2  # another prompt
    assert computed(tokens=Tokens([1, 2, 3, 4], [0.0, 1.0, 1.0, 1.0])) == 3  # other targets
    assert computed(tokens=Tokens([1, 2, 3, 4], [0.0, 0.0, 0.5, 2.0])) == 0  # weights do not concern it
    batch = build_batch([Tokens([5, 6], [0.0, 1.0])], rows=(17,))
    with pytest.raises(AssertionError, match=r"rows \(17,\) hold a sequence that the teacher never read"):
        CachedTeacher(tmp_path, "t", ASKED).distribution(batch, every(batch))


def test_keys_tell_prefixes_apart():
    """A branch is not the same after another prompt; where the prompt is cut off does not matter."""

    def keys(prompt, answer):
        branch = Tokens(answer, [0.0] * (len(answer) - 1) + [1.0])
        return [
            key
            for key, _ in sequence_keys(
                build_batch([Tokens(prompt, [0.0] * len(prompt), branches=(branch,))])
            )
        ]

    assert keys([1, 2], [3]) == keys([1], [2, 3]) != keys([1, 4], [3])


def test_answers_are_aligned_by_position_and_turn():
    """Two turns; the student needs 3 and 2 tokens, the teacher 2 and 3."""
    student = build_batch([Tokens(list(range(9)), [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0])])
    teacher = build_batch([Tokens(list(range(8)), [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0])])
    assert aligned(student, teacher).tolist() == [0, 1, -1, 2, 3]
    assert aligned(teacher, student).tolist() == [0, 1, 3, 4, -1]
    assert aligned(student, student).tolist() == [0, 1, 2, 3, 4]


def test_a_teacher_of_another_vocabulary_is_kept_by_rank(model, tmp_path):
    """The student's tokens beyond the teacher's answer have no partner and read NaN."""
    asked = Asked(1.0, 60, None)  # more than its 50 tokens
    student = build_batch(
        [Tokens([900, 901, 902, 903], [0.0, 1.0, 1.0, 1.0]), Tokens([904, 905], [0.0, 1.0])]
    )
    teacher = build_batch([Tokens([1, 2, 3], [0.0, 1.0, 1.0]), Tokens([4, 5], [0.0, 1.0])])
    live = LiveTeacher(ModelForward(model), asked)
    CachedTeacher(tmp_path, "t", asked).fill([(student, teacher)], live)
    found = CachedTeacher(tmp_path, "t", asked).distribution(student, every(student))
    assert found.ids is None and found.rest.isnan().tolist() == [False, False, True, False]
    expected = live.distribution(teacher, every(teacher))
    assert torch.allclose(found.logprobs[[0, 1, 3]], expected.logprobs, atol=1e-6)
    assert found.logprobs[2].isnan().all()
    assert (found.logprobs[0].diff() <= 0).all() and found.logprobs.shape[1] == 50
    short = build_batch([Tokens([1, 2, 3], [0.0, 1.0, 1.0])])
    with pytest.raises(AssertionError, match="2 sequences for the student, 1 for the teacher"):
        CachedTeacher(tmp_path, "u", asked).fill([(student, short)], live)


def test_vocabularies():
    one = {"a": 0, "b": 1, "c": 2}
    assert vocabulary_of("auto", one, dict(reversed(one.items()))) == "same"
    assert vocabulary_of("auto", one, {**one, "d": 3}) == "uld"
    assert vocabulary_of("text", one, one) == "text" and vocabulary_of("uld", one, one) == "uld"
    message = r"teacher has 4 tokens and the student 3, and token 'd' has id 3 in the teacher and None in the"
    with pytest.raises(ConfigError, match=message + r" student.*vocabulary=uld.*vocabulary=text"):
        vocabulary_of("same", one, {**one, "d": 3})
    with pytest.raises(ConfigError, match="token 'b' has id 2 in the teacher and 1 in the student"):
        vocabulary_of("same", one, {"a": 0, "b": 2, "c": 1})


def test_fingerprint_knows_the_weights_and_the_architecture():
    plain = fingerprint(tiny_model("llama", VOCAB))
    assert fingerprint(tiny_model("llama", VOCAB)) == plain
    changed = tiny_model("llama", VOCAB)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    others = [
        fingerprint(changed),
        fingerprint(tiny_model("llama", VOCAB, rms_norm_eps=1e-3)),  # no weight tells of it
        fingerprint(tiny_model("llama", VOCAB).bfloat16()),
        fingerprint(tiny_model("llama", VOCAB), "prompt: be brief"),
    ]
    assert len({plain, *others}) == 5


def test_top_k_survives_the_way_through_one_tensor(model):
    """Ids are exact, and a k beyond the vocabulary is all of it."""
    batch = build_batch(sequences(1))
    found = LiveTeacher(ModelForward(model), Asked(1.0, 200, VOCAB)).distribution(batch, every(batch))
    assert isinstance(found, TopK) and found.logprobs.shape[1] == VOCAB
    assert (found.rest == -math.inf).all() and found.ids.sort(-1).values.tolist() == [[*range(VOCAB)]] * len(
        found.ids
    )


def test_why_files_hold_float32(model, tmp_path):
    """A student close to its teacher: float16 shifts its loss by half of it, float32 by a ten-thousandth."""
    batch = build_batch(sequences(12))
    sharp = ModelForward(tiny_model("llama", VOCAB, initializer_range=0.2))
    live = LiveTeacher(sharp, Asked(1.0, 0, VOCAB)).distribution(batch, every(batch))
    noise = torch.randn(live.shape, generator=torch.Generator().manual_seed(1))
    student = (live + 0.02 * noise).log_softmax(-1)
    exact = forward_kl(*matched(top_k(live.double(), 6), student.double()))
    kept = top_k(live, 6)

    def error(top):
        return float(((forward_kl(*matched(top, student)) - exact).abs() / exact.mean()).max())

    halved = kept._replace(logprobs=kept.logprobs.half().float(), rest=kept.rest.half().float())
    assert error(kept) < 0.005 and error(halved) > 0.5
    CachedTeacher(tmp_path, "t", ASKED).fill(twice([batch]), Counting(model))
    stored = load_file(next(tmp_path.rglob("*.safetensors")))
    assert stored["logprobs"].dtype == stored["rest"].dtype == torch.float32
    assert stored["ids"].dtype == torch.int32
