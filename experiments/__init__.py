"""Thin programs around ecood: parse, call, write a report. No method lives here."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # see ecood.programs; before jax
