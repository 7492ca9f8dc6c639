"""Frames of the world, drawn in torch: scenes of objects -> frames at given times.

    Look + generator --random_scenes, sample_scenes--> Scenes --draw--> (N, T, 3, S, S) uint8

A frame spans -1..1 in x (right) and y (down). Stills that pre-train the image tower (`PICTURE`) are easy to see. They
show motion by ghosts of earlier positions and sound by a badge of black and white squares, as photographs do by motion
blur and open mouths. Clips (`VIDEO`) are noisy, occluded and crowded, and seldom have ghosts or badges.

Shapes: N scenes, O objects in each, T times, S side of a frame in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.synthetic.world.words import COLOURS, MOTIONS, SHAPES, SOUNDS, TEXTURES, WorldClass

NUM_WORDS = tuple(len(words) for words in (SHAPES, COLOURS, TEXTURES, MOTIONS, SOUNDS))
NONE = -1  # of a motion: stands still; of a sound: silent

_RGB = {
    "red": (0.86, 0.13, 0.13), "orange": (0.97, 0.55, 0.08), "yellow": (0.96, 0.92, 0.22), "green": (0.18, 0.66, 0.22),
    "cyan": (0.2, 0.85, 0.9), "blue": (0.16, 0.28, 0.9), "purple": (0.52, 0.16, 0.72), "pink": (0.98, 0.55, 0.78),
    "brown": (0.46, 0.27, 0.12), "white": (0.97, 0.97, 0.97),
}  # fmt: skip
_RANGE = 0.5  # half of the way that a moving object goes, in half pictures; it starts over every second
_TURNS_PER_S = 0.55
_GHOST_S = (0.13, 0.26, 0.39)  # how long ago
_MASK_SIZE = 64
_LEFT, _RIGHT, _UP, _DOWN, _SPIN, _BOUNCE, _SHAKE, _GROW = range(len(MOTIONS))
# The badge of each sound: 3 x 3 squares, any two of which differ in four or more.
_BADGES = ("000001011", "001101101", "011001110", "011110001", "100110110", "101010101", "110000010", "110111000")


@dataclass(frozen=True)
class Look:
    """How hard frames are. Shares are of the scenes.

    Args:
        noise: standard deviation of each pixel, of 0..1.
        occluder: share with a grey bar before everything. distractor: share with a second, smaller object.
        trail: share whose main object leaves ghosts, of opacity trail_alpha.
        badge: share that shows the badge of its sound.
        scatter: at 0 every main object is upright, of one size and in the middle; at 1 all of this is random.
    """

    noise: float
    occluder: float
    distractor: float
    trail: float
    trail_alpha: float
    badge: float
    scatter: float = 1.0

    def eased(self, progress: float, *, until: float = 0.4) -> Look:
        """For a curriculum: at 0 one object in the middle, with trail and badge; from `until` on these settings."""
        share = min(1.0, max(0.0, progress / until))
        return replace(
            self,
            noise=self.noise * share,
            occluder=self.occluder * share,
            distractor=self.distractor * share,
            trail=1 - (1 - self.trail) * share,
            badge=1 - (1 - self.badge) * share,
            scatter=self.scatter * share,
        )


PICTURE = Look(noise=0.05, occluder=0.25, distractor=0.35, trail=0.7, trail_alpha=0.45, badge=0.55)
VIDEO = Look(noise=0.10, occluder=0.6, distractor=0.7, trail=0.2, trail_alpha=0.35, badge=0.2)


class Scenes(NamedTuple):
    """N scenes as tensors. Absent objects have size 0.

    Attributes:
        words: (N, O, 5) int64, indices of shape, colour, texture, motion, sound; NONE for still and silent.
        is_main: (N, O) bool; the others are distractors.
        centre: (N, O, 2). size: (N, O), half of the object's side. angle: (N, O), radians. turn: (N, O), +1 or -1.
        phase: (N, O), where in its second of motion the object starts.
        tint: (N, O, 3), added to the colour. trail: (N, O), opacity of its ghosts.
        badge: (N,) int64, the sound that a badge shows, or NONE. badge_at: (N, 2), its centre.
        occluder: (N, 5): centre x, y, half width, half height (0: none), grey.
        ground: (N, 5): three colours, then how they change along x and y.
        noise: (N,). scatter: (N,), share of its full amplitude that a motion has.
    """

    words: Tensor
    is_main: Tensor
    centre: Tensor
    size: Tensor
    angle: Tensor
    turn: Tensor
    phase: Tensor
    tint: Tensor
    trail: Tensor
    badge: Tensor
    badge_at: Tensor
    occluder: Tensor
    ground: Tensor
    noise: Tensor
    scatter: Tensor

    def select(self, which: Tensor) -> Scenes:
        """Some of the scenes, by indices or by a mask."""
        return Scenes(*(value[which] for value in self))

    @property
    def num_scenes(self) -> int:
        """N."""
        return self.words.shape[0]


def random_words(num: int, generator: torch.Generator) -> Tensor:
    """(num, 5) int64: any combination."""
    return torch.stack([torch.randint(0, n, (num,), generator=generator) for n in NUM_WORDS], dim=1)


def random_scenes(num: int, look: Look, generator: torch.Generator) -> Scenes:
    """Scenes of one main object with any words, and perhaps a distractor."""
    return _place(random_words(num, generator)[:, None], look, generator)


def sample_scenes(classes: Sequence[WorldClass], *, look: Look, generator: torch.Generator) -> Scenes:
    """One scene of each class; attributes that the class does not fix are random."""
    return sample_multi_scenes([[made] for made in classes], look=look, generator=generator)


def sample_multi_scenes(groups: Sequence[Sequence[WorldClass]], *, look: Look, generator: torch.Generator) -> Scenes:
    """One scene of each group, with all its classes as main objects side by side; groups are of one length."""
    num = len(groups[0])
    words = random_words(len(groups) * num, generator).view(len(groups), num, 5)
    for n, group in enumerate(groups):
        for o, c in enumerate(group):
            for place, value in enumerate((c.shape, c.colour, c.texture, c.motion, c.sound)):
                if value is not None:
                    words[n, o, place] = value
    return _place(words, look, generator)


def _place(main: Tensor, look: Look, generator: torch.Generator) -> Scenes:
    """Words of main objects (N, M, 5) -> scenes with M + 1 objects, the last a distractor."""
    n, m = main.shape[:2]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    other = random_words(n, generator)[:, None]
    other[..., 3] = torch.where(uniform(0, 1, n, 1) < 0.5, other[..., 3], NONE)
    other[..., 4] = torch.where(uniform(0, 1, n, 1) < 0.5, other[..., 4], NONE)
    words = torch.cat([main, other], dim=1)
    is_main = torch.arange(m + 1).expand(n, -1) < m
    scale = 1.0 if m == 1 else (0.78, 0.62, 0.56)[min(m, 4) - 2]
    size = (0.46 + look.scatter * uniform(-0.1, 0.1, n, m + 1)) * scale
    size[:, m] = torch.where(uniform(0, 1, n) < look.distractor, size[:, m] * 0.55, 0.0)
    centre = look.scatter * uniform(-0.2, 0.2, n, m + 1, 2)
    centre[:, m] = uniform(-0.75, 0.75, n, 2)
    if m > 1:  # around the middle, evenly
        start = uniform(0, 2 * math.pi, n, 1)
        around = start + 2 * math.pi * torch.arange(m) / m
        centre[:, :m] = 0.5 * torch.stack([around.cos(), around.sin()], dim=-1) + uniform(-0.08, 0.08, n, m, 2)
    trail = torch.where(uniform(0, 1, n, m + 1) < look.trail, look.trail_alpha, 0.0) * is_main
    bar = torch.stack(
        [
            uniform(-0.9, 0.9, n), uniform(-0.9, 0.9, n), uniform(0.08, 0.5, n), uniform(0.08, 0.5, n),
            uniform(0.15, 0.75, n),
        ],
        dim=1,
    )  # fmt: skip
    bar[:, 2] = torch.where(uniform(0, 1, n) < look.occluder, bar[:, 2], 0.0)
    side = torch.randint(0, m, (n,), generator=generator)
    badge = main[torch.arange(n), side, 4]
    grey = uniform(0.2, 0.65, n, 1)
    return Scenes(
        words=words,
        is_main=is_main.clone(),
        centre=centre,
        size=size,
        angle=look.scatter * uniform(-0.35, 0.35, n, m + 1),
        turn=torch.where(uniform(0, 1, n, m + 1) < 0.5, 1.0, -1.0),
        phase=uniform(0, 1, n, m + 1),
        tint=uniform(-0.06, 0.06, n, m + 1, 3),
        trail=trail,
        badge=torch.where(uniform(0, 1, n) < look.badge, badge, NONE),
        badge_at=torch.tensor([0.72, 0.72]) + uniform(-0.06, 0.06, n, 2),
        occluder=bar,
        ground=torch.cat([grey + uniform(-0.05, 0.05, n, 3), uniform(-0.15, 0.15, n, 2)], dim=1),
        noise=torch.full((n,), look.noise),
        scatter=torch.full((n,), look.scatter),
    )


def pose(scenes: Scenes, times_s: Tensor, *, age_s: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Objects at times (T,) or (N, T), seconds -> centre (N, T, O, 2), angle (N, T, O), size (N, T, O).

    age_s: positions so much earlier. An object that has just started over comes from beyond its start.
    """
    t = times_s.expand(scenes.num_scenes, -1)[..., None]  # (N, T, 1)
    motion, phase = scenes.words[:, None, :, 3], scenes.phase[:, None]
    second = (t + phase) % 1 - age_s  # of the motion, which starts over every second
    scatter = scenes.scatter[:, None, None]
    way = _RANGE * ((1 - 2 * ((t + phase) % 1)) * scatter + 2 * age_s)
    shake = 0.13 * (2 * math.pi * 2 * second).sin()
    hop = 0.25 - 4 * 0.45 * (second % 1) * (1 - second % 1)
    turn = scenes.turn[:, None] * 2 * math.pi * _TURNS_PER_S * (t - age_s)
    x = (motion == _LEFT) * way - (motion == _RIGHT) * way + (motion == _SHAKE) * shake
    y = (motion == _UP) * way - (motion == _DOWN) * way + (motion == _BOUNCE) * hop
    angle = scenes.angle[:, None] + (motion == _SPIN) * turn
    grown = 1 + 0.9 * (((t + phase) % 1 - 0.6) * scatter - age_s)
    size = scenes.size[:, None] * torch.where(motion == _GROW, grown.clamp(0.15), 1.0)
    return scenes.centre[:, None] + torch.stack([x, y], dim=-1), angle, size


def draw(scenes: Scenes, times_s: Tensor, *, size: int, generator: torch.Generator) -> Tensor:
    """Frames.

    Args:
        scenes: N of them.
        times_s: (T,), or (N, T) for times per scene, seconds.
        size: S, pixels.
        generator: of the pixel noise.

    Returns:
        (N, T, 3, S, S) uint8, RGB.
    """
    n, num_objects = scenes.words.shape[:2]
    times = times_s.expand(n, -1)
    t = times.shape[1]
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    pixels = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)], dim=-1)  # (S, S, 2): x, y
    slope = scenes.ground[:, None, None, 3:] @ pixels.view(-1, 2).T  # (N, 1, 1, S * S)
    canvas = (scenes.ground[:, None, :3, None] + slope).view(n, 1, 3, size, size).repeat(1, t, 1, 1, 1)
    centre, angle, half = pose(scenes, times)
    for o in reversed(range(num_objects)):  # the distractor behind, the first object in front
        with_trail = (scenes.trail[:, o] > 0).nonzero()[:, 0]
        grows = scenes.words[with_trail, o, 3] == _GROW  # its ghosts are smaller: before it, not behind
        _ghosts(canvas, scenes, times, o, with_trail[~grows], pixels)
        _object(canvas, scenes, o, centre[:, :, o], angle[:, :, o], half[:, :, o], torch.ones(n), pixels)
        _ghosts(canvas, scenes, times, o, with_trail[grows], pixels)
    bar = scenes.occluder[:, None, None]
    distance = (pixels - bar[..., :2]).abs()
    inside = (distance < bar[..., 2:4]).all(dim=-1) & (bar[..., 2] > 0)  # (N, S, S)
    canvas = torch.where(inside[:, None, None], scenes.occluder[:, 4].view(n, 1, 1, 1, 1), canvas)
    _badges(canvas, scenes, pixels)
    noise = torch.randn(canvas.shape, generator=generator) * scenes.noise.view(n, 1, 1, 1, 1)
    return ((canvas + noise).clamp_(0, 1) * 255).round_().to(torch.uint8)


def _ghosts(canvas: Tensor, scenes: Scenes, times: Tensor, o: int, chosen: Tensor, pixels: Tensor) -> None:
    """Paint earlier positions of object `o` of the chosen scenes, the faintest first."""
    if not len(chosen):
        return
    part, painted = scenes.select(chosen), canvas[chosen]
    for age_s, strength in zip(reversed(_GHOST_S), (0.5, 0.75, 1.0), strict=True):
        centre, angle, half = pose(part, times[chosen], age_s=age_s)
        _object(painted, part, o, centre[:, :, o], angle[:, :, o], half[:, :, o], part.trail[:, o] * strength, pixels)
    canvas[chosen] = painted


def _object(
    canvas: Tensor, scenes: Scenes, o: int, centre: Tensor, angle: Tensor, half: Tensor, alpha: Tensor, pixels: Tensor
) -> None:
    """Paint object `o` of every scene onto canvas (N, T, 3, S, S): centre (N, T, 2), angle and half (N, T)."""
    t, size = canvas.shape[1], canvas.shape[-1]
    present = (scenes.size[:, o] > 0).nonzero()[:, 0]
    if not len(present):
        return
    shape, colour, texture = (scenes.words[present, o, i] for i in range(3))
    k = len(present)
    cos, sin = angle[present].cos(), angle[present].sin()
    rotate = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -1)  # rows: the object's axes
    offset = pixels - centre[present][:, :, None, None]  # (K, T, S, S, 2)
    local = (offset.view(k, t, -1, 2) @ rotate) / half[present].clamp(1e-3)[..., None, None]
    masks = _masks()[shape]  # (K, 1, 64, 64)
    alphas = F.grid_sample(masks, local.view(k, t * size, size, 2), align_corners=False, padding_mode="zeros")
    alphas = alphas.view(k, t, 1, size, size) * alpha[present].view(k, 1, 1, 1, 1)
    x, y = local.view(k, t, 1, size, size, 2).unbind(-1)
    light = 1 - 0.22 * x.clamp(-1, 1)  # lit from the object's left, so that a spinning disc visibly spins
    marks = torch.where(
        (texture == 1).view(k, 1, 1, 1, 1),
        (2 * math.pi * 1.4 * y).sin() > 0.1,
        ((2 * math.pi * 1.25 * x).sin() * (2 * math.pi * 1.25 * y).sin()) > 0.25,
    ) & (texture > 0).view(k, 1, 1, 1, 1)
    light = torch.where(marks, light * 0.3, light)
    paint = (_rgb()[colour] + scenes.tint[present, o]).view(k, 1, 3, 1, 1) * light
    canvas[present] = torch.lerp(canvas[present], paint, alphas)


def _badges(canvas: Tensor, scenes: Scenes, pixels: Tensor) -> None:
    chosen = (scenes.badge != NONE).nonzero()[:, 0]
    if not len(chosen):
        return
    badges = torch.tensor([[float(c) for c in badge] for badge in _BADGES]).view(-1, 1, 3, 3)
    local = (pixels - scenes.badge_at[chosen, None, None]) / 0.24  # (K, S, S, 2)
    value = F.grid_sample(
        badges[scenes.badge[chosen]], local, mode="nearest", padding_mode="border", align_corners=False
    )
    inside = (local.abs() < 1).all(dim=-1)[:, None, None]  # (K, 1, 1, S, S)
    canvas[chosen] = torch.where(inside, value[:, None] * 0.94 + 0.03, canvas[chosen])


@cache
def _rgb() -> Tensor:
    return torch.tensor([_RGB[name] for name in COLOURS])


@cache
def _masks() -> Tensor:
    """(shapes, 1, 64, 64), 0..1: each shape within -1..1, drawn at four times the size and averaged."""
    side = _MASK_SIZE * 4
    axis = (np.arange(side) + 0.5) * 2 / side - 1
    x, y = np.meshgrid(axis, axis)
    star = [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate([0.98, 0.42] * 5)]
    arrow = [(-0.95, -0.28), (0.05, -0.28), (0.05, -0.75), (0.97, 0.0), (0.05, 0.75), (0.05, 0.28), (-0.95, 0.28)]
    r = np.hypot(x, y)
    drawn = {
        "circle": r < 0.9,
        "square": np.maximum(abs(x), abs(y)) < 0.8,
        "triangle": _polygon(x, y, [(0.0, -0.92), (0.95, 0.75), (-0.95, 0.75)]),
        "star": _polygon(x, y, star),
        "cross": (np.minimum(abs(x), abs(y)) < 0.27) & (np.maximum(abs(x), abs(y)) < 0.92),
        "ring": (r < 0.95) & (r > 0.52),
        "bar": (abs(x) < 0.97) & (abs(y) < 0.3),
        "moon": (r < 0.95) & (np.hypot(x - 0.45, y) > 0.72),
        "heart": ((1.25 * x) ** 2 + (1.15 * -y + 0.1) ** 2 - 0.75) ** 3 - (1.25 * x) ** 2 * (1.15 * -y + 0.1) ** 3 < 0,
        "arrow": _polygon(x, y, arrow),
    }
    fine = torch.from_numpy(np.stack([drawn[name] for name in SHAPES]).astype(np.float32))
    return F.avg_pool2d(fine[:, None], 4)


def _polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Which points lie inside, by the even-odd rule."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside
