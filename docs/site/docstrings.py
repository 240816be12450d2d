"""Docstrings as the site's parser reads them: its word for examples, Markdown's code and tables."""

from __future__ import annotations

import re
from typing import Any

import griffe

_TABLE = re.compile(r"^=+(?: +=+)+\n(?:.*\S.*\n)*?=+(?: +=+)+(?=\n\s*\n|\Z)", re.MULTILINE)


def readable(text: str) -> str:
    """`Example:` is a section of doctests, `::` ends no line, and a table keeps its columns."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return _TABLE.sub(r"```text\n\g<0>\n```", text)


class Docstrings(griffe.Extension):
    """Makes each docstring readable when it is loaded."""

    def on_object(self, *, obj: griffe.Object, loader: Any, **kwargs: Any) -> None:
        """Called with every object of the package."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
