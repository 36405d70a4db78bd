"""Rows that a model wrote: how they are asked for, checked and marked. No model here."""
