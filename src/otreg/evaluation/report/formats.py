"""How the report writes numbers: filters for its template."""

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otreg.evaluation.summary import Spread

if TYPE_CHECKING:
    from markupsafe import Markup


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent, without the sign; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def thousands(value: float) -> str:
    """A count with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def formula(text: str) -> "Markup":
    """A formula with _x and _{…} as subscripts."""
    from markupsafe import Markup, escape

    marked = str(escape(text))
    while (inner := re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", marked)) != marked:
        marked = inner
    return Markup(re.sub(r"_(\w)", r"<sub>\1</sub>", marked))


def span(spread: Spread, scale: float = 1.0, digits: int = 2) -> str:
    """The range over seeds, empty for a single seed."""
    if len(spread.by_seed) < 2:
        return ""
    return f"{scale * spread.low:.{digits}f}–{scale * spread.high:.{digits}f}"


def tint(spread: Spread, base: Spread | None) -> str:
    """CSS custom property: how far from the base arm, and to which side (-1 fewer, 1 more)."""
    if base is None or base is spread or base.mean == 0 or spread.mean == 0:
        return ""
    change = math.log2(spread.mean / base.mean)
    side = "less" if change < 0 else "more"
    return f"background: rgb(var(--{side}) / {min(0.5, 0.8 * abs(change)):.2f})"


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "number": number,
    "thousands": thousands,
    "span": span,
    "tint": tint,
    "formula": formula,
}
