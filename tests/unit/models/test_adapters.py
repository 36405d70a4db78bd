"""Several adapters over one base: alone, in one batch, swapped under way, folded in and out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.adapt.base import adapter_of
from tunewright.core.errors import ModelError
from tunewright.core.paths import write_json
from tunewright.models import adapters as module
from tunewright.models.adapters import Adapters
from tunewright.models.base_record import base_record
from tunewright.models.changes import NONE, Changes, Quantise
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load

PROMPTS = [
    [3, 40, 50, 60],
    [3, 40, 50, 60],
    [9, 8, 7],
    [3, 40, 50, 60],
    list(range(20, 60)),
    list(range(20, 60)),
]
HOW = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny base on disk and three adapters of it, each with its base record."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for seed, rank in ((1, 4), (2, 8), (3, 2)):
        adapter = adapter_of(
            "lora", rank=rank, targets=["q_proj", "down_proj"] if seed == 2 else "all-linear"
        )
        torch.manual_seed(seed)
        loaded = load(str(folder / "base"), dtype="float32")
        model = adapter.attach(loaded.model)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        adapter.save(model, folder / f"a{seed}")
        write_json(folder / f"a{seed}" / "base.json", base_record(loaded, NONE))
    return folder


def over_base(place, **names):
    found = Adapters(load(str(place / "base"), dtype="float32"))
    for name, seed in names.items():
        found.add(name, place / f"a{seed}")
    return found


@pytest.mark.parametrize(
    ("setting", "value"),
    [("use_dora", True), ("bias", "all"), ("modules_to_save", ["norm"]), ("trainable_token_indices", [5])],
)
def test_what_cannot_be_mixed_in_one_batch_is_refused(place, tmp_path, setting, value):
    shutil.copytree(place / "a1", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    write_json(tmp_path / "a" / "adapter_config.json", {**config, setting: value})
    with pytest.raises(ModelError, match=f"has {setting}=.*merge it"):
        over_base(place).add("a", tmp_path / "a")


@pytest.mark.parametrize(
    "changes",
    [
        Changes(quantise=Quantise()),
        Changes(rope={"rope_type": "yarn", "factor": 2.0}),
        Changes(new_tokens=("<a>",)),
    ],
)
def test_an_adapter_of_a_changed_base_is_refused(place, tmp_path, changes):
    shutil.copytree(place / "a1", tmp_path / "a")
    write_json(tmp_path / "a" / "base.json", base_record(load(str(place / "base")), changes))
    with pytest.raises(ModelError, match="changed before"):
        over_base(place).add("a", tmp_path / "a")


def alone(place, seed, prompts=PROMPTS):
    """What each prompt is answered by one adapter loaded as usual, or by the base."""
    name = str(place / ("base" if seed is None else f"a{seed}"))
    return [g.ids for g in generate(load(name, dtype="float32").model, prompts, HOW, batch_size=1)]


def test_a_mixed_batch_answers_as_each_adapter_alone(place):
    found = over_base(place, one=1, two=2, three=3)
    names = ["one", None, "two", "three", "two", None]
    seeds = {"one": 1, "two": 2, "three": 3, None: None}
    expected = [alone(place, seeds[name], [p])[0] for name, p in zip(names, PROMPTS, strict=True)]
    for batch in (1, 2, 4, 6):
        got = found.generate(PROMPTS, HOW, names, batch_size=batch)
        assert [g.ids for g in got] == expected
    assert len({tuple(ids) for ids in (expected[0], expected[1], expected[3])}) == 3  # to one prompt


def test_one_at_a_time_and_none(place):
    found = over_base(place, one=1, two=2)
    for name, seed in (("one", 1), (None, None), ("two", 2), ("one", 1)):
        with found.only(name) as model:
            assert [g.ids for g in generate(model, PROMPTS, HOW)] == alone(place, seed)


def test_a_swap_takes_effect_at_once_and_spares_what_is_under_way(place):
    found = over_base(place, live=1)
    before, digest = alone(place, 1), found.digest("live")
    with found.only("live") as model:
        found.swap("live", place / "a2")
        assert [g.ids for g in generate(model, PROMPTS, HOW)] == before
    names = ["live"] * len(PROMPTS)
    assert [g.ids for g in found.generate(PROMPTS, HOW, names)] == alone(place, 2)
    assert found.digest("live") != digest
    for round_ in range(20):
        found.swap("live", place / f"a{round_ % 3 + 1}")
        assert len(found.model.peft_config) == 1  # nothing is left behind
    assert [g.ids for g in found.generate(PROMPTS, HOW, names)] == alone(place, 2)


def test_the_base_is_untouched_after_folding_and_removing(place):
    found = over_base(place, one=1, two=2)
    weights = {n: p.clone() for n, p in found.model.get_base_model().state_dict().items() if "lora" not in n}
    with found.folded("one") as model:
        assert [g.ids for g in generate(model, PROMPTS, HOW)] == alone(place, 1)
    after = found.model.get_base_model().state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    found.remove("one")
    found.remove("two")
    assert found.names == []
    with found.only(None) as model:
        assert [g.ids for g in generate(model, PROMPTS, HOW)] == alone(place, None)
    found.add("three", place / "a3")
    assert [g.ids for g in found.generate(PROMPTS, HOW, ["three"] * len(PROMPTS))] == alone(place, 3)
    assert len(found.model.peft_config) == 1


def test_bad_input(place, tmp_path):
    found = over_base(place, one=1)
    with pytest.raises(ModelError, match=r"no adapter 'ones' is loaded\. Did you mean 'one'"):
        found.generate(PROMPTS[:1], HOW, ["ones"])
    with pytest.raises(ModelError, match="already; swap it"):
        found.add("one", place / "a2")
    with pytest.raises(ModelError, match="holds no adapter"):
        found.add("x", tmp_path)
    with pytest.raises(ModelError, match="is itself an adapter"):
        Adapters(load(str(place / "a1")))
    other = Adapters(replace(found.base, model=tiny_model(num_hidden_layers=1)))
    with pytest.raises(ModelError, match="was trained on another base"):
        other.add("one", place / "a1")
    torch.manual_seed(0)
    ia3 = adapter_of("ia3")
    ia3.save(ia3.attach(tiny_model()), tmp_path / "ia3")
    with pytest.raises(ModelError, match="of the kind IA3; only LoRA"):
        found.add("x", tmp_path / "ia3")
    assert found.names == ["one"] and module.WEIGHTS.endswith("safetensors")
