"""Several tasks are judged apart: by names, rows, groups and baselines of their own."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.heads import labelled, objective
from tests.tiny import tiny_model
from tunewright.core.errors import ConfigError
from tunewright.core.paths import RunDir
from tunewright.core.records import Conversation, Message, Meta
from tunewright.evaluate.metrics import METRICS, split_task
from tunewright.evaluate.runner import Answers, Question
from tunewright.models.score import attach, head_called, heads_of, heads_of_task, is_head
from tunewright.objectives.base import HeadSpec
from tunewright.run import store
from tunewright.run.judge_tasks import KIND, TaskJudge, gathered, make, measured
from tunewright.run.judges import JUDGES, kind_for
from tunewright.run.judging import Settled
from tunewright.run.one_task import as_asked, for_task, task_asked
from tunewright.run.publish import TUNED, _proof

LEVEL = SimpleNamespace(evaluate=SimpleNamespace(level=0.95))


def multi(**tasks):
    return objective("multi", tasks=tasks or {"support": "sft", "intent": "classify"})


def chat(line, task="support", group=None):
    turns = Message("user", f"question {line}"), Message("assistant", "yes")
    return Conversation(turns, Meta("chats.jsonl", line, group=group, task=task))


def text(line, label="ham", task="intent"):
    row = labelled(f"text {line}", label, line)
    return replace(row, meta=replace(row.meta, task=task))


@dataclass
class Scripted:
    """A judge with given answers."""

    questions: list
    metrics: list
    given: Answers

    def __call__(self, model):
        return self.given

    def remarks(self, answers):
        assert answers.texts == self.given.texts and answers.scores.keys() == self.given.scores.keys()
        return [f"{answers.unfinished} cut"] if answers.unfinished else []


def asked(rows):
    return [Question(row.messages, "yes", row) for row in rows]


def scripted(scores, rows, name="exact_match", **facts):
    given = Answers(
        [f"said {i}" for i in range(len(scores))], scores={name: np.array(scores, float)}, **facts
    )
    return Scripted(asked(rows), [name], given)


def two_judges(support=(1, 1, 0, 1), intent=(1, 0), **facts):
    return TaskJudge(
        {
            "support": scripted(support, [chat(i) for i in range(len(support))], **facts),
            "intent": scripted(intent, [text(i) for i in range(len(intent))], "accuracy"),
        }
    )


def test_a_metric_of_a_task_is_the_metric():
    assert METRICS["support/exact_match"] == replace(METRICS["exact_match"], name="support/exact_match")
    assert METRICS["a/perplexity"].unit == "a/perplexity"  # named like the metric, so not said twice
    assert METRICS["a/json_field:x/y"].name == "a/json_field:x/y"
    assert "a/accuracy" in METRICS and "a/accuracies" not in METRICS and "a/json_field:q" in METRICS
    assert split_task("json_field:x/y") == ("", "json_field:x/y") and split_task("a/b:c/d") == ("a", "b:c/d")
    with pytest.raises(ConfigError, match="Did you mean 'exact_match'"):
        METRICS["support/exact_mach"]


def test_answers_of_tasks_become_one_and_come_apart_again(tmp_path):
    judge = two_judges(unfinished=2, new_tokens=7)
    answers = judge(tiny_model())
    assert list(judge.metrics) == ["support/exact_match", "intent/accuracy"] and len(judge.questions) == 6
    assert answers.unfinished == 2 and answers.new_tokens == 7
    assert {k: v.tolist() for k, v in answers.scores.items()} == {
        "support/exact_match": [1, 1, 0, 1],
        "intent/accuracy": [1, 0],
    }
    assert judge.remarks(answers) == ["task support: 2 cut"]
    store.write_answers(RunDir(tmp_path), {TUNED: answers})
    again = store.read_answers(RunDir(tmp_path))[TUNED]
    assert again.parts == answers.parts and judge.remarks(again) == ["task support: 2 cut"]
    assert (tmp_path / "answers.json").read_text().count("accuracy") == 1  # scores are stored once


def test_each_task_is_proven_on_its_own_rows():
    """support: 12 of 12 right against none. intent: 1 of 4 against 4. n and verdicts differ by task."""
    judge = two_judges([1] * 12, [1, 0, 0, 0])
    systems = {
        "zero_shot": gathered({"support": scripted([0] * 12, [], "exact_match").given}),
        "majority": gathered({"intent": scripted([1] * 4, [], "accuracy").given}),
        TUNED: judge(tiny_model()),
    }
    table, verdicts = _proof(LEVEL, _outcome(judge, systems))
    assert [(m["name"], m["n"], m["primary"], list(m["systems"])) for m in table] == [
        ("support/exact_match", 12, True, ["zero_shot", TUNED]),
        ("intent/accuracy", 4, False, ["majority", TUNED]),
    ]
    assert verdicts["support"]["word"] == "SHIP" and verdicts["support"]["against"] == "zero_shot"
    assert list(verdicts) == ["support", "intent"]
    assert verdicts["intent"]["difference"]["value"] == -0.75 and verdicts["intent"]["difference"]["n"] == 4


def _outcome(judge, systems, what=None):
    parts = SimpleNamespace(objective=what or multi())
    return SimpleNamespace(ready=SimpleNamespace(judge=judge, parts=parts), answers=systems)


def test_groups_widen_the_interval_of_their_own_task_alone():
    rows = [chat(i, group=f"g{i // 4}") for i in range(16)]  # 4 groups of 4
    scores = [1.0] * 8 + [0.0] * 8
    judges = {
        "support": scripted(scores, rows),
        "intent": scripted(scores, [text(i) for i in range(16)], "accuracy"),
    }
    judge = TaskJudge(judges)
    table, _ = _proof(LEVEL, _outcome(judge, {TUNED: judge(tiny_model())}))
    grouped, alone = (m["systems"][TUNED] for m in table)
    assert grouped["value"] == alone["value"] == 0.5 and grouped["units"] == 4 and alone["units"] == 16
    assert grouped["high"] - grouped["low"] > 1.3 * (alone["high"] - alone["low"])


def test_a_task_with_one_row_proves_nothing_and_hides_nothing():
    judge = two_judges([1] * 12, [1])
    table, verdicts = _proof(LEVEL, _outcome(judge, {TUNED: judge(tiny_model())}))
    assert [m["name"] for m in table] == ["support/exact_match"]
    assert verdicts["intent"]["reason"].startswith("One test row proves nothing")


def test_without_tasks_everything_is_measured_together():
    judge = scripted([1, 0, 1], [chat(i) for i in range(3)])
    [part] = measured(judge, {TUNED: judge.given})
    assert part.task == "" and part.metrics == ["exact_match"] and part.systems[TUNED] is judge.given


# --- what is suggested, and compared with


def test_metrics_are_suggested_task_by_task():
    rows = [chat(1), chat(2), text(1), text(2, "spam")]
    names, reason = kind_for(multi()).suggest(rows)
    assert names == [
        *(f"support/{n}" for n in JUDGES["answers"].suggest(rows[:2])[0]),
        *(f"intent/{n}" for n in JUDGES["labels"].suggest(rows[2:])[0]),
    ]
    assert reason.startswith("support: ") and ", intent: " in reason
    assert kind_for(multi()).suggest(rows[:2])[0][0].startswith("support/")  # no row of intent, no metric


def test_ordinal_tasks_are_refined():
    what = multi(stars={"objective": "classify", "kind": "ordinal", "labels": ["1", "2", "3"]})
    names, _ = kind_for(what).suggest([text(1, "1", "stars"), text(2, "3", "stars")])
    assert "stars/rank_error" in names


def test_baselines_go_to_the_tasks_for_which_they_are_usual():
    kind = kind_for(multi())
    assert kind.usual == ("zero_shot", "majority", "naive_bayes")
    kind.check_baselines(["zero_shot", "few_shot", "majority", "intent/zero_shot", "support/few_shot"])
    with pytest.raises(ConfigError, match=r"'support/majority' does not suit"):
        kind.check_baselines(["support/majority"])
    assert kind.calibrate is not None and kind_for(multi(a="sft", b="sft")).calibrate is None


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("zero_shot", ["support"]), ("few_shot", ["support", "intent"]), ("intent/zero_shot", ["intent"])],
)
def test_who_is_asked_for_a_baseline(name, tasks, monkeypatch):
    """zero_shot is usual for chats alone; few_shot for none, so all that know it; a prefix names one."""
    seen = []

    def known(session, parts, judge, train):
        seen.append((parts.objective.name, judge, [row.meta.task for row in train]))
        return lambda: Answers(["x"], scores={"m": np.ones(1)})

    what, own = multi(), name.rpartition("/")[2]
    for judged in ("answers", "labels"):
        kind = JUDGES[judged]
        changed = replace(kind, baselines={**kind.baselines, own: known})
        monkeypatch.setitem(JUDGES._entries, judged, changed)
    monkeypatch.setattr("tunewright.run.judge_tasks.session_of", lambda session, task: session)
    monkeypatch.setattr("tunewright.run.judge_tasks._asking", lambda session, kind: session)
    monkeypatch.setattr("tunewright.run.judge_tasks.parts_of", lambda parts, task: _child(what, task))
    judge = TaskJudge({"support": "judge of support", "intent": "judge of intent"})
    score = kind_for(what).baselines[name](None, None, judge, [chat(1), text(1), text(2)])
    assert [judge for _, judge, _ in seen] == [f"judge of {task}" for task in tasks]
    assert all(set(rows) == {task} for (_, _, rows), task in zip(seen, tasks, strict=True))
    assert list(score().parts) == tasks and list(score().scores) == [f"{task}/m" for task in tasks]


def _child(what, task):
    return SimpleNamespace(objective=what.tasks[task])


def test_a_task_without_held_out_rows_cannot_be_measured():
    parts = SimpleNamespace(objective=multi())
    with pytest.raises(
        ConfigError, match=r"accuracy of the task 'intent' cannot be measured: none of 1 held-out"
    ):
        make(None, parts, [chat(1)], ["intent/accuracy"])


def test_the_kind_itself_is_never_used_unbound():
    with pytest.raises(AssertionError, match="kind_for"):
        KIND.suggest([])


# --- heads


def test_a_task_sees_its_own_head_by_the_name_it_has_alone():
    model = tiny_model()
    spec = HeadSpec(2, facts={"labels": ["a", "b"]})
    attach(model, {"score__x": spec, "score__y__x": replace(spec, outputs=3), "balance": HeadSpec(2, "none")})
    mine, other = model.score__x, model.score__y__x
    before = list(heads_of(model))
    with heads_of_task(model, "x"):
        assert heads_of(model) == {"score": mine} and head_called(model, "score") is mine
    with pytest.raises(ZeroDivisionError), heads_of_task(model, "y__x"):
        assert head_called(model, "score") is other
        _ = 1 / 0
    assert list(heads_of(model)) == before == ["score__x", "score__y__x", "balance"]
    with heads_of_task(model, "no head"):
        assert heads_of(model) == {}
    assert is_head("base_model.model.score__x.weight") and not is_head("model.scores.weight")


# --- judging a saved model on one task


def test_metrics_or_rows_say_which_task_is_judged():
    how = Settled(metrics=("support/exact_match", "intent/accuracy"))
    assert task_asked(replace(how, metrics=("intent/accuracy",)), [], chosen=True) == "intent"
    assert task_asked(how, [text(1)], chosen=False) == "intent"  # prepared by a run, so the rows know
    assert task_asked(replace(how, metrics=("accuracy",)), [], chosen=True) == ""
    unmarked = replace(text(1), meta=Meta("x.csv", 1))
    for rows in ([unmarked], [text(1), chat(1)]):
        with pytest.raises(ConfigError, match="--metric support/exact_match or --metric intent/accuracy"):
            task_asked(how, rows, chosen=False)
    with pytest.raises(ConfigError, match="say which one"):
        task_asked(how, [text(1)], chosen=True)


def test_the_rows_metrics_and_head_of_one_task_are_taken():
    @dataclass(frozen=True)
    class Held:
        model: object
        judges: bool = False

    model = tiny_model()
    attach(model, {"score__intent": HeadSpec(2)})
    how = Settled(metrics=("intent/accuracy", "support/exact_match"))
    loaded, rows, settled = for_task(Held(model), [text(1), chat(1)], how, "intent")
    assert loaded.judges and list(heads_of(model)) == ["score"]
    assert [row.meta.task for row in rows] == ["intent"] and settled.metrics == ["accuracy"]
    loaded, _, _ = for_task(Held(tiny_model()), [chat(1)], how, "support")
    assert not loaded.judges
    with pytest.raises(ConfigError, match="none of 1 rows is of the task 'intent'"):
        for_task(Held(model), [chat(1)], how, "intent")


def test_a_metric_is_called_as_it_was_asked_for():
    asked = ["sort/accuracy", "sort/json_field:a/b"]
    assert [as_asked(name, asked) for name in ("accuracy", "json_field:a/b", "macro_f1")] == [
        "sort/accuracy",
        "sort/json_field:a/b",
        "macro_f1",
    ]
    assert as_asked("accuracy", None) == "accuracy"
