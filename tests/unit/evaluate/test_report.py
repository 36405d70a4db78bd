"""Report and model card: numbers with intervals, nothing loaded, nothing unescaped, no empty frame."""

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tunewright.core.errors import RunError
from tunewright.evaluate import show
from tunewright.evaluate.card import model_card
from tunewright.evaluate.report import ReportData, render_report
from tunewright.evaluate.report_view import answer_groups, receipt_blocks

SAMPLE = json.loads((Path(__file__).parent / "report_sample.json").read_text("utf-8"))
VOID = {"meta", "br", "hr", "img", "input", "link"}
ATTACKS = [
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "</script><script>alert(3)</script>",
    "<img src=x onerror=alert(4)>",
    '" onmouseover="alert(5)" x="',
    "' onfocus='alert(6)",
    "<svg/onload=alert(7)>",
    "<a href='javascript:alert(8)'>x</a>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- --><iframe src=//example.org>",
    "]]><object data=x>",
    "<mark>fake</mark>",
]


class Page(HTMLParser):
    """Checks that tags balance, and keeps every start tag and all text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        names = [k for k, _ in attrs]
        assert len(names) == len(set(names)), f"repeated attribute in <{tag}>: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.stack):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def sample(**changes) -> dict:
    data = copy.deepcopy(SAMPLE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = data
        for parent in parents:
            at = at[parent]
        at[last] = value
    return data


def render(data: dict) -> tuple[str, Page]:
    html = render_report(ReportData(**data))
    return html, Page(html)


def replace_strings(value, text: str):
    """The same structure with ``text`` put behind every string that data or a model could have written."""
    if isinstance(value, dict):
        return {
            k: v if k in ("word", "status", "group") else replace_strings(v, text) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [replace_strings(v, text) for v in value]
    return value + text if isinstance(value, str) else value


def test_banner_shows_word_reason_and_the_key_number_with_interval_and_n():
    _, page = render(SAMPLE)
    assert page.tags.index(
        ("section", {"id": "verdict", "class": "verdict good", "aria-label": "Verdict"})
    ) < min(
        i for i, (tag, attrs) in enumerate(page.tags) if tag == "section" and attrs.get("id") == "numbers"
    )
    words = page.words
    assert "SHIP The tuned model is better than the best baseline" in words
    assert (
        "exact_match, on 60 test rows 61.7% Few-shot prompt 95 % interval 49.0 to 72.9 → then 81.7%" in words
    )
    assert "Tuned model 95 % interval 70.1 to 89.4 Difference +20.0 points (+6.7 to +33.3)" in words


@pytest.mark.parametrize("word, tone", [("SHIP", "good"), ("DON'T SHIP", "bad"), ("CAN'T TELL", "open")])
def test_each_verdict_has_its_word_in_banner_and_title(word, tone):
    html, page = render(sample(result__verdict__word=word, result__verdict__rows_that_would_decide=380))
    assert f"tickets (sample data): {word} · Tunewright report" in page.words
    assert f'class="verdict {tone}"' in html


def test_cant_tell_says_how_many_rows_would_decide():
    changes = {"result__verdict__word": "CAN'T TELL", "result__verdict__rows_that_would_decide": 1380}
    _, page = render(sample(**changes))
    assert "About 1,380 test rows would decide; this run had 60." in page.words
    changes["result__verdict__rows_that_would_decide"] = None
    _, page = render(sample(**changes))
    assert "No number of test rows can be named that would decide" in page.words


def test_every_score_stands_with_n_interval_and_lead_over_its_baseline():
    _, page = render(SAMPLE)
    for text in (
        "Share of answers equal to the reference. Higher is better, n = 60.",
        "Untouched model 13.3% 6.9 to 24.2 +68.3 points +55.0 to +80.0 42 / 1 / 17 < 0.001",
        "Few-shot prompt 61.7% 49.0 to 72.9 +20.0 points +6.7 to +33.3 16 / 4 / 40 0.007",
        "Lower is better, n = 60. Untouched model 2.91 nats 2.61 to 3.23 −2.42 nats −2.71 to −2.13",
    ):
        assert text in page.words, text


def test_shares_are_shown_as_percent_everywhere():
    data = sample()
    (metric, *_) = data["result"]["metrics"]
    metric["unit"] = "share"
    metric["description"] = "share of answers equal to the reference"
    for estimate in [*metric["systems"].values(), *metric["differences"].values()]:
        estimate |= {k: estimate[k] / 100 for k in ("value", "low", "high")}
    data["result"]["verdict"]["difference"] = metric["differences"]["few_shot"]
    assert render(data)[1].words == render(SAMPLE)[1].words
    assert model_card(data["result"], {}) == model_card(SAMPLE["result"], {})


def test_level_groups_and_cut_answers_are_told():
    data = sample(
        result__answers={
            "tuned": {"unfinished": 3},
            "zero_shot": {"unfinished": 0},
            "few_shot": {"unfinished": 1},
        }
    )
    for metric in data["result"]["metrics"]:
        for estimate in metric["systems"].values():
            estimate |= {"level": 0.9, "units": 20}
    _, page = render(data)
    assert "with 90 % confidence intervals" in page.words and "95 %" not in page.words
    assert "n = 60 in 20 groups resampled as a whole." in page.words
    assert "Tuned model: 3 answers cut at the length limit." in page.words
    assert "Few-shot prompt: 1 answer cut at the length limit." in page.words
    assert "Untouched model: 0" not in page.words


def test_a_unit_that_repeats_the_name_is_left_out_and_an_infinite_score_draws_nothing():
    data = sample()
    (metric, *_) = data["result"]["metrics"] = data["result"]["metrics"][2:]
    metric |= {"name": "perplexity", "unit": "perplexity", "primary": True}
    metric["systems"]["zero_shot"] |= {"value": 18.43, "low": 13.6, "high": math.inf}
    data["result"]["verdict"] |= {"metric": "perplexity", "against": "zero_shot"}
    html, page = render(data)
    assert "on 60 test rows 18.43 Untouched model 95 % interval 13.60 to inf" in page.words
    assert html.count('class="mark"') == 1
    assert "nan" not in html


def test_the_watched_metric_is_named_if_it_was_not_the_loss():
    watched = {"metric": "exact_match", "best": 0.825}
    training = {"stop_reason": "all 120 steps done", "best_step": 80, "final_step": 120, "watched": watched}
    _, page = render(sample(result__training=training | {"best_validation_loss": None, "overfitting": False}))
    assert (
        "after step 120: all 120 steps done. Exact match was best at step 80 (0.825), and that" in page.words
    )


def test_lower_is_better_turns_the_axis_and_keeps_the_tone():
    html, _ = render(SAMPLE)
    chart = next(
        c for c in re.findall(r"<svg class=\"chart\".*?</svg>", html) if "loss vs untouched model" in c
    )
    assert "← better" in chart and "worse →" in chart
    assert 'class="dot good"' in chart


def test_settings_receipt_cost_and_commands_are_all_there():
    _, page = render(SAMPLE)
    words = page.words
    assert "adapt.rank Width of the low-rank update. 16 command line" in words
    assert "train.learning_rate Peak learning rate of the schedule. 0.0002 auto" in words
    assert SAMPLE["receipt"]["files"][0]["sha256"] in words
    assert "deduplicate 611 602 9 same text, or 0.9 alike" in words
    assert "Total time 4 min 16 s" in words and "Peak memory 2.40 GB" in words and "Train 3 min 20 s" in words
    assert "tunewright train runs/tickets/recipe.yaml" in words


def test_training_names_the_kept_step_and_shades_overfitting():
    html, page = render(SAMPLE)
    best = SAMPLE["result"]["training"]["best_step"]
    assert f"kept: step {best}" in page.words
    assert html.count('class="zone"') == 2  # the wide and the narrow chart
    html, _ = render(sample(result__training__overfitting=False))
    assert 'class="zone"' not in html


def test_first_batch_marks_trained_tokens_and_shows_spaces():
    documents = [
        [
            ["<|im_start|>", 0, "template"],
            ["Hi", 0.0, "user"],
            [" you\n", 0, "user"],
            [" yes", 1, "assistant"],
            ["!", 0.5, "assistant"],
        ],
        [["solo", 1, "assistant"]],
    ]
    html, page = render(sample(first_batch=documents))
    assert "6 tokens in 2 documents; 3 of them were trained." in page.words
    assert "Document 1: 5 tokens, 2 trained" in page.words
    assert "<span>·you↵\n</span>" in html
    assert "<mark>·yes</mark>" in html and '<mark title="weight 0.5">!</mark>' in html
    assert "<i>user</i><span>Hi</span><span>·you" in html, "a role is named once, where it starts"


def test_a_batch_too_long_to_show_says_so():
    _, page = render(sample(first_batch=[[["x", 1, "text"]] * 7000, [["y", 1, "text"]] * 10]))
    assert "7,010 tokens in 2 documents; 7,010 of them were trained." in page.words
    assert "1,010 more tokens of this batch are not shown." in page.words


def test_tuned_answers_show_what_differs_from_the_reference():
    html, _ = render(SAMPLE)
    assert "way and <del>will</del><ins>should</ins> arrive within <del>5</del><ins>3</ins> working" in html


def test_answers_come_random_first_and_none_is_lost():
    html, page = render(SAMPLE)
    assert [g["name"] for g in answer_groups(SAMPLE["answers"])] == ["random", "worst", "best"]
    assert html.count('<article class="answer"') == len(SAMPLE["answers"])
    assert all(a["where"] in page.words for a in SAMPLE["answers"])


def test_a_cut_answer_says_how_much_is_missing():
    long = dict(SAMPLE["answers"][0], prompt="a" * 5234)
    _, page = render(sample(answers=[long]))
    assert "… 1,234 more characters not shown" in page.words


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_from_data_never_becomes_markup(attack):
    _, clean = render(SAMPLE)
    html, page = render(replace_strings(copy.deepcopy(SAMPLE), attack))
    names = lambda p: [tag for tag, _ in p.tags]  # noqa: E731
    allowed = {"ins", "del", "mark", "span", "b", "em", "i", "small", "p", "td", "code"}
    extra = set(names(page)) - set(names(clean))
    assert not extra - allowed, f"new tags in the page: {extra}"
    for tag in ("script", "style", "img", "iframe", "object", "a", "svg"):
        assert names(page).count(tag) <= names(clean).count(tag), tag
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    assert "<mark>fake" not in html
    assert show.visible(attack).split("\n")[0][:8] in page.words


@pytest.mark.parametrize(
    "hidden",
    ["\u202e", "\u2066", "\x00", "\x1b", "\u200b", "\ufeff", "\u2028", "\U000e0041", "\ud800", "\x85"],
)
def test_unseen_characters_are_named(hidden):
    html, page = render(replace_strings(copy.deepcopy(SAMPLE), hidden + '"'))
    assert hidden not in html
    assert page.words.count(f"⟦U+{ord(hidden):04X}⟧") > 100
    html.encode("utf-8")


def test_joiners_that_scripts_and_emoji_need_stay():
    assert show.visible("می‌خواهم 👩‍💻 é\tx\n") == "می‌خواهم 👩‍💻 é\tx\n"
    assert show.visible("a\r\nb\rc") == "a\nb⟦U+000D⟧c"


def test_nothing_is_loaded_and_the_policy_forbids_it():
    html, page = render(SAMPLE)
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert not page.named("link") and not page.named("img") and not page.named("iframe")
    assert not [attrs for _, attrs in page.tags if "src" in attrs or "style" in attrs]
    assert all(attrs["href"].startswith("#") for attrs in page.named("a"))
    policy = next(
        a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_anchors_lead_somewhere_and_charts_and_tables_are_labelled():
    _, page = render(SAMPLE)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all(attrs["href"][1:] in ids for attrs in page.named("a"))
    assert all(attrs["aria-labelledby"] in ids for _, attrs in page.tags if "aria-labelledby" in attrs)
    svgs = page.named("svg")
    assert svgs and all(a.get("aria-hidden") == "true" or len(a["aria-label"]) > 20 for a in svgs)
    assert all("scope" in attrs for attrs in page.named("th"))


def test_two_hundred_answers_stay_small():
    answers = [dict(a, prompt=a["prompt"] * 3) for a in (SAMPLE["answers"] * 20)[:200]]
    batch = [[[" token", i % 2, "assistant"] for i in range(512)] for _ in range(8)]
    html, _ = render(sample(answers=answers, first_batch=batch))
    assert len(html.encode()) < 1_500_000


def test_a_bare_run_is_told_in_words():
    result = copy.deepcopy(SAMPLE["result"])
    result |= {"metrics": [], "warnings": [], "status": "stopped", "cost": {}, "training": {}}
    result["verdict"] = {
        "word": "CAN'T TELL",
        "metric": None,
        "against": None,
        "difference": None,
        "reason": "Nothing was measured.",
    }
    html = render_report(ReportData(result=result))
    words = Page(html).words
    for text in (
        "This run was stopped before it finished.",
        "No metric was measured, so nothing is known about the quality of the tuned model.",
        "No metric was measured: the run had no test rows, or evaluation was switched off.",
        "No answers were kept",
        "No loss was recorded",
        "The first batch was not recorded.",
        "This run has no data receipt",
        "No cost was measured.",
        "No settings were recorded.",
        "No commands were recorded for this run.",
    ):
        assert text in words, text
    assert "<figure" not in html and "<table" not in html and 'class="chart"' not in html


def test_no_baseline_is_told_and_shows_the_score_alone():
    data = sample()
    for metric in data["result"]["metrics"]:
        metric["systems"] = {"tuned": metric["systems"]["tuned"]}
        metric["differences"] = {}
    data["result"]["verdict"] |= {"word": "CAN'T TELL", "against": None, "difference": None}
    html, page = render(data)
    assert "No baseline was measured for this metric, so nothing here shows" in page.words
    assert "on 60 test rows 81.7% Tuned model" in page.words
    assert "Tuned minus baseline" not in html


def test_no_validation_is_told():
    _, page = render(sample(curves={"train": [[1, 2.0], [2, 1.0]]}))
    assert "No validation rows were set aside, so overfitting could not be seen." in page.words


def test_a_result_without_its_parts_is_refused():
    with pytest.raises(RunError, match="lacks model, verdict"):
        render_report(
            ReportData(result={k: v for k, v in SAMPLE["result"].items() if k not in ("model", "verdict")})
        )


def test_any_receipt_becomes_facts_and_tables():
    receipt = {
        "rows_in": 10_000,
        "steps": {"clean": {"in": 10, "out": 9, "ok": True}, "dedupe": {"in": 9, "out": 9, "ok": False}},
        "seeds": [1, 2],
        "deep": {"a": {"b": [1], "x": {}}, "c": 0.25},
        "nothing": {},
        "empty": [],
    }
    blocks = {b["title"]: b for b in receipt_blocks(receipt)}
    assert blocks["Summary"]["facts"] == [("Rows in", "10,000")]
    assert blocks["Steps"]["rows"] == [["clean", "10", "9", "yes"], ["dedupe", "9", "9", "no"]]
    assert blocks["Seeds"]["lines"] == ["1", "2"]
    assert blocks["Deep"]["facts"] == [("A", "b 1, x none"), ("C", "0.25")]
    assert blocks["Nothing"]["facts"] == blocks["Empty"]["lines"] == []
    _, page = render(sample(receipt=receipt))
    assert "Nothing None." in page.words and "Empty None." in page.words


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2, "relative luminance"."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_contrast_meets_wcag_aa(scheme):
    html, _ = render(SAMPLE)
    css = re.findall(r":root \{(.*?)\}", html, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", css))
    pairs = [
        (text, ground)
        for text in ("ink", "soft")
        for ground in ("paper", "card", "wash", "good-wash", "bad-wash", "open-wash", "accent-wash")
    ]
    pairs += [(tone, f"{tone}-wash") for tone in ("good", "bad", "open", "accent")] + [
        ("accent", "paper"),
        ("accent", "card"),
        ("bad", "card"),
    ]
    for text, ground in pairs:
        light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}"


@pytest.mark.parametrize(
    "reference, answer, expected",
    [
        ("a b", "a b", [("same", "a b")]),
        ("", "", []),
        ("", "new", [("other", "new")]),
        (
            "the red cat",
            "the blue cat",
            [("same", "the "), ("missing", "red"), ("added", "blue"), ("same", " cat")],
        ),
        ("one two three", "one two", [("same", "one two"), ("missing", " three")]),
        ("billing", "cancel", [("other", "cancel")]),
    ],
)
def test_differences_are_words(reference, answer, expected):
    assert [tuple(p) for p in show.difference(reference, answer)] == expected


def test_numbers_read_well():
    assert [show.sentence(t) for t in ("share of x", "Done.", "")] == ["Share of x.", "Done.", ""]
    assert show.number(-1234.5, 1) == "−1,234.5"
    assert show.number(-0.04, 1, sign=True) == "0.0"
    assert show.number(None) == "not measured"
    assert show.change(26.6, "%", 1) == "+26.6 points"
    assert show.change(-0.25, "s", 2) == "−0.25 s"
    assert show.interval(None, 1.0, 1) == "no interval"
    assert [show.p_value(p) for p in (0.0, 0.04, None)] == ["< 0.001", "0.040", "not tested"]
    assert [show.duration(s) for s in (1.23, 42.4, 59.7, 200, 7384)] == [
        "1.2 s",
        "42 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 3 min",
    ]
    assert [
        show.decimals_for(u, v) for u, v in (("%", [50]), ("", [0.5]), ("", [12.0]), ("", [900.0]), ("", []))
    ] == [1, 3, 2, 1, 3]


def test_card_has_front_matter_numbers_and_lineage():
    card = model_card(SAMPLE["result"], SAMPLE["receipt"], reproduce=SAMPLE["reproduce"])
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "smollm2-135m-instruct",
        "library_name": "peft",
        "license": "unknown",
        "tags": ["tunewright", "sft", "lora"],
    }
    assert (
        "| exact_match | Few-shot prompt | 60 | 61.7% (49.0 to 72.9) | +20.0 points (+6.7 to +33.3) |" in body
    )
    assert "**SHIP.** The tuned model is better" in body
    assert SAMPLE["receipt"]["files"][1]["sha256"] in body
    assert "## Intended use\n\n**For the owner to fill in.**" in body
    assert "    tunewright train runs/tickets/recipe.yaml\n" in body
    assert "license: apache-2.0" in model_card(SAMPLE["result"], {}, license="apache-2.0")


def test_card_without_metrics_or_receipt_says_so():
    result = sample(
        result__metrics=[], result__verdict__word="CAN'T TELL", result__verdict__rows_that_would_decide=90
    )["result"]
    card = model_card(result, {}, library_name="transformers")
    assert "No metric was measured" in card
    assert "There is no data receipt" in card
    assert "About 90 test rows would decide." in card
    assert "library_name: transformers" in card


def test_card_keeps_text_from_breaking_its_tables_and_front_matter():
    data = sample(result__model__name="a: b\n---\nevil: | <script>", result__name="x\n# y")
    data["receipt"]["files"][0]["path"] = "a|b<img src=x>\n`c`.jsonl"
    card = model_card(data["result"], data["receipt"])
    parts = card.split("\n---\n")
    assert yaml.safe_load(parts[0].removeprefix("---\n"))["base_model"] == "a: b\n---\nevil: | <script>"
    assert "# x # y\n" in card
    assert "| a\\|b\\<img src=x\\> \\`c\\`.jsonl | 600 |" in card


def test_a_watched_metric_is_validation_too():
    curves = {"train": [[1, 2.0], [2, 1.0]], "metric": {"name": "reward", "points": [[1, 0.1], [2, 0.4]]}}
    _, page = render(sample(curves=curves))
    assert "No validation rows" not in page.words
    _, page = render(sample(curves={**curves, "metric": {"name": "reward", "points": []}}))
    assert "No validation rows were set aside" in page.words


def test_tokens_that_were_read_are_not_called_trained():
    _, page = render(SAMPLE)
    card = model_card(SAMPLE["result"], SAMPLE["receipt"])
    said = f"{show.number(SAMPLE['result']['counts']['tokens_trained'])} tokens read"
    assert said in page.words and said in card
    assert "trained tokens" not in page.words + card


def test_the_first_batch_of_sampled_answers_is_prompts():
    prompts = [[["Say", 0, "user"], [" hi", 0, "user"]], [["Go", 0, "user"]]]
    _, page = render(sample(first_batch=prompts, result__model__judged="rewards"))
    assert "3 tokens in 2 prompts; the answers to them were sampled while training" in page.words
    assert "Prompt 1: 2 tokens user" in page.words
    assert "were trained" not in page.words and "0 trained" not in page.words
    _, page = render(sample(first_batch=prompts))
    assert "Document 1: 2 tokens, 0 trained" in page.words


def test_without_a_reference_no_heading_and_no_legend():
    bare = [{**answer, "reference": ""} for answer in SAMPLE["answers"]]
    bare[0]["answers"] = dict.fromkeys(bare[0]["answers"], "")
    html, _ = render(sample(answers=bare))
    assert ">Reference<" not in html and "underlined" not in html and "✓ exact" not in html
    html, _ = render(sample(answers=[*bare, SAMPLE["answers"][0]]))
    assert html.count(">Reference<") == 1 and "underlined" in html
