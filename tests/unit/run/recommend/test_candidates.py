"""What is read of the problem and of candidates, and what is left out of them."""

import json

import pytest

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Conversation, Labelled
from tunewright.data.keys import prompt_key
from tunewright.run.recommend import candidates
from tunewright.run.recommend.candidates import read_candidates
from tunewright.run.recommend.goal import read_problem, read_test


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def qa(count, start=0, word="thing"):
    return [{"question": f"{word} {i}?", "answer": f"answer {i}"} for i in range(start, start + count)]


@pytest.fixture
def problem(tmp_path):
    return read_problem(write(tmp_path / "problem.jsonl", qa(20)), 0)


def only(tmp_path, rows, problem, test=()):
    [found] = read_candidates([write(tmp_path / "c.jsonl", rows)], problem, list(test), 0)
    return found


def test_the_halves_share_no_question_and_depend_on_the_seed(tmp_path):
    rows = [*qa(20), *({**row, "answer": "other"} for row in qa(6))]
    path = write(tmp_path / "p.jsonl", rows)
    found = read_problem(path, 0)
    guide, held_out = ({prompt_key(e) for e in half} for half in (found.guide, found.held_out))
    assert not guide & held_out
    assert len(found.guide) + len(found.held_out) == 26
    assert abs(len(found.guide) - len(found.held_out)) <= 2
    assert found.guide == read_problem(path, 0).guide != read_problem(path, 1).guide


def test_a_problem_must_have_rows_that_can_be_learnt(tmp_path):
    with pytest.raises(DataError, match=r"8 or more .* it has 5 conversation rows, of which 5 can be used"):
        read_problem(write(tmp_path / "few.jsonl", qa(5)), 0)
    pairs = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(9)]
    with pytest.raises(DataError, match="it has 9 preference rows, of which 0 can be used"):
        read_problem(write(tmp_path / "pairs.jsonl", pairs), 0)
    alike = [{"question": "same?", "answer": f"{i}"} for i in range(9)]
    with pytest.raises(DataError, match="all ask the same"):
        read_problem(write(tmp_path / "alike.jsonl", alike), 0)


def test_of_a_large_problem_a_draw_is_used(tmp_path):
    found = read_problem(write(tmp_path / "p.jsonl", qa(260)), 0)
    assert len(found.examples) == 200
    assert "200 of 260 examples of the problem were used, a seeded draw" in found.notes
    assert {e.messages[0].content for e in found.examples} != {f"thing {i}?" for i in range(200)}
    candidate = only(tmp_path, [*qa(260), *qa(9, 300)], found)
    assert len(candidate.examples) == 9  # what was not drawn is the problem's all the same


def test_what_is_left_out_of_a_problem_is_said(tmp_path):
    path = write(tmp_path / "p.jsonl", [*qa(9), *qa(2), {"question": "", "answer": "x"}])
    notes = read_problem(path, 0).notes
    assert any("1 unusable rows" in note for note in notes)
    assert any("2 rows of the problem repeat" in note for note in notes)
    assert any("only 9 examples" in note for note in notes)


def test_duplicates_of_problem_and_test_are_counted_and_left_out(tmp_path, problem):
    test = [
        Conversation(e.messages) for e in read_problem(write(tmp_path / "t.jsonl", qa(9, 100)), 0).examples
    ]
    rows = [
        *qa(10, 50),
        *qa(2),  # of the problem
        {"question": "THING  3?", "answer": "another"},  # the same question
        *qa(3, 100),  # of the test file
    ]
    found = only(tmp_path, rows, problem, test)
    assert found.rows == 16
    assert found.duplicates == {"problem_exact": 2, "problem_prompt": 1, "test_exact": 3, "rows": 6}
    assert {e.messages[0].content for e in found.examples} == {f"thing {i}?" for i in range(50, 60)}
    assert found.fault is None


def test_a_question_of_the_problem_inside_a_longer_chat_counts(tmp_path, problem):
    chat = [
        {"role": "user", "content": "thing 4?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "and now?"},
        {"role": "assistant", "content": "yes"},
    ]
    rows = [
        {"messages": chat},
        *({"messages": [{**t, "content": f"{t['content']}{i}"} for t in chat]} for i in range(5)),
    ]
    found = only(tmp_path, rows, problem)
    assert found.duplicates == {"problem_prompt": 1, "rows": 1}
    assert len(found.examples) == 5


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(9)],
            "another kind (preference)",
        ),
        ([{"text": f"document {i}"} for i in range(9)], "another kind (text)"),
        ([{"prompt": f"q{i}"} for i in range(9)], "another kind (prompt)"),
        ([{"text": f"t{i}", "label": 0.5 + i} for i in range(9)], "another kind (labelled)"),
        ([{"question": "", "answer": "a"}], "no usable row (1 unusable)"),
        (qa(20), "0 different rows are left of 20 (20 are in the problem or the test file)"),
        (qa(2, 50) * 5, "2 different rows are left of 10"),
        ([{"colour": "red"}], "cannot be read: "),
    ],
)
def test_a_candidate_that_cannot_be_compared_says_why(tmp_path, problem, rows, reason):
    found = only(tmp_path, rows, problem)
    assert found.fault is not None
    assert reason in found.fault


def test_missing_empty_and_binary_files_and_folders_are_refused_one_by_one(tmp_path, problem):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "folder").mkdir()
    good = write(tmp_path / "good.jsonl", qa(9, 50))
    names = ("missing.jsonl", "empty.jsonl", "binary.jsonl", "folder")
    found = read_candidates([*(tmp_path / name for name in names), good], problem, [], 0)
    assert all("cannot be read" in (c.fault or "") for c in found[:4])
    assert "is a folder without train.jsonl" in found[3].fault
    assert found[4].fault is None


def test_a_prepared_folder_stands_for_its_training_rows(tmp_path, problem):
    (tmp_path / "prepared").mkdir()
    write(tmp_path / "prepared" / "train.jsonl", qa(9, 50))
    [found] = read_candidates([tmp_path / "prepared"], problem, [], 0)
    assert (found.fault, len(found.examples)) == (None, 9)


def test_class_labels_are_answers_to_a_chat(tmp_path, problem):
    found = only(tmp_path, [{"text": f"t{i}", "label": "red"} for i in range(9)], problem)
    assert found.fault is None
    assert all(isinstance(e, Labelled) for e in found.examples)


def test_the_same_candidate_twice_none_and_a_bad_test_file(tmp_path, problem):
    with pytest.raises(ConfigError, match="given twice"):
        read_candidates([tmp_path / "a", tmp_path / "a"], problem, [], 0)
    with pytest.raises(ConfigError, match="no candidate is given"):
        read_candidates([], problem, [], 0)
    with pytest.raises(DataError, match="no row of the test file"):
        read_test(write(tmp_path / "bad.jsonl", [{"question": "", "answer": "a"}]))
    assert read_test(None) == []


def test_a_large_file_leaves_a_seeded_draw_that_smaller_draws_begin(tmp_path, problem, monkeypatch):
    rows = qa(60, 50)
    whole = only(tmp_path, rows, problem).examples
    monkeypatch.setattr(candidates, "POOL", 10)
    few = only(tmp_path, rows, problem)
    assert few.rows == 60
    assert few.examples == whole[:10]
    assert few.examples == only(tmp_path, [*rows, *rows], problem).examples  # repeats count once
    [other] = read_candidates([tmp_path / "c.jsonl"], problem, [], 1)
    assert few.examples != other.examples
