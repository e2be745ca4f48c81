"""Thin programs around ecood: parse, call, write a report. No method lives here."""
