"""Structured tasks, drawn by code: the same images with labels for where, how large, how many, and what relation.

As in VTAB's structured group (Zhai et al. 2019, https://arxiv.org/abs/1910.04867), an ImageNet backbone's features know
little of these labels, and tuning has to teach it. Every set of images is fixed by its name and a seed, and gives
several label sets for the same images.

Coordinates are shares of the image's side, x to the right and y down; angles are in radians.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIDE = 96  # pixels of a finished image
SUPERSAMPLING = 3  # what is drawn is larger by this factor, so that edges come out smooth

Generator = np.random.Generator
Point = tuple[float, float]
Colour = tuple[int, int, int]
Polygon = list[Point]

SHAPES = ("bar", "ellipse", "triangle", "tee", "cross")
HUES = {"red": 0.0, "yellow": 0.15, "green": 0.35, "cyan": 0.5, "blue": 0.65, "purple": 0.82}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Images with several labels each.

    Attributes:
        images: uint8 `(N, SIDE, SIDE, 3)`.
        labels: For each label set, int64 `(N,)`.
        classes: For each label set, the names of its classes.
    """

    images: npt.NDArray[np.uint8]
    labels: dict[str, npt.NDArray[np.int64]]
    classes: dict[str, tuple[str, ...]]


Painter = Callable[[Generator], tuple[Image.Image, dict[str, int]]]
"""Draws one image and says its labels."""

IMAGE_SETS: dict[str, tuple[Painter, dict[str, tuple[str, ...]]]] = {}


def image_set(name: str, **classes: Sequence[str]) -> Callable[[Painter], Painter]:
    """Enter a painter with the classes of each of its label sets."""

    def enter(painter: Painter) -> Painter:
        IMAGE_SETS[name] = painter, {label: tuple(names) for label, names in classes.items()}
        return painter

    return enter


@lru_cache(maxsize=2)  # several label sets of the same images come one after the other
def draw(name: str, count: int, seed: int) -> Drawn:
    """`count` images of a set; the i-th one depends on the name, the seed and i alone."""
    painter, classes = IMAGE_SETS[name]
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = {label: np.empty(count, np.int64) for label in classes}
    for i in range(count):
        image, found = painter(np.random.default_rng((zlib.crc32(name.encode()), seed, i)))
        images[i] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
        for label, number in found.items():
            labels[label][i] = number
    return Drawn(images, labels, classes)


@image_set(
    "sprites",
    where=[f"row {row + 1}, column {column + 1}" for row in range(4) for column in range(4)],
    size=["tiny", "small", "medium", "large"],
    angle=[f"{30 * step} degrees" for step in range(6)],
    shape=SHAPES,
    colour=tuple(HUES),
)
def sprites(generator: Generator) -> tuple[Image.Image, dict[str, int]]:
    """One elongated shape anywhere on a cluttered background."""
    row, column, size, angle, shape, colour = (int(generator.integers(n)) for n in (4, 4, 4, 6, 5, 6))
    image = background(generator)
    centre = tuple(0.08 + 0.21 * (cell + generator.uniform(0.05, 0.95)) for cell in (column, row))
    radius = 0.065 * 1.42 ** (size + generator.uniform(-0.35, 0.35))
    turn = math.pi / 6 * (angle + generator.uniform(-0.4, 0.4))
    paint(image, outline(SHAPES[shape], centre, radius, turn), bright(generator, list(HUES)[colour]))  # type: ignore[arg-type]
    return image, {"where": 4 * row + column, "size": size, "angle": angle, "shape": shape, "colour": colour}


NEAR_TO_FAR = (0.2, 0.31, 0.42, 0.53, 0.64)  # borders of the classes of distance


@image_set(
    "scenes",
    count=[f"{n} objects" for n in range(2, 8)],
    largest=SHAPES,
    distance=["touching distance", "near", "far", "across"],
)
def scenes(generator: Generator) -> tuple[Image.Image, dict[str, int]]:
    """Two to seven objects apart from each other, one of them larger; one is red, one blue, the others neither."""
    count, distance = int(generator.integers(2, 8)), int(generator.integers(4))
    shapes = generator.integers(0, len(SHAPES), count)
    biggest = int(generator.integers(count))
    radii = np.where(np.arange(count) == biggest, generator.uniform(0.115, 0.135), generator.uniform(0.05, 0.08, count))
    places = _until(lambda: _apart(generator, radii, NEAR_TO_FAR[distance : distance + 2]))
    image = background(generator)
    for i in generator.permutation(count):
        name = ("red", "blue")[i] if i < 2 else str(generator.choice(["yellow", "green", "cyan", "purple"]))
        turn = generator.uniform(0, math.pi)
        paint(image, outline(SHAPES[shapes[i]], places[i], radii[i], turn), bright(generator, name))
    return image, {"count": count - 2, "largest": int(shapes[biggest]), "distance": distance}


def _apart(generator: Generator, radii: npt.NDArray[np.float64], between: Sequence[float]) -> list[Point] | None:
    """Places of the objects, the first two as far apart as asked for; None where they do not fit."""
    places: list[Point] = [_inside(generator, radii[0])]
    turn, far = generator.uniform(0, 2 * math.pi), generator.uniform(*between)
    places.append((places[0][0] + far * math.cos(turn), places[0][1] + far * math.sin(turn)))
    for radius in radii[2:]:
        place = _until(lambda r=radius: _free(_inside(generator, r), r, places, radii), tries=60)  # type: ignore[misc]
        if place is None:
            return None
        places.append(place)
    fits = all(radii[1] < value < 1 - radii[1] for value in places[1]) and far > radii[0] + radii[1]
    return places if fits else None


def _free(place: Point, radius: float, others: Sequence[Point], radii: Sequence[float]) -> Point | None:
    near = zip(others, radii, strict=False)
    return place if all(math.dist(place, other) > 0.95 * (radius + r) for other, r in near) else None


@image_set(
    "relations",
    left_of=["dot left of square", "dot right of square"],
    inside=["dot inside ring", "dot outside ring"],
    touching=["square touches ring", "square apart from ring"],
)
def relations(generator: Generator) -> tuple[Image.Image, dict[str, int]]:
    """A ring, a dot and a square, in any of eight combinations of relations."""
    left, inside, touching = (int(generator.integers(2)) for _ in range(3))
    radius = generator.uniform(0.16, 0.23)

    def place() -> tuple[Point, Point, Point] | None:
        ring, dot, square = (_inside(generator, margin) for margin in (radius, 0.06, 0.08))
        to_dot, gap = math.dist(ring, dot), abs(math.dist(ring, square) - radius)
        right = (
            (dot[0] < square[0] - 0.06 if left == 0 else dot[0] > square[0] + 0.06)
            and (to_dot < radius - 0.06 if inside == 0 else to_dot > radius + 0.07)
            and (gap < 0.03 if touching == 0 else gap > 0.12)
            and math.dist(dot, square) > 0.13
        )
        return (ring, dot, square) if right else None

    ring, dot, square = _until(place)
    image = background(generator)
    paint_ring(image, ring, radius, 0.022, bright(generator, "green"))
    turn = generator.uniform(0, math.pi)
    corners = [(square[0] + 0.075 * math.cos(turn + k), square[1] + 0.075 * math.sin(turn + k)) for k in _quarters()]
    paint(image, corners, bright(generator, "blue"))
    paint(image, outline("disc", dot, 0.045, 0.0), bright(generator, "red"))
    return image, {"left_of": left, "inside": inside, "touching": touching}


@image_set("symmetry", axis=["no axis", "upright axis", "level axis", "both axes"])
def symmetry(generator: Generator) -> tuple[Image.Image, dict[str, int]]:
    """Twelve shapes that mirror each other in an upright axis, a level one, both or none."""
    axis = int(generator.integers(4))
    copies = {0: 1, 1: 2, 2: 2, 3: 4}[axis]
    image = background(generator)
    for _ in range(12 // copies):
        centre, radius = _inside(generator, 0.08), generator.uniform(0.05, 0.1)
        shape, turn = SHAPES[generator.integers(len(SHAPES))], generator.uniform(0, math.pi)
        polygon, colour = outline(shape, centre, radius, turn), bright(generator, str(generator.choice(list(HUES))))
        paint(image, polygon, colour)
        if axis in (1, 3):
            paint(image, [(1 - x, y) for x, y in polygon], colour)
        if axis in (2, 3):
            paint(image, [(x, 1 - y) for x, y in polygon], colour)
        if axis == 3:
            paint(image, [(1 - x, 1 - y) for x, y in polygon], colour)
    return image, {"axis": axis}


@image_set("lines", angle=[f"{22.5 * step:g} degrees" for step in range(8)])
def lines(generator: Generator) -> tuple[Image.Image, dict[str, int]]:
    """One long line among short ones."""
    angle = int(generator.integers(8))
    image = background(generator)
    for _ in range(10):
        _stroke(image, _inside(generator, 0.1), generator.uniform(0.05, 0.1), generator.uniform(0, math.pi), generator)
    turn = math.pi / 8 * (angle + generator.uniform(-0.4, 0.4))
    _stroke(image, _inside(generator, 0.35), 0.33, turn, generator)
    return image, {"angle": angle}


@image_set(
    "gratings",
    frequency=["coarsest", "coarser", "coarse", "fine", "finer", "finest"],
    orientation=[f"{30 * step} degrees" for step in range(6)],
)
def gratings(generator: Generator) -> tuple[Image.Image, dict[str, int]]:
    """A wave in two colours, under noise."""
    frequency, orientation = int(generator.integers(6)), int(generator.integers(6))
    cycles = 2.2 * 1.4 ** (frequency + generator.uniform(-0.35, 0.35))
    turn = math.pi / 6 * (orientation + generator.uniform(-0.35, 0.35))
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    phase = 2 * math.pi * cycles * (x * math.cos(turn) + y * math.sin(turn)) + generator.uniform(0, 2 * math.pi)
    share = 0.5 + generator.uniform(0.15, 0.5) * np.sin(phase)[..., None]
    one, other = (np.array(generator.uniform(20, 235, 3)) for _ in range(2))
    pixels = one * share + other * (1 - share) + generator.normal(0, 18, (SIDE, SIDE, 3))
    labels = {"frequency": frequency, "orientation": orientation}
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), labels


def background(generator: Generator) -> Image.Image:
    """Soft blotches of muted colours with some grain and faint strokes, at drawing size."""
    coarse = generator.uniform(60, 190, (int(generator.integers(3, 7)), int(generator.integers(3, 7)), 1))
    muted = coarse + generator.uniform(-25, 25, (*coarse.shape[:2], 3))
    size = SIDE * SUPERSAMPLING
    image = Image.fromarray(muted.clip(0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    grain = generator.normal(0, 14, (SIDE, SIDE, 1)).repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)
    image = Image.fromarray((np.asarray(image, np.float32) + grain).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(2, 7))):
        ends = [tuple(generator.uniform(0, size, 2)) for _ in range(2)]
        pen.line(ends, fill=(int(generator.integers(60, 190)),) * 3, width=SUPERSAMPLING)
    return image


def outline(shape: str, centre: Point, radius: float, turn: float) -> Polygon:
    """A shape's corners; its long axis lies at the angle `turn`."""
    long, short = radius, 0.42 * radius
    if shape in ("ellipse", "disc"):
        across = short if shape == "ellipse" else long
        own = [(long * math.cos(t), across * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 40, endpoint=False)]
    else:
        own = {
            "bar": [(-long, -short), (long, -short), (long, short), (-long, short)],
            "triangle": [(long, 0.0), (-long, 1.5 * short), (-long, -1.5 * short)],
            "tee": _tee(long, short),
            "cross": _cross(long, short),
        }[shape]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in own]


def _tee(long: float, short: float) -> Polygon:
    thin, wide = 0.4 * short, 1.5 * short
    bar = long - 0.8 * short
    return [
        (-long, -thin), (bar, -thin), (bar, -wide), (long, -wide),
        (long, wide), (bar, wide), (bar, thin), (-long, thin),
    ]  # fmt: skip


def _cross(long: float, short: float) -> Polygon:
    thin, wide = 0.4 * short, 1.3 * short
    corners = [(long, thin), (thin, thin), (thin, wide)]
    return [
        *corners, *((-x, y) for x, y in reversed(corners)), *((-x, -y) for x, y in corners),
        *((x, -y) for x, y in reversed(corners)),
    ]  # fmt: skip


def paint(image: Image.Image, polygon: Polygon, colour: Colour) -> None:
    """Fill a polygon, with a thin dark edge."""
    points = [(x * image.width, y * image.height) for x, y in polygon]
    ImageDraw.Draw(image).polygon(points, fill=colour, outline=(30, 30, 30))


def paint_ring(image: Image.Image, centre: Point, radius: float, width: float, colour: Colour) -> None:
    """A circle of a width."""
    box = [
        side * image.width for side in (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    ]
    ImageDraw.Draw(image).ellipse(box, outline=colour, width=round(width * image.width))


def bright(generator: Generator, hue: str) -> Colour:
    """A bright colour of about that hue."""
    shade = HUES[hue] + generator.uniform(-0.025, 0.025)
    channels = colorsys.hsv_to_rgb(shade % 1, generator.uniform(0.7, 1), generator.uniform(0.75, 1))
    red, green, blue = (round(255 * value) for value in channels)
    return red, green, blue


def _stroke(image: Image.Image, centre: Point, reach: float, turn: float, generator: Generator) -> None:
    across, down = reach * math.cos(turn), reach * math.sin(turn)
    ends = [(centre[0] - across, centre[1] - down), (centre[0] + across, centre[1] + down)]
    colour = bright(generator, str(generator.choice(list(HUES))))
    points = [(x * image.width, y * image.height) for x, y in ends]
    ImageDraw.Draw(image).line(points, fill=colour, width=2 * SUPERSAMPLING)


def _inside(generator: Generator, margin: float) -> Point:
    x, y = generator.uniform(margin, 1 - margin, 2)
    return float(x), float(y)


def _quarters() -> list[float]:
    return [k * math.pi / 2 for k in range(4)]


def _until(attempt: Callable, tries: int = 100_000):  # type: ignore[no-untyped-def,type-arg]
    """The first result of `attempt` that is not None; None after so many tries."""
    return next((found for _ in range(tries) if (found := attempt()) is not None), None)
