"""Personal data and secrets in raw rows: found, replaced, asked about, never repeated. See ``redactor.py``."""
