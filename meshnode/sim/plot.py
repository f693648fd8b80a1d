"""A plot of curves as a picture, for people who look at a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 900, 480, 70, 50, 30, 60
COLOURS = (
    *("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d5a97", "#3bb7b0", "#a26b3a"),
    *("#6c757d", "#f28ea8", "#9bb83c", "#4f4fc4", "#e07b39", "#2f6b4f", "#b0a8c8"),
)
LEGEND = 190
INK, PALE = "#222222", "#dddddd"


def plot(
    path: Path, title: str, curves: Mapping[str, Sequence[float]], *, of: int, until: float, bold: str = ""
) -> None:
    """Draw, for each name, the share of `of` that had come to something by each second, as a PNG; `bold` in black."""
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
    foot = HEIGHT - BOTTOM - 16 * len(curves) - 8
    for number, (name, times) in sorted(enumerate(curves.items()), key=lambda it: it[1][0] == bold):
        colour = INK if name == bold else COLOURS[number % len(COLOURS)]
        points = [at(0, 0)]
        for count, second in enumerate(sorted(it for it in times if it <= until), 1):
            points += [at(second, (count - 1) / of), at(second, count / of)]
        points.append((at(until, 0)[0], points[-1][1]))
        draw.line(points, fill=colour, width=5 if name == bold else 2)
        draw.line(
            [(WIDTH - LEGEND - 30, foot + 16 * number + 6), (WIDTH - LEGEND - 6, foot + 16 * number + 6)], colour, 3
        )
        draw.text((WIDTH - LEGEND, foot + 16 * number), name, fill=INK)
    image.save(path, "PNG")
