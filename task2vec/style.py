"""One look for all figures: what is read off them stands out, and people with any colour vision can.

matplotlib is loaded only when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Given = ParamSpec("Given")

# Okabe and Ito's, which stay apart in any colour vision; a shape for each, for prints without colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
ACCENT = COLOURS[1]
QUIET = "#6b7280"
"""Of what is only there to compare with."""

SETTINGS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa3b0",
    "axes.grid": True,
    "axes.labelcolor": "#1c2330",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "errorbar.capsize": 2,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#e3e7ee",
    "grid.linewidth": 0.8,
    "image.cmap": "cividis",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "xtick.color": "#566074",
    "ytick.color": "#566074",
    "xtick.labelcolor": "#1c2330",
    "ytick.labelcolor": "#1c2330",
}


def in_style(draw: Callable[Given, Figure]) -> Callable[Given, Figure]:
    """Have a function draw its figure in this look."""

    @wraps(draw)
    def drawn(*args: Given.args, **options: Given.kwargs) -> Figure:
        from cycler import cycler
        from matplotlib import rc_context

        settings: Any = SETTINGS | {"axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=MARKERS)}
        with rc_context(settings):
            figure = draw(*args, **options)
            figure.draw_without_rendering()  # ticks are made only now, by the settings of this moment
        return figure

    return drawn
