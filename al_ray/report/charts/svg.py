"""SVG elements as escaped markup."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

Part = Markup | str


def tag(name: str, *children: Part, **attributes: str | float) -> Markup:
    """Return one element; text and attribute values are escaped, ``class_`` is class and ``_`` is a dash."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    if not children:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{_inner(children)}</{name}>")


def drawing(width: float, height: float, label: str, parts: Iterable[Part], class_: str = "") -> Markup:
    """Return a whole picture with the text that stands for it where it cannot be seen; hidden from readers without."""
    wide, high = _value(width), _value(height)
    said = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    size = f'width="{wide}" height="{high}" viewBox="0 0 {wide} {high}"'
    return Markup(f'<svg class="{escape(class_)}" {size} {said}>{_inner(parts)}</svg>')


def group(parts: Iterable[Part], **attributes: str | float) -> Markup:
    """Return a ``g`` element."""
    return tag("g", *parts, Markup(""), **attributes)


def text(words: str, x: float, y: float, anchor: str = "start", **attributes: str | float) -> Markup:
    """Return a line of text; ``anchor`` is start, middle or end."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return tag("path", d=f"M{_value(x1)} {_value(y1)}L{_value(x2)} {_value(y2)}", class_=class_)


def path_of(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Return the path through some points."""
    return "M" + "L".join(f"{_value(x)} {_value(y)}" for x, y in zip(xs, ys, strict=True))


def _inner(parts: Iterable[Part]) -> str:
    return "".join(part if isinstance(part, Markup) else str(escape(part)) for part in parts)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return str(escape(value))
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
