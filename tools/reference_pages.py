"""An extension of griffe for the pages of the reference: examples, columns and defaults as a reader expects them."""

import ast
import re
import textwrap
from typing import Any

import griffe

_COLUMNS = re.compile(r"^(Columns (?:read|written)):\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", re.MULTILINE)


class PlainReference(griffe.Extension):
    """Prepare the docstrings and the defaults of parameters before mkdocstrings renders them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Show `Example:` as code, like `Examples:`, and `Columns read:` as a paragraph instead of an admonition."""
        if obj.docstring is not None:
            value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = _COLUMNS.sub(_as_paragraph, value)

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Show the value of each default that is a constant of the package in place of its name."""
        objects: list[griffe.Object] = [pkg]
        while objects:
            for member in objects.pop().members.values():
                if isinstance(member, griffe.Function):
                    for parameter in member.parameters:
                        parameter.default = _value(parameter.default, loader)
                elif isinstance(member, griffe.Attribute) and isinstance(member.parent, griffe.Class):
                    member.value = _value(member.value, loader)
                elif isinstance(member, griffe.Object):
                    objects.append(member)


def _as_paragraph(section: re.Match[str]) -> str:
    return f"**{section[1]}:** {textwrap.dedent(section[2])}"


def _value(default: str | griffe.Expr | None, loader: griffe.GriffeLoader) -> str | griffe.Expr | None:
    """Return the value of a constant that is a literal; any other default unchanged."""
    if not isinstance(default, griffe.ExprName) or not re.fullmatch(r"_?[A-Z][A-Z0-9_]+", default.name):
        return default
    constant = loader.modules_collection[default.canonical_path]
    if not isinstance(constant, griffe.Attribute) or constant.value is None:
        return default
    try:
        ast.literal_eval(str(constant.value))
    except ValueError:
        return default
    return constant.value
