"""Optimizers and memory savers in a recipe: what auto means, what is said aloud, what is refused early."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.contract.small import chats, save_small_model, small_train, small_values, write_rows
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.run import optimizing
from tunewright.run.compose import check_early
from tunewright.run.optimizing import optim_settings, pin_optimizer, remarks
from tunewright.run.resolve import resolve
from tunewright.run.train import resume, train


def resolved(**changes):
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return resolve(None, None, {"data.train": "x.jsonl", "model.device": "cpu", **dotted})


def refused(match, **changes):
    with pytest.raises(ConfigError, match=match):
        check_early(resolved(**changes).recipe)


def test_auto_is_pinned_by_device_and_base():
    for device, quantised, name in (
        ("cuda", True, "paged_adamw"),
        ("cuda", False, "adamw"),
        ("cpu", True, "adamw"),
    ):
        pinned = pin_optimizer(resolved(), device, quantised)
        assert pinned.recipe.train.optim.name == name
        assert pinned.sources["train.optim.name"].startswith("auto: ")
    asked = resolved(train__optim__name="apollo")
    assert pin_optimizer(asked, "cuda", True) is asked


def test_settings_become_those_of_the_engine():
    recipe = resolved(
        train__optim__name="galore",
        train__optim__projection__rank=8,
        train__optim__projection__scale=0.25,
        train__optim__weight_decay=0.2,
        train__optim__beta2=0.999,
        train__memory__update="in_backward",
        train__memory__offload="optimizer",
    ).recipe
    settings = optim_settings(recipe)
    assert (settings.name, settings.weight_decay, settings.betas) == ("galore", 0.2, (0.9, 0.999))
    assert (settings.projection.rank, settings.projection.every, settings.projection.scale) == (8, 200, 0.25)
    assert settings.in_backward and settings.offload
    plain = optim_settings(resolved(train__optim__name="apollo").recipe)
    assert plain.projection.scale is None and not plain.in_backward and not plain.offload


def test_what_is_said_aloud():
    usual, groups = SimpleNamespace(rows_per_step=None), SimpleNamespace(rows_per_step=8)
    paged = resolved(train__optim__name="paged_adamw_8bit").recipe
    [said] = remarks(paged, usual, "cpu")
    assert "pages need a GPU; on the cpu it runs as adamw_8bit" in said
    assert remarks(paged, usual, "cuda") == remarks(resolved().recipe, groups, "cpu") == []
    early = {"train__memory__update": "in_backward", "train__optim__clip_norm": 0}
    pieces = resolved(**early, train__micro_tokens=2048).recipe  # of steps of 4096 tokens
    [said] = remarks(pieces, usual, "cpu")
    assert "saves little where a step has several micro-batches" in said
    whole = resolved(**early, train__micro_tokens=4096).recipe
    assert remarks(whole, usual, "cpu") == [] and len(remarks(whole, groups, "cpu")) == 1


def test_what_cannot_be_together_is_refused_before_anything_is_loaded():
    early = {"train__memory__update": "in_backward"}
    refused(r"cannot be clipped.*set train\.optim\.clip_norm=0", **early)
    refused(
        r"'adalora' looks at the gradients after each update",
        adapt__method="adalora",
        train__optim__clip_norm=0,
        **early,
    )
    refused(r"projection\.scale has no effect here.*auto, not galore", train__optim__projection__scale=1.0)
    refused(r"galore saves nothing here: the matrices of lora have rank 16", train__optim__name="galore")
    refused(
        r"adamw_8bit rounds to the nearest.*use adamw, galore or apollo",
        adapt__method="full",
        adapt__weights="bfloat16",
        train__optim__name="adamw_8bit",
    )
    refused(
        r"remove model\.dtype float32",
        adapt__method="full",
        adapt__weights="bfloat16",
        model__dtype="float32",
    )
    for name in ("optimizer", "activations"):
        refused(rf"offload {name} needs a GPU.*on the cpu", train__memory__offload=name)
    refused(
        r"never gives pages back.*use adamw_8bit",
        adapt__method="full",
        adapt__sample_layers=2,
        train__optim__name="paged_adamw_8bit",
    )
    refused(
        r"checkpoint_layers has no effect here: with adapt\.method 'head'",
        adapt__method="head",
        objective__name="classify",
        train__memory__checkpoint_layers=2,
    )


def test_on_a_gpu_a_paged_optimizer_is_not_offloaded_twice(monkeypatch):
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    monkeypatch.setattr(optimizing, "choose", lambda *args: on_gpu)
    check_early(resolved(train__memory__offload="optimizer").recipe)
    check_early(resolved(train__memory__offload="activations", train__optim__name="paged_adamw").recipe)
    refused(
        r"moves its state to the CPU by itself.*use adamw",
        train__memory__offload="optimizer",
        train__optim__name="paged_adamw",
    )


def test_what_fits_is_let_through():
    for changes in (
        {"adapt__method": "full", "train__optim__name": "galore", "adapt__weights": "bfloat16"},
        {"adapt__method": "full", "adapt__sample_layers": 2, "train__optim__name": "adamw_8bit"},
        {"train__optim__name": "apollo", "adapt__rank": 128},
        {"train__memory__update": "in_backward", "train__optim__clip_norm": 0, "adapt__method": "freeze"},
        {"train__memory__checkpoint_layers": 2, "train__optim__name": "paged_adamw"},
    ):
        check_early(resolved(**changes).recipe)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimizing")
    return folder, save_small_model(folder / "model"), write_rows(folder / "chats.jsonl", chats(40))


def values(place, out, **changes):
    folder, model, data = place
    found = small_values(model, data, folder / out)
    del found["adapt.rank"]
    return {**found, **{name.replace("__", "."): value for name, value in changes.items()}}


class Killed(Exception):
    pass


SAVING = {
    "bfloat16, projected, in the backward pass": {
        "adapt__method": "full",
        "adapt__weights": "bfloat16",
        "model__dtype": "auto",
        "train__optim__name": "apollo",
        "train__optim__projection__rank": 16,
        "train__optim__clip_norm": 0.0,
        "train__memory__update": "in_backward",
        "train__memory__checkpoint_layers": 2,
    },
    "8 bits, two layers of two at a time": {
        "adapt__method": "full",
        "adapt__sample_layers": 1,
        "adapt__sample_every": 2,
        "train__optim__name": "adamw_8bit",
        "train__memory__checkpoint_layers": 1,
    },
}


@pytest.mark.parametrize("kind", SAVING)
def test_a_whole_run_that_saves_memory_goes_on_to_the_same_bits(place, kind):
    changes = {**SAVING[kind], "train__max_steps": 4, "output__save_every": 1, "evaluate__every": 9}
    name = kind.partition(",")[0]
    run, _ = small_train(values(place, f"{name}-whole", **changes))
    expected = load_file(run.path / "model" / "model.safetensors")
    if "bfloat16" in kind:
        assert {tensor.dtype for tensor in expected.values()} == {torch.bfloat16}

    def kill(event):
        if isinstance(event, events.StepEnd) and event.step == 4:
            raise Killed

    broken = values(place, f"{name}-broken", **changes)
    with pytest.raises(Killed):
        train(resolve(None, None, broken), kill)
    weights = load_file(resume(broken["output.dir"]).path / "model" / "model.safetensors")
    assert all(torch.equal(weights[n], expected[n]) for n in expected)


def test_a_paged_optimizer_on_the_cpu_says_so_and_runs(place):
    run, seen = small_train(values(place, "paged", train__optim__name="paged_adamw"))
    [said] = [e.message for e in seen if isinstance(e, events.Warned) and "pages" in e.message]
    assert said.endswith("on the cpu it runs as adamw")
    assert said in run.result["warnings"]


def test_layers_that_keep_nothing_are_named(place):
    _, seen = small_train(
        values(
            place,
            "frozen",
            adapt__method="freeze",
            adapt__layers=1,
            train__memory__checkpoint_layers=1,
        )
    )
    [said] = [e.message for e in seen if isinstance(e, events.Warned) and "checkpoint_layers" in e.message]
    assert "saves nothing" in said
