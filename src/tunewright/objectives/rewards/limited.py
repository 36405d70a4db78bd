"""Rewards that run in the sandbox: the user's own code, and checks a hostile answer could make run away."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic import Field, field_validator

from tunewright.core.errors import ConfigError
from tunewright.objectives.rewards.sandbox import Limits, Sandbox
from tunewright.objectives.rewards.spec import Reward, RewardSpec

INSIDE = Path(__file__).parent / "inside"


class UserCode(RewardSpec):
    """A function ``(prompt, answer, example) -> float`` in a file of the user's."""

    file: str = Field(min_length=1, description="Python file with the function.")
    function: str = Field(min_length=1, description="Name of the function in it.")
    seconds: float = Field(default=5.0, gt=0, le=3600, description="Time limit for one answer.")
    memory_mb: int = Field(
        default=512, ge=64, description="Memory limit of the process that runs it, in MiB."
    )

    def make(self, folder: Path) -> Reward:
        file = (folder / self.file).resolve()
        if not file.is_file():
            raise ConfigError(
                f"reward {self.name!r}: there is no file {file}; paths start where the command runs"
            )
        sandbox = Sandbox(file, self.function, Limits(self.seconds, self.memory_mb))
        sandbox.start()
        return sandbox


class Regex(RewardSpec):
    """1 if the pattern is found in the answer, else 0; Python's ``re``, flags as in ``(?is)``."""

    pattern: str = Field(description="Regular expression.")
    full: bool = Field(default=False, description="Whether it must match the whole answer.")
    seconds: float = Field(default=1.0, gt=0, le=3600, description="Time limit for one answer.")

    @field_validator("pattern")
    @classmethod
    def check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern

    def make(self, folder: Path) -> Reward:
        return Sandbox(
            INSIDE / "pattern.py",
            "matches",
            Limits(self.seconds),
            {"pattern": self.pattern, "full": self.full},
        )


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "schema"')  # hides a method pydantic itself gave up

    class JsonSchema(RewardSpec):
        """1 if the whole answer is JSON that fits the schema; see ``inside/schema.py``."""

        schema: dict[str, Any] | bool | str = Field(description="JSON Schema, or the file it is in.")  # type: ignore[assignment]
        partial: bool = Field(default=False, description="Whether JSON that does not fit gets 0.5.")
        seconds: float = Field(default=1.0, gt=0, le=3600, description="Time limit for one answer.")

        def make(self, folder: Path) -> Reward:
            schema = _read_schema(folder / self.schema) if isinstance(self.schema, str) else self.schema
            try:
                validator_for(schema).check_schema(schema)
            except SchemaError as error:
                where = "/".join(map(str, error.absolute_path)) or "the top"
                raise ConfigError(
                    f"reward {self.name!r}: not a JSON Schema, at {where}: {error.message}"
                ) from None
            return Sandbox(
                INSIDE / "schema.py",
                "fits_schema",
                Limits(self.seconds),
                {"schema": schema, "partial": self.partial},
            )


def _read_schema(file: Path) -> dict[str, Any] | bool:
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"reward 'json_schema': cannot read the schema {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"reward 'json_schema': {file} is not JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise ConfigError(f"reward 'json_schema': {file} holds no JSON Schema but {str(schema)[:60]!r}")
    return schema
