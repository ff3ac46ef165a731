"""What pictures of the demos share: a legend of colours, and the size of their letters."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LETTERS = 18  # pixels
LINE = 28
# Okabe and Ito's, which the colour-blind can tell apart: vermilion, bluish green, yellow, blue, purple, sky blue
COLOURS = [(213, 94, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (204, 121, 167), (86, 180, 233)]


def with_legend(sheet: Image.Image, colours: Mapping[str, tuple[int, ...]]) -> Image.Image:
    """A picture with a legend below it.

    Args:
        sheet: The picture, RGB.
        colours: RGB, 0 to 255, by name.
    """
    from PIL import Image, ImageDraw
    places, x, y = {}, 4, 0
    for name in colours:
        width = int(1.7 * LETTERS + ImageDraw.Draw(sheet).textlength(name, font_size=LETTERS)) + 20
        if x > 4 and x + width > sheet.width:
            x, y = 4, y + LINE
        places[name] = x, sheet.height + y + 6
        x += width
    out = Image.new('RGB', (sheet.width, sheet.height + y + LINE + 6), 'white')
    out.paste(sheet)
    pen = ImageDraw.Draw(out)
    for name, (left, top) in places.items():
        pen.rectangle([left, top + 2, left + LETTERS, top + 2 + LETTERS], fill=tuple(colours[name]), outline='black')
        pen.text((left + 1.5 * LETTERS, top), name, fill='black', font_size=LETTERS)
    return out
