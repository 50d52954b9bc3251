"""Small study files."""

from pathlib import Path
from typing import Any


def study_of(*blocks: dict[str, Any], **top: Any) -> dict[str, Any]:
    defaults = {"dataset": "tickets", "seed": 1, "strategy": "margin"}
    return {"study": "s", "defaults": defaults, "grid": list(blocks) or [{}]} | top


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path
