import tunewright.models  # noqa: F401  what it silences must be silent before PEFT is imported
