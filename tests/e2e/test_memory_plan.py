"""A plan that does not fit names settings, and with those it fits."""

import json
import math
import subprocess
import sys

import pytest

from tests.contract.small import WORDS, save_small_model, small_values, write_rows
from tunewright.adapt.options.table import OPTIONS
from tunewright.core.events import silent
from tunewright.run.planning import plan
from tunewright.run.resolve import resolve

MICRO, LAYERS = "train.micro_tokens", "train.memory.checkpoint_layers"
LONG = " ".join(WORDS[i % 10] for i in range(300))


def chat(i, length):
    """A chat whose answer has up to ``length`` characters, some three to a token."""
    return {
        "messages": [
            {"role": "user", "content": f"{i}: {LONG[: 300 + 40 * (i % 5)]}"},
            {"role": "assistant", "content": LONG[: length - 20 * (i % 7)]},
        ]
    }


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Values of a recipe whose model is large enough to be seen beside the program."""
    folder = tmp_path_factory.mktemp("memory")
    model = save_small_model(
        folder / "model", hidden_size=256, intermediate_size=700, max_position_embeddings=2048
    )
    short = write_rows(folder / "short.jsonl", [chat(i, 300) for i in range(60)])
    write_rows(folder / "long.jsonl", [chat(i, 1700) for i in range(60)])
    values = small_values(model, short, folder / "run")
    values.pop("train.max_steps")
    return values | {"train.tokens_per_step": 4096, MICRO: 4096, LAYERS: 0}


def planned(values, room=None):
    return plan(resolve(None, None, values), silent, room)["memory"]


@pytest.mark.parametrize(
    "file, micro, spared, named",
    [("short", 4096, 5, {MICRO}), ("short", 4096, 85, {MICRO}), ("long", 1024, 50, {LAYERS, "model.dtype"})],
)
def test_the_settings_that_are_named_make_it_fit(case, file, micro, spared, named):
    case = {**case, MICRO: micro, "data.train": case["data.train"].replace("short", file)}
    now = planned(case)
    assert now["fits"] and now["advice"] is None and now["phase"] == "train"
    program = now["parts_mb"]["program"] + now["parts_mb"]["kernels"]
    wanted = program + (100 - spared) / 100 * (now["peak_mb"] - program)
    short = planned(case, wanted)
    assert not short["fits"]
    advised = short["advice"]["settings"]
    assert set(advised) == named
    assert short["advice"]["peak_mb"] <= math.ceil(wanted)  # it is shown in whole MB
    again = planned(case | advised, wanted + 20)  # the process that plans has grown a little in the meantime
    assert again["fits"]


def test_sizes_left_open_are_chosen_for_the_memory_that_is_named(case):
    """The plan shows what a run with that much memory would choose, and that it fits with it."""
    now = planned(case | {MICRO: 2048})
    program = now["parts_mb"]["program"] + now["parts_mb"]["kernels"]
    wanted = (program + (now["peak_mb"] - program) / 2) / 0.8
    facts = plan(
        resolve(None, None, {k: v for k, v in case.items() if k not in (MICRO, LAYERS)}), silent, wanted
    )
    chosen = {s["name"]: s for s in facts["settings"]}
    assert facts["memory"]["fits"] and 256 <= chosen[MICRO]["value"] < 2048
    assert chosen[MICRO]["source"] == "auto: as many as fit" and chosen[LAYERS]["value"] == 0


@pytest.mark.parametrize("method", [*sorted({*OPTIONS} - {"head"}), "vera", "ia3", "loha"])
def test_every_method_can_be_planned(case, method):
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    values = {name: value for name, value in case.items() if not name.startswith("adapt")}
    more = {"factor": 1} if method == "longlora" else {}
    facts = planned({**values, "adapt": {"method": method, **more}})
    assert {"load", "train", "answer"} == facts["phases_mb"].keys()
    assert facts["phases_mb"]["train"] > facts["parts_mb"]["program"]


def test_where_nothing_helps_it_says_so(case):
    facts = planned(case, 100.0)
    assert not facts["fits"] and facts["advice"] is None


def test_the_command_names_room_and_remedy(case, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")
    words = [f"{name}={json.dumps(value)}" for name, value in case.items()]

    def said(*more):
        program = "from tunewright.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, "plan", str(recipe), *words, *more],
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    status, text = said("--memory", "100MB")
    assert status == 0, text
    assert "100 MB on the cpu: it does not fit" in text and "choose a smaller model" in text
    status, text = said("--memory", "64GB")
    assert status == 0 and "it fits" in text
    status, text = said("--memory", "plenty")
    assert status == 2 and "write 4GB or 800MB" in text


def test_what_is_sampled_while_it_trains_is_not_predicted(case):
    values = {
        **case,
        "objective": "grpo",
        "objective.rewards": [{"name": "length", "most": 20}],
        "evaluate.metrics": ["reward"],
    }
    facts = planned(values)
    assert "sampled while it trains" in facts["unknown"] and "peak_mb" not in facts
