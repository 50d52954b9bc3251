"""What a spreadsheet does to a CSV file that is opened, filled in and saved again."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from decimal import Decimal

MOST_UNITS = 32_767
ROWS_WITH_ALL_CELLS = 16
FORMULA = re.compile(r"[\t\r]*[=+\-@＝＋－＠]")  # white space before it may be dropped
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_DATE = re.compile(r"(\d{1,2})[-/](\d{1,2})")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def shown(cell: str, decimal: str = ".") -> str:
    """Return a cell as it is displayed, which is what is saved: a number, a truth value, a date or an error."""
    if _NUMBER.fullmatch(cell):
        value = Decimal(cell)
        digits = len(str(abs(int(value))))
        if digits > 11 or "e" in cell.lower():
            mantissa, exponent = f"{value:.5E}".split("E")
            mantissa = mantissa.rstrip("0").rstrip(".") if "e" not in cell.lower() else f"{value:.2E}".split("E")[0]
            return f"{mantissa.replace('.', decimal)}E{exponent[0]}{exponent[1:].zfill(2)}"
        plain = f"{value:f}"
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return plain.replace(".", decimal)
    if cell.lower() in ("true", "false"):
        return cell.upper()
    if (date := _DATE.fullmatch(cell)) and 1 <= int(date[1]) <= 31 and 1 <= int(date[2]) <= 12:
        return f"{int(date[1]):02d}. {_MONTHS[int(date[2]) - 1]}"
    return "#NAME?" if FORMULA.match(cell) else cell


def resave(
    content: bytes,
    fill_in: Callable[[Mapping[str, str]], str] = lambda row: "",
    *,
    separator: str = ";",
    decimal: str = ",",
    encoding: str = "utf-8-sig",
    typed_as_text: bool = False,
) -> bytes:
    """Open a CSV file, write a label into every row, and save it.

    Args:
        content: of the file.
        fill_in: gives what a person types as the label of a row.
        separator: with which it is saved.
        decimal: mark of decimals.
        encoding: in which it is saved; what it lacks becomes a question mark.
        typed_as_text: whether the column of labels was formatted as text before.
    """
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    saved = [header]
    for number, row in enumerate(rows, start=1):
        assert all(len(cell.encode("utf-16-le")) // 2 <= MOST_UNITS for cell in row), "the sheet breaks here"
        cells = [shown(cell, decimal) for cell in row]
        label = fill_in(dict(zip(header, row, strict=True)))
        cells[header.index("label")] = label if typed_as_text else shown(label, decimal)
        while number > ROWS_WITH_ALL_CELLS and cells and not cells[-1]:
            cells.pop()
        saved.append(cells)
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter=separator, lineterminator="\r\n").writerows(saved)
    return lines.getvalue().encode(encoding, "replace")
