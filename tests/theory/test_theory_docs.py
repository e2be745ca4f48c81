"""Every statement of docs/theory.md names a function and a test, and both exist."""

import importlib
import pathlib
import re

import pytest

from ecood import theory

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "theory.md").read_text()
STATEMENTS = re.split(r"^\*\*(?=\d\.\d )", PAGE, flags=re.MULTILINE)[1:]
FUNCTION = re.compile(r"\[`(\w+)\.(\w+)`\]\(\.\./(ecood/theory/\w+\.py)\)")
TEST = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/theory/\w+\.py)\)")


def number(statement: str) -> str:
    return statement[:3]


@pytest.mark.parametrize("statement", STATEMENTS, ids=number)
def test_statement_names_a_function_and_a_test_that_exist(statement):
    functions, tests = FUNCTION.findall(statement), TEST.findall(statement)
    assert functions and tests
    for module, function, path in functions:
        assert path == f"ecood/theory/{module}.py"
        assert function in importlib.import_module(f"ecood.theory.{module}").__all__
    for test, path in tests:
        assert re.search(rf"^ *def {test}\(", (ROOT / path).read_text(), re.MULTILINE), test


def test_numbers_run_on():
    sections = [tuple(map(int, number(s).split("."))) for s in STATEMENTS]
    for before, after in zip(sections, sections[1:], strict=False):
        assert after in ((before[0], before[1] + 1), (before[0] + 1, 1))


@pytest.mark.parametrize("module", ["auroc", "bounds", "certificate", "expansion", "gap"])
def test_every_result_is_on_the_page(module):
    named = {name for owner, name, _ in FUNCTION.findall(PAGE) if owner == module}
    assert set(getattr(theory, module).__all__) == named
