"""Lays text out in columns, and colours it where somebody looks.

Written out rather than left to a library because `edgectl ps` must list thousands of requests at
once, and because no line may ever be cut or wrapped: `| grep` sees everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from edged.cli.output import harmless


class Style(Enum):
    """SGR codes of a terminal."""

    BOLD = 1
    RED = 31
    GREEN = 32
    YELLOW = 33
    CYAN = 36


@dataclass(frozen=True, slots=True)
class Styled:
    text: str
    style: Style | None


Cell = str | Styled


@dataclass(frozen=True, slots=True)
class Column:
    head: str
    is_number: bool = False
    """Numbers are aligned at their end."""


GAP = "  "


def painted(cell: Cell, *, colour: bool, width: int = 0, is_number: bool = False) -> str:
    """A cell padded to `width`; its colour does not reach into the padding."""
    text = harmless(cell if isinstance(cell, str) else cell.text)
    padding = " " * (width - len(text))
    style = None if isinstance(cell, str) else cell.style
    if colour and style is not None:
        text = f"\x1b[{style.value}m{text}\x1b[0m"
    return f"{padding}{text}" if is_number else f"{text}{padding}"


def laid_out(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, colour: bool) -> str:
    """A head and a line for each row, each as wide as its content and ended by a line break."""
    heads: Sequence[Cell] = [Styled(column.head, Style.BOLD) for column in columns]
    widths = [
        max(len(painted(row[place], colour=False)) for row in (heads, *rows))
        for place in range(len(columns))
    ]
    lines = []
    for row in (heads, *rows):
        cells = [
            painted(cell, colour=colour, width=width, is_number=column.is_number)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        lines.append(GAP.join(cells).rstrip() + "\n")
    return "".join(lines)
