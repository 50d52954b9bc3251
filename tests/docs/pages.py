"""README and docs as their tests read them: pages by name, and what stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BY_NAME = {str(path.relative_to(ROOT)): path for path in PAGES}


def text_of(name: str) -> str:
    return BY_NAME[name].read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return what a forge makes of the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def rows(name: str) -> dict[str, str]:
    """Return the second cell of every table row by each name in its first one."""
    found: dict[str, str] = {}
    for first, second in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", text_of(name), flags=re.MULTILINE):
        keys, values = re.findall(r"`([^`]+)`", first), second.split(", ")
        found |= dict(zip(keys, values if len(values) == len(keys) else [second] * len(keys), strict=True))
    return found
