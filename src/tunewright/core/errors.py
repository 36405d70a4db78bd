"""Every error a user can meet, in one tree.

A message says what is wrong, with which value, where (``file:line``), and what to do about it.
Each class is also a ``ValueError``, so library users can catch the standard type.

    TunewrightError
    ├── ConfigError   a recipe or a command-line value is wrong
    ├── DataError     a data file or a row is unusable
    ├── RenderError   a conversation cannot be turned into tokens
    ├── ModelError    a model cannot be found, loaded or saved
    ├── TrainError    training cannot go on
    └── RunError      a run directory is missing, incomplete or damaged

To add one: subclass the nearest kind, keep it picklable (only positional string arguments).
"""


class TunewrightError(ValueError):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class ConfigError(TunewrightError):
    """A setting is unknown, out of range or does not fit another."""


class DataError(TunewrightError):
    """A data file or row is unusable; the message carries ``file:line``."""


class RenderError(TunewrightError):
    """A conversation cannot be rendered with this model's chat template."""


class ModelError(TunewrightError):
    """A model, tokenizer or adapter cannot be found, loaded or saved."""


class TrainError(TunewrightError):
    """Training cannot go on; the last good checkpoint is intact."""


class RunError(TunewrightError):
    """A run directory is missing, incomplete or damaged."""
