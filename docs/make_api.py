"""Writes `api.md` from the docstrings: `python docs/make_api.py`."""

import importlib
import inspect
import pathlib
import re
import types
from collections.abc import Iterator
from typing import Any

PAGE = pathlib.Path(__file__).with_name("api.md")

MODULES = (
    "ecood.score",
    "ecood.score.export",
    "ecood.conformal",
    "ecood.detector",
    "ecood.baselines",
    "ecood.flows",
    "ecood.encoders",
    "ecood.memory",
    "ecood.perturb",
    "ecood.images",
    "ecood.batches",
    "ecood.devices",
    "ecood.tasks",
    "ecood.train",
    "ecood.recipes",
    "ecood.data",
    "ecood.data.stream",
    "ecood.metrics",
    "ecood.comparison",
    "ecood.interop",
    "ecood.theory",
    "ecood.weights",
    "ecood.errors",
)

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Source):(.*)$")


def page() -> str:
    """The whole page."""
    contents = [f"- [`{name}`](#{name.replace('.', '')})" for name in MODULES]
    parts = [
        "# API\n\nMade from the docstrings by `python docs/make_api.py`; do not edit.\n",
        "\n".join(contents) + "\n",
    ]
    for name in MODULES:
        parts += _module(importlib.import_module(name))
    return "\n".join(parts)


def _module(module: types.ModuleType) -> Iterator[str]:
    yield f"## {module.__name__}\n"
    yield _prose(module.__doc__)
    for name in sorted(module.__all__, key=str.lower):
        thing = getattr(module, name)
        if isinstance(thing, types.ModuleType):
            continue
        yield f"### {module.__name__}.{name}\n"
        yield from _described(name, thing)


def _described(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        yield _docstring(thing)
        for method, member in vars(thing).items():
            inherited = method.startswith("_") or method not in _own(thing)
            function = getattr(member, "fget", member)
            if inherited or not inspect.isfunction(function) or not function.__doc__:
                continue
            call = f"`{method}`" if function is not member else f"`{method}{_signature(member)}`"
            yield f"**{call}**\n"
            yield _docstring(function)
    elif callable(thing):
        yield f"`{name}{_signature(thing)}`\n"
        yield _docstring(thing)
    else:
        yield f"`{thing!r}`\n"


def _own(thing: type) -> set[str]:
    """What the class itself states; linen and NamedTuple add methods of their own."""
    source = inspect.getsource(thing)
    return set(re.findall(r"^    def (\w+)", source, re.MULTILINE))


def _signature(function: Any) -> str:
    """Names and defaults; the types stand in the docstring, with shapes."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]
    text = str(inspect.Signature(parameters))
    return re.sub(r"<class '([\w.]+)'>", r"\1", text)


def _docstring(thing: Any) -> str:
    return _prose(inspect.getdoc(thing) or "")


def _prose(text: str) -> str:
    """Google-style sections as lists; all else as it is."""
    lines, inside = [], False
    for line in inspect.cleandoc(text or "").splitlines():
        if section := SECTION.match(line):
            lines += ["", f"*{section[1]}*:{section[2]}"] + [""] * (not section[2])
            inside = not section[2]
        elif inside and re.match(r"^  \S", line):
            entry = re.sub(r"^(\**\w+): ", r"`\1`: ", line.strip())
            lines.append(f"- {entry}")
        elif inside and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and not line.strip()
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
