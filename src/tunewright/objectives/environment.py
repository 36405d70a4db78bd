"""The user's environment of a dialogue: a tool or a game in a file, under the limits that rewards have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright.core.errors import ConfigError
from tunewright.objectives.options.policy import EnvironmentOptions
from tunewright.objectives.rewards.sandbox import Limits, UserFunction


class UserEnvironment(UserFunction):
    """An ``objectives.dialogue.Environment``: called as ``function(messages)``, see ``rewards.sandbox``.

    What it returns must be JSON; that it is a list of messages or ``None`` is for the dialogue to see.
    """

    purpose = "environment"
    returns = "value"

    def __call__(self, messages: list[dict[str, Any]]) -> Any:
        """The reply; raises ``CallFailed``, and ``DataError`` for messages that do not fit JSON."""
        return self.returned(messages)


def make_environment(options: EnvironmentOptions) -> UserEnvironment:
    """The environment with its code loaded; a relative ``file`` starts at the working directory.

    Raises ``ConfigError`` for a file that is not there, cannot be loaded, or lacks the function.
    """
    assert options.file is not None, "only asked for where there is one"
    file = Path(options.file).resolve()
    if not file.is_file():
        raise ConfigError(f"objective.rollout.environment.file: there is no file {file}")
    environment = UserEnvironment(file, options.function, Limits(options.seconds, options.memory_mb))
    environment.start()
    return environment
