"""How the tests of `python -m ecood score` call it and read what it writes."""

import csv
import io

from ecood import cli

PARTS = ["similarity", "noise_scale", "perturbed_bits", "bits", "code_length"]
COLUMNS = ["path", "index", "score", "p_value", *PARTS]


def run(saved, *words):
    return cli.main(["score", "--scorer", str(saved), *map(str, words)])


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))
