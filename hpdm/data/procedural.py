"""Class-conditional videos drawn from formulas: a textured shape that moves over a textured background.

Every clip is a function of (seed, index) alone and can be drawn at any size and length: two sizes of the same
index show the same scene. The class is shape x motion and survives a 4x shrink of all three axes, so that a coarse
pyramid level can learn it; the textures have a period of about 1/8 of the frame, which that shrink averages away,
so that fine levels have something to add and a seam or a blur is visible.

Shapes: T frames, H rows, W columns; coordinates are fractions of the frame, y down.
"""

from dataclasses import dataclass

import numpy as np

SHAPES = ("disc", "ring", "cross", "bar")
MOTIONS = ("slides", "rises", "grows")
CLASS_NAMES = tuple(f"{shape}-{motion}" for shape in SHAPES for motion in MOTIONS)

COLOURS = {
    "red": (0.92, 0.20, 0.18),
    "green": (0.25, 0.85, 0.28),
    "blue": (0.25, 0.45, 0.98),
    "yellow": (0.95, 0.88, 0.22),
    "magenta": (0.90, 0.30, 0.88),
    "white": (0.95, 0.95, 0.95),
}
BACKGROUNDS = {
    "navy": (0.08, 0.10, 0.30),
    "brown": (0.28, 0.16, 0.08),
    "forest": (0.06, 0.24, 0.12),
    "grey": (0.22, 0.22, 0.24),
    "plum": (0.25, 0.08, 0.24),
}
TEXTURES = ("striped", "checked", "wavy", "dotted")
PIXELS_AT_ONCE = 8192  # frames are drawn in pieces whose arrays stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a clip shows; lengths and positions are fractions of the frame, angles are in radians."""

    shape: str
    motion: str
    colour: str
    texture: str
    background: str
    background_texture: str
    centre: tuple[float, float]  # (y, x) in the middle of the clip
    radius: float
    travel: float  # distance covered by slides and rises, relative growth by grows
    texture_period: float
    texture_phase: float
    background_period: float
    background_angle: float
    background_drift: float  # periods the background moves during the clip
    tint: tuple[float, float, float]  # added to both colours


def sample_scene(seed: int, index: int, label: int | None = None) -> "tuple[Scene, int]":
    """Draw the scene of clip `index`; returns (Scene, label).

    `label` in [0, 12) overrides the class, which otherwise is `index mod 12`, so that any run of twelve is balanced.
    """
    label = index % len(CLASS_NAMES) if label is None else label
    if not 0 <= label < len(CLASS_NAMES):
        raise ValueError(f"label {label} is outside 0..{len(CLASS_NAMES) - 1}")
    random = np.random.default_rng([seed, index])
    shape, motion = SHAPES[label // len(MOTIONS)], MOTIONS[label % len(MOTIONS)]
    scene = Scene(
        shape=shape,
        motion=motion,
        colour=list(COLOURS)[random.integers(len(COLOURS))],
        texture=TEXTURES[random.integers(len(TEXTURES))],
        background=list(BACKGROUNDS)[random.integers(len(BACKGROUNDS))],
        background_texture=TEXTURES[random.integers(len(TEXTURES))],
        centre=tuple(random.uniform(0.42, 0.58, 2)),
        radius=random.uniform(0.25, 0.31),
        travel=random.uniform(0.36, 0.44),
        texture_period=random.uniform(0.10, 0.14),
        texture_phase=random.uniform(0, 2 * np.pi),
        background_period=random.uniform(0.10, 0.14),
        background_angle=random.uniform(0, np.pi),
        background_drift=random.uniform(-1, 1),
        tint=tuple(random.uniform(-0.05, 0.05, 3)),
    )
    return scene, label


def procedural_clip(
    seed: int, index: int, frames: int = 32, height: int = 64, width: int = 64, label: int | None = None
) -> tuple[np.ndarray, int]:
    """Draw clip `index` of the endless data set `seed`.

    Returns (uint8 [frames, height, width, 3] in 0..255, int label in 0..11). `label` overrides the class.
    """
    scene, label = sample_scene(seed, index, label)
    return render_scene(scene, frames, height, width), label


def render_scene(scene: "Scene", frames: int, height: int, width: int) -> np.ndarray:
    """Draw a scene as uint8 [frames, height, width, 3]; pixels are sampled at their centres, edges are anti-aliased."""
    video = np.empty((frames, height, width, 3), np.uint8)
    step = max(1, PIXELS_AT_ONCE // (height * width))
    for first in range(0, frames, step):
        t = (np.arange(first, min(first + step, frames), dtype=np.float32) + 0.5) / frames
        video[first : first + step] = _render_frames(scene, t[:, None, None], height, width)
    return video


def _render_frames(scene, t, height, width):
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[None, :, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, None, :]

    centre_y, centre_x, size = np.float32(scene.centre[0]), np.float32(scene.centre[1]), 1.0
    shift = np.float32(scene.travel) * (t - 0.5)
    if scene.motion == "slides":
        centre_x = centre_x + shift
    elif scene.motion == "rises":
        centre_y = centre_y - shift
    else:
        size = 1.0 + 2.5 * shift
    radius = np.float32(scene.radius) * size
    dy, dx = y - centre_y, x - centre_x
    coverage = np.clip(0.5 - _signed_distance(scene.shape, dy, dx, radius) * min(height, width), 0, 1)

    # The texture is painted on the shape: it moves and grows with it.
    figure = _texture(scene.texture, dy / size, dx / size, scene.texture_period, scene.texture_phase)
    cos, sin = np.float32(np.cos(scene.background_angle)), np.float32(np.sin(scene.background_angle))
    drift = np.float32(scene.background_drift * scene.background_period) * t
    across, along = cos * y - sin * x + drift, sin * y + cos * x
    ground = _texture(scene.background_texture, across, along, scene.background_period, 0.0)

    front, back = 0.8 + 0.2 * figure, 1 + 0.45 * ground
    frames = np.empty((len(t), height, width, 3), np.uint8)
    for channel, tint in enumerate(scene.tint):
        base = np.float32(BACKGROUNDS[scene.background][channel] + tint) * back
        value = base + coverage * (np.float32(COLOURS[scene.colour][channel] + tint) * front - base)
        frames[..., channel] = np.rint(np.clip(value, 0, 1) * 255)
    return frames


def _signed_distance(shape, dy, dx, radius):
    """Distance to the outline, negative inside (exact for disc and ring, a bound of it at corners of the others)."""
    if shape == "disc":
        return np.sqrt(dy * dy + dx * dx) - 0.85 * radius
    if shape == "ring":
        return np.abs(np.sqrt(dy * dy + dx * dx) - 0.8 * radius) - 0.25 * radius
    ay, ax = np.abs(dy), np.abs(dx)
    bar = np.maximum(ax - radius, ay - 0.3 * radius)
    if shape == "bar":
        return bar
    return np.minimum(bar, np.maximum(ay - radius, ax - 0.3 * radius))


def _texture(kind, v, u, period, phase):
    """A pattern in [-1, 1] with the given period along v and u."""
    k = np.float32(2 * np.pi / period)
    if kind == "striped":
        return np.sin(k * (u + v) * np.float32(0.7071) + np.float32(phase))
    if kind == "checked":
        return np.clip(3 * np.sin(k * u) * np.sin(k * v), -1, 1)
    if kind == "wavy":
        return np.sin(k * v + 1.5 * np.sin(k * np.float32(0.5) * u + np.float32(phase)))
    return np.clip(np.cos(k * u) + np.cos(k * v) - 0.5, -1, 1)
