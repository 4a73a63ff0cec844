"""A picture with a slider: its frames are drawn beforehand, so that it moves without a kernel and
without a network. In print the figure that stands beside it takes its place."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import matplotlib
import matplotlib.pyplot as plt

from ltlib.errors import require_one_of

PAGE = """<div class="flipbook">
{frames}
<label>{knob} = <output>{shown}</output>
<input type="range" min="0" max="{last}" value="{start}" oninput="{turn}"></label>
</div>"""
FRAME = '<img src="data:image/png;base64,{png}" alt="{alt}" data-shown="{shown}"{hidden}>'
TURN = (
    "const book = this.closest('.flipbook'), frames = book.querySelectorAll('img');"
    "frames.forEach((frame, i) => {frame.hidden = i != this.value});"
    "book.querySelector('output').value = frames[this.value].dataset.shown"
)


def flipbook(
    draw: Callable[[float], matplotlib.figure.Figure],
    knob: str,
    values: Sequence[float],
    start: float,
) -> None:
    """Show draw(value) for the value that the slider ``knob`` is at, at first ``start``.

    ``draw`` should keep the axes' limits, so that the curves move and not the frame.
    Raises ConfigError where ``start`` is none of the values.
    """
    from IPython.display import HTML, display

    require_one_of("start", start, values)
    place, frames = list(values).index(start), []
    for i, value in enumerate(values):
        figure, file = draw(value), io.BytesIO()
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)
        png, shown = base64.b64encode(file.getvalue()).decode(), f"{value:g}"
        words = escape(f"The picture for {knob} = {shown}")
        hidden = "" if i == place else " hidden"
        frames.append(FRAME.format(png=png, alt=words, shown=shown, hidden=hidden))
    text = {"knob": escape(knob), "shown": f"{start:g}", "start": place, "last": len(values) - 1}
    display(HTML(PAGE.format(frames="\n".join(frames), turn=TURN, **text)))
