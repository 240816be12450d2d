"""A few words of SVG: elements with attributes, text of known width."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Iterable

SANS = "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
INK, QUIET, LINE, PAPER = "#1f2733", "#6b7685", "#dfe4ea", "#fbfcfd"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(parent: xml.Element, name: str, *, title: object = "", **attributes: object) -> xml.Element:
    """A new child; `stroke_width=2` is stroke-width, floats have one digit, `title` is shown under the pointer."""
    shown = {k.rstrip("_").replace("_", "-"): _number(v) for k, v in attributes.items() if v is not None}
    made = xml.SubElement(parent, name, shown)
    if title:
        xml.SubElement(made, "title").text = clean(str(title))
    return made


def text(
    parent: xml.Element, x: float, y: float, words: str, *, size: float = 11.0, mono: bool = False, **attributes: object
) -> xml.Element:
    """A line of text whose baseline is at y."""
    family = MONO if mono else SANS
    fill = attributes.pop("fill", INK)
    made = element(parent, "text", title="", x=x, y=y, font_size=size, font_family=family, fill=fill, **attributes)
    made.text = clean(words)
    return made


def width(words: str, size: float = 11.0, mono: bool = False, bold: bool = False) -> float:
    """About how wide a text is."""
    if mono:
        return 0.605 * size * len(words)
    narrow = sum(c in "iljtf.,:;|'()[]/ " for c in words)
    return size * ((0.64 if bold else 0.6) * (len(words) - narrow) + 0.34 * narrow)


def clean(words: str) -> str:
    """Without what XML cannot say."""
    return _NOT_XML.sub("\ufffd", words)


def curve(points: Iterable[tuple[float, float]]) -> str:
    """A path that leaves and enters every point vertically."""
    (x, y), *rest = points
    parts = [f"M{x:.1f} {y:.1f}"]
    for u, v in rest:
        if abs(u - x) < 0.05:
            parts.append(f"V{v:.1f}")
        else:
            bend = (v - y) * 0.5
            parts.append(f"C{x:.1f} {y + bend:.1f} {u:.1f} {v - bend:.1f} {u:.1f} {v:.1f}")
        x, y = u, v
    return "".join(parts)


def size(count: float) -> str:
    """Bytes as a person writes them."""
    units = ["GB", "MB", "KB", "B"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop()
    return f"{count:.0f} {units[-1]}" if units[-1] == "B" or count >= 100 else f"{count:.1f} {units[-1]}"


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else clean(str(value))
