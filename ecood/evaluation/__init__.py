"""Detectors on pairs of image sets: who takes part, which pairs there are, what each tells."""
