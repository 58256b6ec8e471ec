"""The style of figures: one journal column wide (3.3 inches), with a colour, marker and dash pattern for each method.

The palette is that of Okabe and Ito, which is safe for colour-blind readers, with violet instead of yellow, which is hard to see on white.
Methods after the eighth differ in dash pattern and fill.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, get_args

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font

Parameters = ParamSpec("Parameters")

WIDTH = 3.3  # inches
DPI = 300
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F1FE0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
INK, SOFT, FAINT, WARNING_COLOUR = "#222222", "#777777", "#dddddd", "#b00020"
RC_PARAMS: Any = {  # matplotlib types the keys as hundreds of literals
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "figure.titlesize": 7,
    "figure.titleweight": "bold",
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "svg.hashsalt": "fedsam",  # makes the file reproducible
    "pdf.fonttype": 42,  # TrueType: text stays text, and journals accept it
    "axes.titley": 1.0,  # where titles are anyway: no axis is on top; finding that out takes a sixth of the drawing
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,  # where a figure asks for no layout
    "text.parse_math": False,  # names are text: `$` begins no formula
}
# Fonts with other scripts, used where they are installed; DejaVu Sans has Latin, Greek, Cyrillic, Arabic and Hebrew.
MORE_FONTS = (
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Noto Sans CJK KR",
        "Noto Sans SC",
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "WenQuanYi Micro Hei",
    ),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Malgun Gothic", "Nirmala UI", "Noto Sans Devanagari"),
    *("Noto Emoji", "Segoe UI Emoji", "Arial Unicode MS"),
)


@dataclass(frozen=True)
class MethodStyle:
    """The style of one method in every figure; the fields are matplotlib's properties of a line."""

    color: str
    marker: str
    linestyle: Any
    fillstyle: Literal["full", "none"]

    @property
    def point(self) -> dict[str, Any]:
        """Properties of points without a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": "", "fillstyle": self.fillstyle}

    @property
    def line(self) -> dict[str, Any]:
        """Properties of a line with points."""
        return self.point | {"linestyle": self.linestyle}


MethodStyles = Mapping[str, MethodStyle]  # by label of the method


def method_styles(methods: Sequence[str]) -> MethodStyles:
    """A style for each method, which depends on its position alone."""
    styles = {}
    for index, method in enumerate(methods):
        cycle, colour = divmod(index, len(COLOURS))
        styles[method] = MethodStyle(COLOURS[colour], MARKERS[colour], DASHES[cycle % len(DASHES)], "none" if cycle else "full")
    return styles


@cache
def rc_params() -> Any:
    """`RC_PARAMS` with the fonts of this machine."""
    installed = {font.name for font in fontManager.ttflist}
    return RC_PARAMS | {"font.family": [RC_PARAMS["font.family"], *(name for name in MORE_FONTS if name in installed)]}


def undrawable(text: str) -> str:
    """The characters that no font of `rc_params` has, which figures show as boxes."""
    fonts = [get_font(fontManager.findfont(name)).get_charmap() for name in rc_params()["font.family"]]
    return "".join(dict.fromkeys(character for character in text if not any(ord(character) in font for font in fonts)))


def with_rc_params(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Decorate a drawing function to use `RC_PARAMS`, whatever the user's settings are."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with rc_context(rc_params()):
            return draw(*args, **kwargs)

    return drawn


Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = get_args(Format)
METADATA: Mapping[Format, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}  # without times, files are reproducible


def encode(figure: Figure, kind: Format) -> bytes:
    """A figure as the bytes of a file: PNG at 300 dots per inch, SVG with text as outlines, or PDF. The first call fixes the layout."""
    buffer = io.BytesIO()
    with rc_context(rc_params()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # `undrawable` tells the reader
        if (layout := figure.get_layout_engine()) is not None:
            figure.dpi = DPI
            layout.execute(figure)
            figure.set_layout_engine(None)  # with any other, "none" included, each `savefig` draws twice
        figure.savefig(buffer, format=kind, dpi=DPI, facecolor="white", metadata=METADATA[kind])
    return buffer.getvalue()


class ShownFigure(Figure):
    """A figure that a notebook shows when it is the value of a cell, whatever matplotlib is set to."""

    def _repr_png_(self) -> bytes:
        return encode(self, "png")
