"""A whole run as data: what to train, on what, how, how to judge it, and where to put it.

Every setting is described once, here; YAML, the command line, JSON Schema and ``docs/recipe.md`` are made
from it. Shorthands: ``model: NAME``, ``objective: NAME`` and ``output: DIR`` stand for the first setting
of the section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tunewright.adapt.options.table import options_of as adapt_options
from tunewright.core.config import Section, build, settings_of
from tunewright.core.settings import Auto, Positive, Rate, Settings, Share, shorthand
from tunewright.data.clean.settings import CleanSettings
from tunewright.data.preparing.settings import CompareSettings
from tunewright.data.redact.settings import RedactSettings
from tunewright.objectives.options.table import options_of as objective_options
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
    time: str | None = Field(
        None, description="Key with the time of a row: the latest rows test, those before them validate."
    )

    @model_validator(mode="after")
    def _room_to_train(self) -> SplitSection:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave no row to train on; lower one of them")
        return self


Files = str | list[str]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "galore", "apollo"]
SCORED = 2048  # tokens at once without gradients, which need a small part of the memory of training
PASSED_ON = Field(None, description="A setting of the library, passed on as it is.")


def _listed(files: Files) -> list[str]:
    return [files] if isinstance(files, str) else files


class MixSection(Settings):
    """One file that is mixed in; a number stands for its weight."""

    weight: float = Field(..., gt=0.0, lt=1.0, description="Share of the training rows it should make up.")
    cap: Positive | None = Field(None, description="Take at most this many rows of it.")
    repeat: int = Field(
        1, ge=1, le=100, description="Take each of its rows at most this often, where it has too few."
    )
    columns: dict[str, str] | None = Field(None, description="Where to find what in it, as data.columns.")
    task: str | None = Field(None, description="The task its rows are for; of objective multi.")

    @model_validator(mode="before")
    @classmethod
    def _weight_alone(cls, value: Any) -> Any:
        return {"weight": value} if isinstance(value, (int, float)) else value


class PrepareSection(Settings):
    """What is done to rows before they are divided; nothing, unless it is asked for. See docs/data.md."""

    clean: CleanSettings | None = Field(None, description="Mending of texts, e.g. {} for what is usual.")
    redact: RedactSettings | None = Field(
        None, description="Search for personal data and secrets, e.g. {action: mask}."
    )
    decisions: str | None = Field(
        None, description="Prepared directory whose decisions (data review) are obeyed."
    )
    compare: CompareSettings = Field(
        CompareSettings(), description="Near-duplicates and items of benchmarks."
    )


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
    mix: dict[str, MixSection] | None = Field(
        None,
        description="Files to mix in for training, e.g. {general.jsonl: {weight: 0.2, cap: 2000}}; see"
        " docs/mixtures.md.",
    )
    prepare: PrepareSection = Field(PrepareSection(), description="What is done to rows beforehand.")
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

    @field_validator("mix")
    @classmethod
    def _leaves_room_for_train(cls, value: dict[str, MixSection] | None) -> dict[str, MixSection] | None:
        if value is not None and (not value or "" in value):
            raise ValueError("names no file")
        if (total := sum(source.weight for source in (value or {}).values())) >= 1:
            raise ValueError(f"the weights sum to {total:g}; data.train needs a share, so keep them below 1")
        return value


class Choice(Settings):
    """A section whose first setting names something that has settings of its own, given beside it."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _known(self) -> Self:
        _ = self.options
        return self

    def __eq__(self, other: object) -> bool:
        """Equal where all settings are, whether they were written out or left at their defaults."""
        return type(self) is type(other) and (self.chosen, self.options) == (other.chosen, other.options)

    @property
    def chosen(self) -> str:
        """The name that the first setting gives."""
        return str(getattr(self, next(iter(type(self).model_fields))))

    @property
    def options(self) -> Any:
        """The settings of what is chosen, defaults filled in; raises ``ConfigError``."""
        raise NotImplementedError


class AdaptSection(Choice):
    """Which parameters train; further settings belong to the method, see docs/adapters.md."""

    method: str = Field(
        "lora", description="full, freeze, head, lora, dora, qlora, prompt and others, or any method of PEFT."
    )

    _expand = shorthand("method")

    @property
    def options(self) -> Any:
        """The method's own settings."""
        return adapt_options(self.method, self.model_extra or {})


class ObjectiveSection(Choice):
    """What is minimised; further settings belong to the objective, see docs/objectives.md."""

    name: str = Field("sft", description="What is minimised: sft, text, classify, dpo, grpo and others.")

    _expand = shorthand("name")

    @property
    def options(self) -> Any:
        """The objective's own settings."""
        return objective_options(self.name, self.model_extra or {})


class ProjectionSection(Settings):
    """How GaLore and APOLLO reduce gradients."""

    rank: int = Field(64, ge=1, description="Rank that the gradient of a matrix is reduced to.")
    every: int = Field(200, ge=1, description="Steps after which the projection is made anew.")
    scale: Rate | Literal["matched"] = Field(
        "matched",
        description="What the update is multiplied by; matched makes it as large as that of AdamW.",
    )


class MemorySection(Settings):
    """What is given up for memory."""

    checkpoint_layers: Annotated[int, Field(ge=0)] | Auto = Field(
        "auto",
        description="Layers whose activations are computed again in the backward pass; auto is 0 unless"
        " memory is short.",
    )
    update: Literal["after", "in_backward"] = Field(
        "after", description="in_backward updates each weight as soon as its gradient is there."
    )
    offload: Literal["none", "optimizer", "activations"] = Field(
        "none", description="What waits in the CPU's memory while a GPU computes."
    )

    @property
    def recomputed(self) -> int:
        """``checkpoint_layers``, which must have been pinned."""
        assert self.checkpoint_layers != "auto", "auto values are pinned before training"
        return self.checkpoint_layers


class OptimSection(Settings):
    """How the optimizer moves."""

    name: Literal["auto", "adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "galore", "apollo"] = (
        Field(
            "auto", description="The optimizer; auto is adamw, paged on a GPU where the base is in few bits."
        )
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls."
    )
    warmup: Share = Field(0.05, description="Share of the steps over which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW decay; matrices only.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="AdamW memory of the gradient.")
    beta2: float = Field(0.95, ge=0.0, lt=1.0, description="AdamW memory of its square.")
    clip_norm: float = Field(1.0, ge=0.0, description="Longest gradient; 0 does not clip.")
    projection: ProjectionSection = Field(ProjectionSection(), description="GaLore and APOLLO.")

    _expand = shorthand("name")


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
    micro_tokens: Positive | Auto = Field(
        "auto",
        description="Tokens processed at once; memory and speed, not results, depend on it. auto takes what"
        " is fastest and fits.",
    )
    lanes: Positive | Auto = Field(
        "auto",
        description="Micro-batches computed side by side on a CPU, which share micro_tokens; auto takes what"
        " is fastest.",
    )
    seed: int = Field(0, ge=0, description="Decides split, order, noise and adapter start.")
    layer_cache: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether the states that layers which never train give are kept on disk, so that later"
        " epochs begin above these layers; auto does so where it is possible and the disk has the room.",
    )
    optim: OptimSection = Field(OptimSection(), description="Optimizer.")
    memory: MemorySection = Field(MemorySection(), description="Memory savers.")
    stop: StopSection = Field(StopSection(), description="Early stopping.")

    @property
    def at_once(self) -> int:
        """``micro_tokens``, which must have been pinned."""
        assert self.micro_tokens != "auto", "auto values are pinned before training"
        return self.micro_tokens

    @property
    def read_at_once(self) -> int:
        """Tokens at once where texts are only scored, also by a recipe that nothing has been pinned in."""
        return SCORED if self.micro_tokens == "auto" else self.micro_tokens

    @field_validator("layer_cache", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # as YAML reads them


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
    batch_size: Positive | Auto = Field(
        "auto", description="Answers generated at once; auto takes as many as pay and as memory allows."
    )
    level: float = Field(0.95, gt=0.5, lt=1.0, description="Level of the intervals.")


class OutputSection(Settings):
    """Where the run goes."""

    dir: str | None = Field(None, description="Run directory; default runs/NAME-of-data.")
    save_every: int = Field(
        0, ge=0, description="Checkpoint every so many steps, besides every evaluation; 0 is off."
    )
    keep: int = Field(2, ge=1, description="Recent checkpoints to keep, besides the best.")
    final: Literal["adapter", "merged"] = Field(
        "adapter", description="Save the adapter alone, or merged in the model."
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
    """Every setting of this recipe with its description, those of what it chooses included."""
    found = []
    for name, field in settings_of(Recipe):
        found.append((name, field))
        section, _, leaf = name.partition(".")
        chosen = getattr(recipe, section)
        if isinstance(chosen, Choice) and leaf == next(iter(type(chosen).model_fields)):
            options = chosen.options
            found += settings_of(type(options), f"{section}.")
            found += [(f"{section}.{extra}", PASSED_ON) for extra in options.model_extra or {}]
    return found


def value_at(recipe: Recipe, name: str) -> Any:
    """The value of a dotted setting, as it is written in a recipe."""
    here: Any = recipe
    for part in name.split("."):
        own = part in type(here).model_fields
        here = getattr(here.options if isinstance(here, Choice) and not own else here, part)
    return {key: _written(value) for key, value in here.items()} if isinstance(here, dict) else _written(here)


def _written(value: Any) -> Any:
    """A section that stands where a value may stand is written as what was set in it."""
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, Section) else value


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
