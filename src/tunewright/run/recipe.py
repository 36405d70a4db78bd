"""A whole run as data: what to train, on what, how, how to judge it, and where to put it.

Every setting is described once, here; YAML, the command line, JSON Schema and ``docs/recipe.md`` are made
from it. Shorthands: ``model: NAME``, ``objective: NAME`` and ``output: DIR`` stand for the first setting
of the section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from tunewright.core.config import Section, build, settings_of
from tunewright.core.settings import Auto, Positive, Rate, Settings, Share, shorthand
from tunewright.objectives.options.table import options_of
from tunewright.run.yaml_text import parse_override, read_yaml

__all__ = ["Recipe", "merged_values", "parse_override"]


class ModelSection(Settings):
    """Which model to start from."""

    name: str = Field(
        "smollm2-135m-instruct", description="Embedded name, local directory, .gguf file or hub id."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format to compute in; auto takes bfloat16 where the hardware has it."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="What computes; auto takes the best there is."
    )
    template: str | None = Field(
        None, description="File with a chat template to use instead of the model's own."
    )

    _expand = shorthand("name")


class SplitSection(Settings):
    """How rows are divided when no separate files are given."""

    validation: Share = Field(0.1, description="Share of rows for validation while training.")
    test: Share = Field(0.1, description="Share of rows for the one final test.")
    group: str | None = Field(
        None, description="Key of each row; rows with the same value stay on the same side."
    )

    @model_validator(mode="after")
    def _room_to_train(self) -> SplitSection:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave no row to train on; lower one of them")
        return self


Files = str | list[str]


def _listed(files: Files) -> list[str]:
    return [files] if isinstance(files, str) else files


class DataSection(Settings):
    """What to learn from."""

    train: Files | dict[str, Files] = Field(
        ..., description="File or files to train on; a mapping of task to files where there are several."
    )
    validation: str | dict[str, Files] | None = Field(
        None, description="File for validation, instead of a split; a mapping where train is one."
    )
    test: str | dict[str, Files] | None = Field(
        None, description="File for the final test, instead of a split; a mapping where train is one."
    )
    split: SplitSection = Field(SplitSection(), description="Shares and grouping of the split.")
    columns: dict[str, str | dict[str, str]] | None = Field(
        None,
        description="Where to find what, e.g. {prompt: body, completion: reply}; where tasks differ in it,"
        " such a mapping for each of them.",
    )
    train_on: Literal["assistant", "last", "all", "message"] = Field(
        "assistant",
        description="Which turns are learnt: every assistant turn, the last one, all,"
        " or those with a weight.",
    )
    max_length: int = Field(2048, ge=8, description="Longest sequence, in tokens.")
    over_long: Literal["cut", "drop", "error"] = Field("cut", description="What happens to longer sequences.")

    @field_validator("train", "validation", "test")
    @classmethod
    def _names_a_file(cls, value: Any) -> Any:
        groups = list(value.values()) if isinstance(value, dict) else [value]
        if value is not None and (not groups or any(not g or "" in _listed(g) for g in groups)):
            raise ValueError("names no file")
        return value


class AdaptSection(Settings):
    """Which parameters train."""

    method: str = Field("lora", description="lora, full, or head: a new head alone.")
    rank: int = Field(16, ge=1, description="LoRA: rank of the update.")
    alpha: int | None = Field(
        None, gt=0, description="LoRA: the update is scaled by alpha / rank; default twice the rank."
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input, or in a fully trained model."
    )
    targets: list[str] | str = Field("all-linear", description="LoRA: names of the layers, or all-linear.")


class ObjectiveSection(Settings):
    """What is minimised; further settings belong to the objective, see docs/objectives.md."""

    model_config = ConfigDict(extra="allow")

    name: str = Field("sft", description="What is minimised: sft, text, classify, dpo, grpo and others.")

    _expand = shorthand("name")

    @model_validator(mode="after")
    def _known(self) -> ObjectiveSection:
        options_of(self.name, self.model_extra or {})
        return self

    def __eq__(self, other: object) -> bool:
        """Equal where all settings are, whether they were written out or left at their defaults."""
        return (
            isinstance(other, ObjectiveSection) and self.name == other.name and self.options == other.options
        )

    @property
    def options(self) -> Any:
        """The objective's own settings, defaults filled in."""
        return options_of(self.name, self.model_extra or {})


class OptimSection(Settings):
    """How the optimizer moves."""

    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls."
    )
    warmup: Share = Field(0.05, description="Share of the steps over which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW decay; matrices only.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="AdamW memory of the gradient.")
    beta2: float = Field(0.95, ge=0.0, lt=1.0, description="AdamW memory of its square.")
    clip_norm: float = Field(1.0, ge=0.0, description="Longest gradient; 0 does not clip.")


class StopSection(Settings):
    """When to stop early."""

    metric: str = Field(
        "auto",
        description="What is watched: validation_loss, or a metric measured on validation rows; auto takes"
        " the loss, or the reward where answers are sampled.",
    )
    patience: int = Field(
        3, ge=0, description="Evaluations without improvement before stopping; 0 never stops."
    )
    min_improvement: float = Field(0.0, ge=0.0, description="Smaller gains do not count.")


class TrainSection(Settings):
    """How long and how fast."""

    epochs: int = Field(3, ge=1, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps.")
    learning_rate: Rate | Auto = Field(
        "auto", description="Peak rate; auto uses the prior in docs/how-it-works.md."
    )
    tokens_per_step: int = Field(4096, ge=1, description="Tokens that one update averages over.")
    micro_tokens: int = Field(
        2048, ge=1, description="Tokens processed at once; memory, not results, depends on it."
    )
    seed: int = Field(0, ge=0, description="Decides split, order, noise and adapter start.")
    optim: OptimSection = Field(OptimSection(), description="Optimizer.")
    stop: StopSection = Field(StopSection(), description="Early stopping.")


class EvaluateSection(Settings):
    """How the result is judged."""

    metrics: list[str] | Auto = Field(
        "auto", description="Metrics on the test rows; the first decides the verdict."
    )
    baselines: list[str] | Auto = Field(
        "auto", description="What the tuned model must beat; auto takes what suits the objective."
    )
    shots: int = Field(4, ge=1, description="Examples in the few-shot prompt.")
    max_new_tokens: Positive | Auto = Field(
        "auto", description="Longest answer; auto allows a little more than the longest reference."
    )
    every: Positive | Auto = Field(
        "auto", description="Validate every so many steps; auto is four times an epoch."
    )
    rows: int | None = Field(None, ge=2, description="Score at most this many test rows.")
    batch_size: int = Field(32, ge=1, description="Answers generated at once.")
    level: float = Field(0.95, gt=0.5, lt=1.0, description="Level of the intervals.")


class OutputSection(Settings):
    """Where the run goes."""

    dir: str | None = Field(None, description="Run directory; default runs/NAME-of-data.")
    save_every: int = Field(
        0, ge=0, description="Checkpoint every so many steps, besides every evaluation; 0 is off."
    )
    keep: int = Field(2, ge=1, description="Recent checkpoints to keep, besides the best.")
    final: Literal["adapter", "merged"] = Field(
        "adapter", description="Save the LoRA adapter alone, or merged in the model."
    )

    _expand = shorthand("dir")


class Recipe(Settings):
    """A whole run."""

    model: ModelSection = Field(ModelSection(), description="The base model.")
    data: DataSection = Field(..., description="The data.")
    adapt: AdaptSection = Field(AdaptSection(), description="Which parameters train.")
    objective: ObjectiveSection = Field(ObjectiveSection(), description="What is minimised.")
    train: TrainSection = Field(TrainSection(), description="The training loop.")
    evaluate: EvaluateSection = Field(EvaluateSection(), description="The proof.")
    output: OutputSection = Field(OutputSection(), description="The run directory.")

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
        """Read a YAML recipe; ``overrides`` maps dotted names to values and wins over the file."""
        return build(cls, merged_values(read_yaml(Path(path)), overrides or {}), where=str(path))


def settings_in(recipe: Recipe) -> list[tuple[str, Any]]:
    """Every setting of this recipe with its description, those of its objective included."""
    found = []
    for name, field in settings_of(Recipe):
        found.append((name, field))
        if name == "objective.name":
            found += settings_of(type(recipe.objective.options), "objective.")
    return found


def value_at(recipe: Recipe, name: str) -> Any:
    """The value of a dotted setting."""
    here: Any = recipe
    for part in name.split("."):
        own = part in type(here).model_fields
        here = getattr(here if own or not isinstance(here, ObjectiveSection) else here.options, part)
    return here


def merged_values(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """``values`` with dotted ``overrides`` put in; shorthands such as ``model: x`` are widened on the way."""
    result = {**values}
    for name, value in overrides.items():
        *path, leaf = name.split(".")
        here = result
        for depth, part in enumerate(path):
            inner = here.get(part, {})
            if not isinstance(inner, dict):
                inner = {_first_setting(path[: depth + 1]): inner}
            here[part] = dict(inner)
            here = here[part]
        if (
            not path
            and leaf in Recipe.model_fields
            and isinstance(here.get(leaf), dict)
            and not isinstance(value, dict)
        ):
            here[leaf] = {**here[leaf], _first_setting([leaf]): value}
        else:
            here[leaf] = value
    return result


def _first_setting(path: list[str]) -> str:
    section: Any = Recipe
    for part in path:
        section = section.model_fields[part].annotation if part in section.model_fields else Section
    return next(iter(section.model_fields), "value")
