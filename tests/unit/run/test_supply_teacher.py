"""Rows as student and teacher read them, answers on disk, and what a verdict makes of a teacher."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from peft import LoraConfig

from tests.tiny import chat_tokenizer, tiny_model, tiny_tokenizer
from tunewright.core.errors import ConfigError, RunError
from tunewright.core.hashing import digest
from tunewright.core.paths import RunDir
from tunewright.core.records import Conversation, Labelled, Message, Meta, Text, Tokens
from tunewright.data.render import Renderer
from tunewright.evaluate.runner import Answers, Question
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of
from tunewright.run import prove, teacher_text
from tunewright.run.supply_student_answers import longest_answer
from tunewright.run.supply_teacher import lessons
from tunewright.run.teacher_text import Written, check_questions
from tunewright.run.teaching import Teacher, check_unchanged

TURNS = (
    Message("user", "What is the capital of France?"),
    Message("assistant", "Paris."),
    Message("user", "And of the order?"),
    Message("assistant", "A ticket."),
)
ROWS = [Conversation(TURNS[:2], Meta("rows.jsonl", 1)), Conversation(TURNS[2:], Meta("rows.jsonl", 2))]


def teacher_with(tokenizer, train_on="assistant", context=512, **options):
    """A teacher that reads with ``tokenizer``, for a student that reads with the tiny one."""
    objective = make_objective("distill", options_of("distill", {"teacher": "big", **options}))
    model = tiny_model("llama", len(tokenizer.get_vocab()), max_position_embeddings=context)
    loaded = SimpleNamespace(model=model, tokenizer=tokenizer, ref=SimpleNamespace(name="big"), virtual=0)
    resolved = objective.resolved(tiny_tokenizer().get_vocab(), tokenizer.get_vocab())
    return Teacher(loaded, Renderer(tokenizer, train_on=train_on), resolved)


def ready_with(rows, train_on="assistant", max_length=None, template="chatml"):
    renderer = Renderer(tiny_tokenizer(template=template), train_on=train_on, max_length=max_length)
    objective = make_objective("distill", options_of("distill", {"teacher": "big"}))
    sequences = [t for row in rows for t in objective.encode(row, renderer) if t.trained]
    ready = SimpleNamespace(
        parts=SimpleNamespace(objective=objective, renderer=renderer),
        splits=SimpleNamespace(train=rows, validation=[]),
    )
    return ready, sequences


# --- rows side by side


def test_with_the_same_vocabulary_a_row_is_read_once():
    ready, sequences = ready_with(ROWS)
    found = lessons(ready, teacher_with(tiny_tokenizer()), "", sequences)
    assert all(
        lesson.student is lesson.teacher is tokens for lesson, tokens in zip(found, sequences, strict=True)
    )


def test_with_another_the_teacher_reads_the_same_answers_its_own_way():
    tokenizer = tiny_tokenizer("metaspace")
    ready, sequences = ready_with(ROWS)
    found = lessons(ready, teacher_with(tokenizer), "", sequences)
    assert [lesson.student for lesson in found] == sequences
    for row, lesson in zip(ROWS, found, strict=True):
        assert lesson.teacher.ids == Renderer(tokenizer).conversation(row)[0].ids != lesson.student.ids
        assert lesson.teacher.meta == lesson.student.meta == row.meta


def test_rows_that_teach_the_student_nothing_are_left_out_on_both_sides():
    mute = Conversation((TURNS[0], Message("assistant", "Paris.", 0.0)), Meta("rows.jsonl", 3))
    ready, sequences = ready_with([ROWS[0], mute, ROWS[1]])
    found = lessons(ready, teacher_with(tiny_tokenizer("unigram")), "", sequences)
    assert [lesson.teacher.meta.line for lesson in found] == [1, 2]


def test_pieces_that_cannot_be_set_side_by_side_are_refused():
    """Qwen3's template rewrites earlier turns, so a chat of two answers becomes two sequences."""
    chat = [Conversation(TURNS, Meta("rows.jsonl", 7))]
    ready, sequences = ready_with(chat)
    with pytest.raises(
        ConfigError, match=r"rows\.jsonl:7: .* in 1 pieces and the teacher in 2.*train_on=last"
    ):
        lessons(ready, teacher_with(chat_tokenizer("qwen3", "metaspace")), "", sequences)
    ready, sequences = ready_with(chat, train_on="last")
    assert len(lessons(ready, teacher_with(chat_tokenizer("qwen3", "metaspace"), "last"), "", sequences)) == 1


def test_a_row_beyond_the_context_of_the_teacher_is_refused():
    ready, sequences = ready_with(ROWS)
    longest = max(len(tokens.ids) for tokens in sequences)
    assert lessons(ready, teacher_with(tiny_tokenizer(), context=longest), "", sequences)
    with pytest.raises(
        ConfigError, match=rf"the teacher big reads at most {longest - 1} tokens, but rows\.jsonl"
    ):
        lessons(ready, teacher_with(tiny_tokenizer(), context=longest - 1), "", sequences)


# --- answers that the teacher writes


def test_a_document_has_no_question():
    teacher = teacher_with(tiny_tokenizer(), vocabulary="text")
    labelled = Labelled((Message("user", "broken"),), "refund", Meta("rows.jsonl", 4))
    prompts = check_questions(teacher, [*ROWS, labelled])
    assert prompts[2] == teacher.renderer.prompt(labelled.messages)
    assert prompts[0] == teacher.renderer.prompt(TURNS[:1])
    with pytest.raises(ConfigError, match=r"texts\.txt:9 is a document"):
        check_questions(teacher, [Text("The capital", Meta("texts.txt", 9))])


def test_only_the_new_answer_is_learnt():
    written = Written("rows.jsonl", 1, "", "Lyon.", cut=False)
    row = Conversation(
        (*TURNS[:3], Message("assistant", "old", 0.5, {"name": "x"})), Meta("rows.jsonl", 1), ({"a": 1},)
    )
    found = teacher_text._answered(row, written)
    assert [m.weight for m in found.messages] == [None, 0.0, None, 0.5]
    assert found.messages[-1] == Message("assistant", "Lyon.", 0.5)
    assert found.messages[1].content == "Paris." and found.tools == row.tools and found.meta == row.meta


@pytest.mark.parametrize(
    ("answer", "cut", "usable"),
    [("yes", False, True), ("yes", True, False), (" \n", False, False), ("", True, False)],
)
def test_an_answer_is_of_use_if_it_is_whole_and_says_something(answer, cut, usable):
    assert Written("f", 1, "", answer, cut).usable is usable


def stored(path, count, prompts):
    lines = [json.dumps(vars_of(Written("f", i, digest(prompts[i]), f"a{i}", False))) for i in range(count)]
    path.write_text("".join(line + "\n" for line in lines))


def vars_of(written):
    return {name: getattr(written, name) for name in Written.__dataclass_fields__}


def test_what_a_crash_left_of_a_piece_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_text, "PIECE", 4)
    path, prompts = tmp_path / "teacher.jsonl", [[i] for i in range(10)]
    rows = [None] * 10
    assert teacher_text._read(path, rows, prompts) == []
    for lines, kept in ((3, 0), (4, 4), (7, 4), (8, 8), (9, 8), (10, 10)):
        stored(path, lines, prompts)
        with path.open("a") as f:
            f.write('{"source": "f", "li')
        done = teacher_text._read(path, rows, prompts)
        assert [w.answer for w in done] == [f"a{i}" for i in range(kept)]
        assert len(path.read_text().splitlines()) == kept


def test_answers_to_other_prompts_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_text, "PIECE", 2)
    path, prompts = tmp_path / "teacher.jsonl", [[i] for i in range(4)]
    stored(path, 4, prompts)
    with pytest.raises(RunError, match="answers other prompts than those of this run"):
        teacher_text._read(path, [None] * 4, [[0], [1], [9], [3]])
    path.write_text('{"answer": 1}\n' * 4)
    with pytest.raises(RunError, match="is damaged; delete it"):
        teacher_text._read(path, [None] * 4, prompts)


# --- answers that the student writes


def test_the_student_may_write_a_quarter_more_than_the_longest_answer():
    renderer = Renderer(tiny_tokenizer())
    sequences = [renderer.conversation(row)[0] for row in ROWS]
    tails = [
        len(t.ids) - len(renderer.prompt(row.messages[:1])) for row, t in zip(ROWS, sequences, strict=True)
    ]
    assert longest_answer(sequences) == int(1.25 * max(tails)) + 8
    long = Tokens([0] * 900, [0.0] + [1.0] * 899, renderer.conversation(ROWS[0])[0].spans)
    assert longest_answer([long]) == 512
    with pytest.raises(ConfigError, match="no training row has a question"):
        longest_answer([Tokens([1, 2], [0.0, 1.0])])


# --- who the teacher is


def test_a_record_of_each_teacher(tmp_path):
    run = RunDir(tmp_path)
    for task, identity in (("", "a"), ("", "a"), ("other", "b")):
        check_unchanged(run, task, {"name": "big", "identity": identity})
    assert json.loads((tmp_path / "teacher.json").read_text())["other"] == {"name": "big", "identity": "b"}
    with pytest.raises(RunError, match="the teacher big is not the one that the run was begun with"):
        check_unchanged(run, "other", {"name": "big", "identity": "a"})
    (tmp_path / "teacher.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        check_unchanged(run, "", {"name": "big", "identity": "a"})


def identity(dtype="float32", train_on="assistant", adapter=None, tokenizer=None, **options):
    found = teacher_with(tokenizer or tiny_tokenizer(), train_on, **options)
    found.loaded.precision = SimpleNamespace(dtype=dtype)
    if adapter is not None:
        found.loaded.model.peft_config = {"default": LoraConfig(**adapter)}
    return found.identity


def test_all_that_decides_what_a_teacher_says_is_in_its_identity():
    assert identity() == identity(train_on="last")  # it reads the student's tokens
    assert identity() != identity("bfloat16")
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    plain = identity(adapter=lora)
    assert plain == identity(adapter={**lora, "target_modules": ["v_proj", "q_proj"]})
    assert plain == identity(adapter={**lora, "base_model_name_or_path": "elsewhere"})
    assert len({plain, identity(), identity(adapter={**lora, "lora_alpha": 4})}) == 3
    other = tiny_tokenizer("metaspace")
    texts = [identity(tokenizer=other), identity(tokenizer=other, train_on="last")]
    other.chat_template = tiny_tokenizer(template="llama3").chat_template
    assert len({*texts, identity(tokenizer=other)}) == 3  # it reads the rows its own way


# --- the verdict


def test_a_teacher_is_compared_with_but_not_to_be_beaten():
    right = {"zero_shot": 10, "teacher": 100, "tuned": 80}
    systems = {
        name: Answers(texts=["x"] * 100, scores={"exact_match": np.array([1.0] * n + [0.0] * (100 - n))})
        for name, n in right.items()
    }

    def judged(beside):
        return prove.measure(systems, "tuned", ["exact_match"], level=0.95, clusters=None, beside=beside)

    [metric], verdict = judged(frozenset({"teacher"}))
    assert (verdict["word"], verdict["against"]) == ("SHIP", "zero_shot")
    found = metric["differences"]["teacher"]
    assert found["value"] == pytest.approx(-0.2) and found["high"] < 0
    assert judged(frozenset())[1]["word"] == "DON'T SHIP"
    del systems["zero_shot"]
    assert judged(frozenset({"teacher"}))[1]["word"] == "CAN'T TELL"
    assert "no baseline" in judged(frozenset({"teacher"}))[1]["reason"]


def test_gains_are_shown_against_what_is_to_be_beaten(monkeypatch):
    """Row 1 is the gain over the untouched model; over the teacher it would be row 0."""
    monkeypatch.setattr(prove, "SHOWN", 1)
    scores = {"zero_shot": "101000", "teacher": "011111", "tuned": "110000"}
    systems = {
        name: Answers(texts=list(marks), scores={"exact_match": np.array([float(m) for m in marks])})
        for name, marks in scores.items()
    }
    questions = [Question((), "", Text(str(i), Meta("f", i))) for i in range(6)]

    def best(beside):
        shown = prove.side_by_side(questions, systems, "tuned", "exact_match", beside)
        assert all(set(row["answers"]) == set(scores) for row in shown)
        return [row["where"] for row in shown if row["group"] == "best"]

    assert best(frozenset({"teacher"})) == ["f:1"] and best(frozenset()) == ["f:0"]
