"""From settings to objects, and the one place that says which choices fit together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tunewright.adapt.base import Adapter, adapter_of
from tunewright.adapt.quant import merge_dequantised
from tunewright.core.config import settings_of
from tunewright.core.errors import ConfigError
from tunewright.core.hashing import seed_from
from tunewright.core.names import nearest
from tunewright.core.records import Example, Tokens, kind_of
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import FitSettings
from tunewright.engine.plan import Pace
from tunewright.engine.schedule import auto_rate
from tunewright.engine.stop import Watch
from tunewright.evaluate.metrics import METRICS, split_task
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded, load
from tunewright.models.load import resolve as resolve_model
from tunewright.models.quantised import is_quantised
from tunewright.models.rope import context
from tunewright.models.savers import check_layers
from tunewright.models.score import detach, is_head
from tunewright.objectives.base import Objective, make_objective
from tunewright.objectives.multi import tasks_of
from tunewright.objectives.options.supervised import SftOptions
from tunewright.run.optimizing import check_optim, optim_settings
from tunewright.run.recipe import Recipe, value_at
from tunewright.run.resolve import Resolved

DEFAULTS = {name: field.default for name, field in settings_of(Recipe)}
STATES = 16  # training rows that are read to see how large hidden states are
BY_HEAD = frozenset({"labels", "numbers", "scores"})  # judged by what a head says; nothing is written


@dataclass(frozen=True)
class Parts:
    """The objects of a run: what is trained, what on, how it is read.

    ``shell`` is the model without numbers, its adapter attached, for questions about what trains.
    """

    loaded: Loaded
    renderer: Renderer
    adapter: Adapter
    objective: Objective
    shell: nn.Module


def assemble(recipe: Recipe, train: Sequence[Example], read: Callable[..., Loaded] = load) -> Parts:
    """Load the model and make the parts around it; nothing is attached or trained yet.

    ``read`` may be ``models.shell.load_shell``, for parts that are only to be planned with.
    """
    adapter, objective = make_adapter(recipe), objective_of(recipe)
    check_fit(objective, adapter, recipe)
    check_kinds(objective, recipe.objective.name, train)
    objective = objective.fitted(train)
    section = recipe.model
    if resolve_model(section.name).adapter is not None:
        raise ConfigError(
            f"model {section.name!r} is an adapter and cannot be trained on as it is; run it with"
            " output.final=merged and start from the model/ folder of that run"
        )
    loaded = read(
        section.name,
        device=section.device,
        dtype=section.dtype,
        template=section.template,
        weights=adapter.weights,
        changes=adapter.changes,
    )
    _check_base(loaded)
    given = recipe.train.memory.checkpoint_layers
    check_layers(loaded.model, 0 if given == "auto" else given)
    check_stretch(adapter, loaded, recipe.data.max_length)
    _check_weights(loaded, adapter)
    adapter = adapter.fitted(_ids_of(loaded, adapter))
    shell = rehearse(adapter, loaded)
    loaded = replace(loaded, virtual=adapter.virtual)
    renderer = Renderer(
        loaded.tokenizer,
        train_on=recipe.data.train_on,
        max_length=min(recipe.data.max_length, context_of(loaded)),
        over_long=recipe.data.over_long,
    )
    return Parts(loaded, renderer, adapter, objective, shell)


def _check_base(loaded: Loaded) -> None:
    """A judge cannot be trained on; another head, such as that of a value, is of no use to a new run."""
    if loaded.judges:
        raise ConfigError(
            f"model {loaded.ref.name!r} was trained to judge text with a head, so it is no language model to"
            " start from; start from the one that it was made from"
        )
    detach(loaded.model)


def _ids_of(loaded: Loaded, adapter: Adapter) -> Callable[[str], Sequence[int]]:
    """Text -> ids; a token that the adapter adds to the vocabulary is that token, whatever stands around."""
    new = {token: loaded.tokenizer.convert_tokens_to_ids(token) for token in adapter.changes.new_tokens}
    return lambda text: [new[text]] if text in new else Renderer(loaded.tokenizer).plain_ids(text)


def _check_weights(loaded: Loaded, adapter: Adapter) -> None:
    """Raise ``ConfigError`` for a base that was stored in few bits: it is no start for any method."""
    if is_quantised(loaded.model) and adapter.changes.quantise is None:
        raise ConfigError(
            f"model {loaded.ref.name!r} is stored in 4 or 8 bits; start from the model's own weights, which"
            " adapt.method qlora quantises while they are read"
        )


def objective_of(recipe: Recipe) -> Objective:
    """The objective that the recipe names, with its settings."""
    return make_objective(recipe.objective.name, recipe.objective.options)


def neftune_of(recipe: Recipe) -> float:
    """Noise on embeddings, for the objectives that know it."""
    options = recipe.objective.options
    return options.neftune if isinstance(options, SftOptions) else 0.0


def rates_of(objective: Objective) -> Callable[[str], float]:
    """The multiple of the learning rate for a parameter: that of its head, or 1."""
    heads = objective.heads

    def rate(name: str) -> float:
        found = [heads[part].rate for part in name.split(".")[:-1] if part in heads] if is_head(name) else []
        return found[0] if found else 1.0

    return rate


def check_early(recipe: Recipe) -> None:
    """The checks that need neither model nor data, so that a wrong recipe fails in the first second."""
    adapter = make_adapter(recipe)
    check_fit(objective_of(recipe), adapter, recipe)
    check_effect(recipe)
    check_optim(recipe, adapter)
    if not recipe.evaluate.metrics:
        raise ConfigError("evaluate.metrics is empty; name a metric or leave it at auto")
    for name in recipe.evaluate.metrics if recipe.evaluate.metrics != "auto" else ():
        check_metric("evaluate.metrics", name, objective_of(recipe))


def check_effect(recipe: Recipe) -> None:
    """Raise ``ConfigError`` for a setting that was changed and would not be read by a run like this one."""
    given = recipe.evaluate.baselines
    baselines = {split_task(name)[1] for name in given} if given != "auto" else set()
    documents, few_shot = recipe.objective.name == "text", "few_shot" in baselines
    kind = objective_of(recipe).judged
    judged = kind in BY_HEAD
    asked = kind != "preferences" and (few_shot or "zero_shot" in baselines)
    silent = not asked and (judged or kind == "preferences")
    for name, idle, because in (
        ("data.train_on", judged, f"objective {recipe.objective.name} learns no tokens"),
        ("evaluate.max_new_tokens", silent, "no baseline writes answers"),
        ("evaluate.batch_size", silent, "no baseline writes answers"),
        ("data.train_on", documents, "objective text learns every token"),
        ("data.over_long", documents, "documents are read in pieces"),
        ("evaluate.shots", not few_shot, "few_shot is not among evaluate.baselines"),
    ):
        if idle and value_at(recipe, name) != DEFAULTS[name]:
            raise ConfigError(f"{name} has no effect here: {because}; remove it")


def rehearse(adapter: Adapter, loaded: Loaded) -> nn.Module:
    """Attach to an empty shell of the model, so that what does not fit it is found before any work; returns
    the shell, ready to train but for the heads of the objective."""
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        shell = make(loaded.model.config)
    return adapter.attach(shell)


def seed_adapter(seed: int) -> None:
    """Fix what the adapter's random start depends on."""
    torch.manual_seed(seed_from(seed, "adapter"))


def merged_copy(adapter: Path) -> Any:
    """The base in float32 with the saved adapter folded in; the model in use stays as it is.

    Raises ``ConfigError`` for an adapter that is no difference of weights.
    """
    model = cast(Any, load(str(adapter), device="cpu", dtype="float32").model)
    if not hasattr(model, "merge_and_unload"):
        raise ConfigError(f"{adapter}: what this adapter does cannot be folded into weights; use it as it is")
    return merge_dequantised(model) if is_quantised(model) else model.merge_and_unload()


def make_adapter(recipe: Recipe) -> Adapter:
    """The adapter that the recipe describes."""
    return adapter_of(recipe.adapt.method, **(recipe.adapt.model_extra or {}))


def check_fit(objective: Objective, adapter: Adapter, recipe: Recipe) -> None:
    """Raise ``ConfigError`` if the objective requires what nothing here provides, saying how to supply it."""
    if recipe.adapt.method == "head" and objective.judged not in BY_HEAD:
        raise ConfigError(
            f"adapt.method 'head' trains a new head alone, but objective {recipe.objective.name!r} trains the"
            " model itself; use adapt.method lora or full, or an objective that judges by a head: classify,"
            " regress or reward"
        )
    compared = sorted(objective.requires & {"reference", "rollouts"})
    if recipe.adapt.method == "longlora" and recipe.adapt.options.group and compared:
        raise ConfigError(
            f"objective {recipe.objective.name!r} compares with probabilities ({', '.join(compared)}) of"
            " dense attention, and adapt.group makes attention sparse while training; set adapt.group=0"
        )
    if objective.heads and recipe.output.final == "merged":
        raise ConfigError("output.final 'merged' would lose the new head; save the adapter")
    if recipe.output.final == "merged" and adapter.whole:
        raise ConfigError(
            f"output.final 'merged' has no meaning with adapt.method {recipe.adapt.method!r}: there is no"
            " adapter to merge"
        )
    if recipe.output.final == "merged" and not adapter.merges:
        raise ConfigError(
            f"output.final 'merged': what adapt.method {recipe.adapt.method!r} trains cannot be folded into"
            " the model's weights; save the adapter, or use lora"
        )
    metric = recipe.train.stop.metric
    if metric != "auto" and metric not in losses_of(objective):
        check_metric("train.stop.metric", metric, objective)


def losses_of(objective: Objective) -> tuple[str, ...]:
    """What can be watched without asking anything: the validation loss, of all and of each task."""
    return ("validation_loss", *(f"validation_{task}_loss" for task in tasks_of(objective)))


def check_metric(setting: str, name: str, objective: Objective) -> None:
    """Raise ``ConfigError`` for an unknown metric, or a task before it where there is none, or none where
    there are several."""
    (task, metric), tasks = split_task(name), tasks_of(objective)
    if setting == "train.stop.metric" and name.startswith("validation_"):
        raise ConfigError(f"{setting}: unknown loss {name!r}. {nearest(name, losses_of(objective))}")
    _ = METRICS[metric]  # raises with the nearest names
    if task and not tasks:
        raise ConfigError(f"{setting}: {name!r} names the task {task!r}, but this objective has no tasks")
    if tasks and task not in tasks:
        near = nearest(task, tasks) if task else f"Write {next(iter(tasks))}/{metric}."
        raise ConfigError(f"{setting}: {name!r} must name one of the tasks, as TASK/METRIC. {near}")


def check_kinds(objective: Objective, name: str, examples: Sequence[Example]) -> None:
    """Raise ``ConfigError`` naming the first row of a kind the objective cannot learn from."""
    for example in examples:
        if kind_of(example) not in objective.accepts:
            raise ConfigError(
                f"{example.meta.where()} is a {kind_of(example)} row, but objective {name!r} learns from"
                f" {' or '.join(sorted(objective.accepts))} rows; choose another objective or map the columns"
                " (data.columns: {completion: NAME} says where the answer stands)"
            )


def context_of(loaded: Loaded) -> int:
    """Longest sequence the model was made for, in tokens, virtual ones aside."""
    config: Any = loaded.model.config
    return (context(config) or 2**30) - loaded.virtual


def check_stretch(adapter: Adapter, loaded: Loaded, longest: int) -> None:
    """Raise ``ConfigError`` where a longer context was asked for and no text may be long enough to use it."""
    config, factor = cast(Any, loaded.model).config, adapter.changes.rope.get("factor", 1.0)
    full = context(config) or 2**30
    if factor > 1 and longest * factor <= full:
        raise ConfigError(
            f"adapt.factor {factor:g} stretches the model's context from {round(full / factor)} to {full}"
            f" tokens, but data.max_length {longest} keeps every text within the old one; set"
            f" data.max_length={full}, or a factor of 1"
        )


def pin_rate(resolved: Resolved, parts: Parts, train: Sequence[Tokens]) -> Resolved:
    """Work out ``learning_rate: auto``; that of a head alone from the states of some training rows."""
    if resolved.recipe.train.learning_rate != "auto":
        return resolved
    loaded, rate, why = parts.loaded, parts.adapter.rate, "at this width"
    config: Any = loaded.model.config
    if resolved.recipe.adapt.method == "head":
        rate, why = rate / _state_size(loaded, train[:STATES]), "for states of this size"
    prior = auto_rate(config.get_text_config().hidden_size, rate) * parts.objective.rate
    return resolved.pin(
        "train.learning_rate", float(f"{prior:.2g}"), f"prior for {resolved.recipe.adapt.method} {why}"
    )


def _state_size(loaded: Loaded, sequences: Sequence[Tokens]) -> float:
    """Mean |h| of the last hidden states of ``sequences``."""
    forward = ModelForward(loaded.model, compute=loaded.precision.dtype)
    with torch.no_grad():
        return float(forward.hidden(build_batch(sequences, device=forward.device)).float().abs().mean())


def pace_of(recipe: Recipe, objective: Objective) -> Pace:
    """Which rows stand in which update; depends on no ``auto``."""
    train = recipe.train
    return Pace(train.epochs, objective.rows_per_step or train.tokens_per_step, train.seed, train.max_steps)


def fit_settings(recipe: Recipe, objective: Objective) -> FitSettings:
    """The loop's settings; every ``auto`` must have been pinned."""
    train, optim, stop = recipe.train, recipe.train.optim, recipe.train.stop
    pace = pace_of(recipe, objective)
    assert train.learning_rate != "auto" and recipe.evaluate.every != "auto", (
        "auto values are pinned before training"
    )
    assert stop.metric != "auto", "the watched metric is pinned before training"
    higher = stop.metric not in losses_of(objective) and METRICS[stop.metric].higher_is_better
    return FitSettings(
        epochs=pace.epochs,
        max_steps=pace.max_steps,
        learning_rate=train.learning_rate,
        tokens_per_step=pace.tokens_per_step,
        micro_tokens=train.at_once,
        lanes=1 if train.lanes == "auto" else train.lanes,
        schedule=optim.schedule,
        warmup=optim.warmup,
        clip_norm=optim.clip_norm,
        optim=optim_settings(recipe),
        seed=pace.seed,
        every=recipe.evaluate.every,
        save_every=recipe.output.save_every,
        keep=recipe.output.keep,
        watch=Watch(stop.metric, stop.patience, stop.min_improvement, higher),
    )


def default_directory(recipe: Recipe) -> Path:
    """``runs/NAME-of-the-training-file``."""
    first: Any = recipe.data.train
    while not isinstance(first, str):
        first = next(iter(first.values() if isinstance(first, dict) else first))
    return Path("runs") / Path(first).name.split(".")[0]
