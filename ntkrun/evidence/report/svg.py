"""A stored figure within a page: nothing but shapes, and names that no other figure has."""

import re
import xml.etree.ElementTree as ET

# All that matplotlib draws with. Its style sheet, one rule for everything, is in the page's own instead.
SHAPES = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "image", "pattern"}
LOOKS = {"d", "style", "transform", "viewBox", "width", "height", "x", "y", "clip-path"}
_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")  # of a point, 1/72 inch: less than a screen or a printer shows
_NAMED = re.compile(r"(?:\bhref=\"|url\()#([^\")]*)")


def inlined(text: str, prefix: str, alt: str) -> str:
    """An SVG file as an element of a page: what is neither a shape nor its look (scripts, links, comments) is left out,
    `prefix` goes before every id, and `alt` says what it shows. Raises ValueError for what is no SVG."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(str(error)) from None
    if _plain(root.tag) != "svg":
        raise ValueError("its root is not svg")
    clean = _cleaned(root, prefix, set(_NAMED.findall(text)))
    clean.attrib |= {"role": "img", "aria-label": alt}
    return ET.tostring(clean, encoding="unicode")


def width_of(svg: str) -> float:
    """The width of an inlined figure in points; 0 where it has none."""
    found = re.match(r"<svg[^>]*\bviewBox=\"[\d.]+ [\d.]+ ([\d.]+)", svg)
    return float(found.group(1)) if found else 0.0


def _plain(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def _cleaned(element: ET.Element, prefix: str, named: set[str]) -> ET.Element:
    attributes = {_plain(name): value for name, value in element.attrib.items()}
    kept = {name: _look(name, value, prefix) for name, value in attributes.items() if name in LOOKS}
    if attributes.get("id") in named:
        kept["id"] = prefix + attributes["id"]
    if target := _target(attributes.get("href", ""), prefix):
        kept["href"] = target
    clean = ET.Element(_plain(element.tag), {name: value for name, value in kept.items() if value})
    clean.extend(_cleaned(child, prefix, named) for child in element if _plain(child.tag) in SHAPES)
    return clean


def _target(href: str, prefix: str) -> str:
    """What is within the figure under its new name, pixels as they are; '' for whatever lies outside."""
    if href.startswith("#"):
        return f"#{prefix}{href[1:]}"
    return href if href.startswith("data:image/png;base64,") else ""


def _look(name: str, value: str, prefix: str) -> str:
    if name == "d":
        return _HUNDREDTHS.sub(r"\1", " ".join(value.split()))
    renamed = value.replace("url(#", f"url(#{prefix}")
    return renamed if renamed.count("url(") == value.count("url(#") else ""  # '' where it points outside
