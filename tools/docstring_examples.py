"""An extension of griffe: the section `Example:` of a docstring is shown as code, as `Examples:` is."""

import re
from typing import Any

import griffe


class ShowExamples(griffe.Extension):
    """Rename the section, which griffe would otherwise read as a paragraph of Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
