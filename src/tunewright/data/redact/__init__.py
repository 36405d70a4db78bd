"""Personal data and secrets in raw rows: found, replaced, asked about; see ``redactor.py``."""
