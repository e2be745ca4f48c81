"""Templates of the texts that a package holds, and what these say in words."""

from typing import Any

import jinja2

from ecood.words import number_of

__all__ = ["environment"]


def environment(package: str, **options: Any) -> jinja2.Environment:
    """That of the templates beside a package's modules: strict about names, without blank lines."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    made.globals["number_of"] = number_of
    made.filters["share"] = lambda rate: f"{100 * rate:.3g} %"
    return made
