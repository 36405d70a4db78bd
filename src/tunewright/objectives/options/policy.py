"""Settings of the objectives that learn from sampled answers and their rewards: the GRPO family and PPO."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from tunewright.core.settings import Auto, Positive, Rate, Settings, Share

Low = Annotated[float, Field(ge=0.0, le=1.0)]
HEAD_RATE = "Learning rate of the new value head, as a multiple of train.learning_rate."
REWARDS = "What scores an answer: names of rewards, or mappings with a name, a weight and settings."


class Defaults(NamedTuple):
    """What ``auto`` means for one method: the clip range, the over-long share, what equal groups do."""

    low: float = 0.2
    high: float = 0.2
    overlong: float = 0.0
    equal: Literal["keep", "drop"] = "keep"


# Those of the papers, but for cispo: MiniMax 2025 (arXiv 2506.13585) has no lower end and leaves the ceiling
# open; a ratio of 5 is that of ScaleRL (Khatri et al. 2025, arXiv 2510.13786) and of TRL's advice.
DEFAULTS = {
    "grpo": Defaults(),
    "dr_grpo": Defaults(),
    "rloo": Defaults(),
    "reinforce_pp": Defaults(),
    "dapo": Defaults(high=0.28, overlong=0.2, equal="drop"),
    "gspo": Defaults(low=3e-4, high=4e-4),
    "cispo": Defaults(low=1.0, high=4.0),
}


def changed(section: Settings, name: str) -> bool:
    """Whether a setting differs from its default; a resolved recipe states the defaults as well."""
    return bool(getattr(section, name) != type(section).model_fields[name].default)


class SamplerOptions(Settings):
    """What writes the answers."""

    kind: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="transformers: the model in training itself; vllm: that engine; openai: a server that"
        " speaks the OpenAI protocol.",
    )
    url: str | None = Field(
        None, description="openai: address of the server, up to and including /v1, which must be stated."
    )
    model: str | None = Field(
        None, description="openai: name under which the server knows the model; default the only one it has."
    )
    key: str | None = Field(
        None, description="openai: environment variable that holds the key, where the server wants one."
    )
    timeout: Rate = Field(
        240.0, description="openai: seconds to wait for an answer; TRL's default for servers."
    )

    @model_validator(mode="after")
    def _server_settings(self) -> SamplerOptions:
        if self.kind == "openai" and self.url is None:
            raise ValueError(
                "kind openai needs url, the address of the server, such as http://localhost:8000/v1"
            )
        stray = [name for name in ("url", "model", "key", "timeout") if changed(self, name)]
        if self.kind != "openai" and stray:
            raise ValueError(f"{', '.join(stray)} would be ignored: only kind openai asks a server")
        return self


class EnvironmentOptions(Settings):
    """What replies to an answer, so that roll-outs are dialogues: a tool or a game, in your own code."""

    file: str | None = Field(
        None, min_length=1, description="Python file with the function; none: one answer, without a reply."
    )
    function: str = Field(
        "reply",
        min_length=1,
        description="Function that reads the messages so far and returns what follows or None at the end.",
    )
    max_turns: int = Field(4, ge=2, description="Most answers of the model in a dialogue.")
    seconds: float = Field(5.0, gt=0.0, le=3600.0, description="Time limit for one reply.")
    memory_mb: int = Field(512, ge=64, description="Memory limit of the process that runs it, in MiB.")

    @model_validator(mode="after")
    def _has_file(self) -> EnvironmentOptions:
        stray = [name for name in type(self).model_fields if changed(self, name)]
        if self.file is None and stray:
            raise ValueError(f"{', '.join(stray)} would be ignored without a file; set environment.file")
        return self


class RolloutOptions(Settings):
    """How answers are sampled, and how long they are learnt from."""

    group: Positive = Field(8, description="Answers sampled for each prompt; TRL's default for GRPO.")
    prompts: Positive = Field(8, description="Prompts per roll-out.")
    updates: Positive = Field(1, description="Updates on the same answers; above 1 they are off-policy.")
    max_new_tokens: Positive = Field(
        256,
        description="Longest answer, in tokens; dr_grpo divides by it. In a dialogue each answer may be so"
        " long, and what all may take together is divided by.",
    )
    temperature: Rate = Field(
        1.0,
        description="Temperature of sampling; 1 samples from the policy that is learnt, whose"
        " log-probabilities are always those at temperature 1.",
    )
    importance_cap: float = Field(
        2.0,
        ge=0.0,
        description="Largest weight of a token for the sampler's probability differing from the trainer's"
        " (truncated importance sampling); 0 does not correct.",
    )
    sampler: SamplerOptions = Field(SamplerOptions(), description="What writes the answers.")
    environment: EnvironmentOptions = Field(EnvironmentOptions(), description="What replies to answers.")

    @property
    def most_tokens(self) -> int:
        """How many tokens the model may write for one prompt, in all turns."""
        return self.max_new_tokens * (self.environment.max_turns if self.environment.file else 1)

    @model_validator(mode="after")
    def _cap_above_one(self) -> RolloutOptions:
        if 0 < self.importance_cap < 1:
            raise ValueError(
                f"importance_cap is {self.importance_cap}: below 1 it would scale down every token; use at"
                " least 1, or 0 for no correction"
            )
        return self


class GroupRollout(RolloutOptions):
    """The roll-out of the GRPO family."""

    equal: Literal["auto", "keep", "drop"] = Field(
        "auto",
        description="A group whose rewards are all equal: keep (it counts, and teaches nothing) or drop; auto"
        " drops for dapo.",
    )


class ClipOptions(Settings):
    """How far one update may move the probability of a token or an answer."""

    low: Low | Auto = Field(
        "auto",
        description="The ratio is cut below 1 - low; auto is 0.2, for gspo 0.0003, for cispo 1 (no bound).",
    )
    high: Rate | Auto = Field(
        "auto",
        description="The ratio is cut above 1 + high; auto is 0.2, for dapo 0.28, for gspo 0.0004, for"
        " cispo 4.",
    )


class GroupOptions(Settings):
    """Policy optimisation from groups of answers, without a value model."""

    rewards: list[Any] = Field([], description=REWARDS)
    kl: float = Field(
        0.0,
        ge=0.0,
        description="Weight of the divergence from the reference model; 0, as in TRL, needs none. The GRPO"
        " paper has 0.04, TRL's RLOO 0.05.",
    )
    overlong: Share | Auto = Field(
        "auto",
        description="Last share of max_new_tokens over which the reward falls by up to 1; 0 is off, auto is"
        " 0.2 for dapo and else 0.",
    )
    clip: ClipOptions = Field(ClipOptions(), description="Bounds of the probability ratio.")
    rollout: GroupRollout = Field(GroupRollout(), description="How answers are sampled.")


class PpoRollout(RolloutOptions):
    """The roll-out of PPO: one answer per prompt, four updates on each, as TRL's PPO had."""

    group: Positive = Field(1, description="Answers sampled for each prompt.")
    updates: Positive = Field(4, description="Updates on the same answers; above 1 they are off-policy.")


class PpoClip(Settings):
    """How far one update may move probabilities and values."""

    low: Low = Field(0.2, description="The ratio is cut below 1 - low.")
    high: Rate = Field(0.2, description="The ratio is cut above 1 + high.")
    value: Rate = Field(0.2, description="Largest step of a value that still lowers its loss.")


class KlOptions(Settings):
    """How the divergence from the reference model is held down: it is taken off the reward of each token."""

    weight: float = Field(
        0.05,
        ge=0.0,
        description="Weight of the divergence, at first where a target is set; 0 needs no reference.",
    )
    target: Rate | None = Field(
        None,
        description="Divergence per answer, in nats, that the weight is adapted to; none keeps the weight."
        " Ziegler et al. 2019 use 6.",
    )
    horizon: Positive = Field(10_000, description="Answers over which the weight adapts to the target.")

    @model_validator(mode="after")
    def _can_adapt(self) -> KlOptions:
        if self.target is not None and self.weight == 0:
            raise ValueError("a weight of 0 stays 0 whatever the target; set kl.weight above 0")
        if self.target is None and changed(self, "horizon"):
            raise ValueError("horizon would be ignored without a target; set kl.target")
        return self


class PpoOptions(Settings):
    """Proximal policy optimisation with a value head; defaults of TRL's former PPO trainer."""

    rewards: list[Any] = Field([], description=REWARDS)
    gamma: float = Field(1.0, gt=0.0, le=1.0, description="Discount of later rewards, per token.")
    lam: float = Field(0.95, ge=0.0, le=1.0, description="Lambda of generalised advantage estimation.")
    value_weight: float = Field(0.1, gt=0.0, description="Weight of the value loss beside the policy loss.")
    whiten: Literal["none", "advantages", "both"] = Field(
        "advantages",
        description="What is scaled to unit variance over a roll-out: nothing, the advantages, or the rewards"
        " of all tokens as well.",
    )
    head_rate: Rate = Field(1.0, description=HEAD_RATE)
    kl: KlOptions = Field(KlOptions(), description="Divergence from the reference model.")
    clip: PpoClip = Field(PpoClip(), description="Bounds of the probability ratio and of values.")
    rollout: PpoRollout = Field(PpoRollout(), description="How answers are sampled.")
