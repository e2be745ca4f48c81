"""What a module takes from another one of ecood is public there."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [*sorted((ROOT / "ecood").rglob("*.py")), *sorted((ROOT / "experiments").rglob("*.py"))]


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def file_of(module):
    """The file of a module of ecood by its name, or None if there is none."""
    path = ROOT.joinpath(*module.split("."))
    return next(filter(pathlib.Path.is_file, (path / "__init__.py", path.with_suffix(".py"))), None)


def is_public(module, name):
    if file_of(f"{module}.{name}"):
        return True
    for statement in tree_of(file_of(module)).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return name in ast.literal_eval(statement.value)
    return not name.startswith("_")


def taken(tree):
    """Module and name of all that is imported by name, or is an attribute of what is."""
    found, modules = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "ecood":
            found += [(node.module, alias.name) for alias in node.names]
            modules |= {
                each.asname or each.name: f"{node.module}.{each.name}" for each in node.names
            }
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    set_here = {name.id for name in names if isinstance(name.ctx, ast.Store)}  # no modules
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module and file_of(module) and node.value.id not in set_here:
                found.append((module, node.attr))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_taken_from_another_module_is_public_there(path):
    assert [each for each in taken(tree_of(path)) if not is_public(*each)] == []
