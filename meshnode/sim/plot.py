"""A plot of curves as a picture, for people who look at a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 900, 480, 70, 50, 30, 60
COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d5a97", "#3bb7b0", "#a26b3a", "#6c757d", "#111111")
INK, PALE = "#222222", "#dddddd"


def plot(path: Path, title: str, curves: Mapping[str, Sequence[float]], *, of: int, until: float) -> None:
    """Draw, for each name, the share of `of` that had come to something by each second, as a PNG."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)

    def at(second: float, share: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * min(second, until) / until,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share,
        )

    for tenth in range(0, 11, 2):
        draw.line([at(0, tenth / 10), at(until, tenth / 10)], fill=PALE)
        draw.text((LEFT - 44, at(0, tenth / 10)[1] - 6), f"{tenth * 10} %", fill=INK)
    for mark in range(11):
        x, y = at(until * mark / 10, 0)
        draw.line([(x, y), (x, y + 5)], fill=INK)
        draw.text((x - 8, y + 10), f"{until * mark / 10:.3g}", fill=INK)
    draw.line([at(0, 1), at(0, 0), at(until, 0)], fill=INK)
    draw.text((LEFT, 14), title, fill=INK)
    draw.text((WIDTH / 2, HEIGHT - 24), "seconds", fill=INK)
    for number, (name, times) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [at(0, 0)]
        for count, second in enumerate(sorted(times), 1):
            points += [at(second, (count - 1) / of), at(second, count / of)]
        points.append((at(until, 0)[0], points[-1][1]))
        draw.line(points, fill=colour, width=3)
        draw.text((LEFT + 20, TOP + 16 * number), name, fill=colour)
    image.save(path, "PNG")
