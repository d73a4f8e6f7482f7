"""Captions of procedural scenes, made from their parameters, and the way back from a caption to what it asks for.

"a striped red disc slides right over a wavy navy background"; a still has no motion: "a picture of a striped red disc
over a wavy navy background".
"""

from typing import TYPE_CHECKING

import numpy as np

from hpdm.data.procedural import BACKGROUNDS, CLASS_NAMES, COLOURS, MOTIONS, SHAPES, TEXTURES, sample_scene

if TYPE_CHECKING:
    from hpdm.data.procedural import Scene


PHRASES = {"slides": "slides right", "rises": "rises", "grows": "grows"}  # motion → how captions say it
ATTRIBUTES = {
    "shape": SHAPES,
    "motion": MOTIONS,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "background_texture": TEXTURES,
}


def caption_words() -> list[str]:
    """All words that captions are made of, sorted."""
    grammar = ["a", "picture", "of", "over", "background"]
    spoken = [word for phrase in PHRASES.values() for word in phrase.split()]
    return sorted({*grammar, *spoken, *SHAPES, *COLOURS, *TEXTURES, *BACKGROUNDS})


def describe_scene(scene: "Scene", still: bool = False) -> str:
    """The caption of a `Scene`; `still`: of a single frame of it."""
    figure = f"a {scene.texture} {scene.colour} {scene.shape}"
    ground = f"over a {scene.background_texture} {scene.background} background"
    return f"a picture of {figure} {ground}" if still else f"{figure} {PHRASES[scene.motion]} {ground}"


def attributes_of_scene(scene: "Scene") -> dict[str, str | None]:
    """What a caption can ask for, by name of the attribute."""
    return {name: getattr(scene, name) for name in ATTRIBUTES}


def attributes_of_caption(caption: str) -> dict[str, str | None]:
    """What a caption of `describe_scene` asks for; raises ValueError for any other text."""
    words = caption.split()
    still = words[:3] == ["a", "picture", "of"]
    words = words[3:] if still else words
    try:
        _, texture, colour, shape, *rest = words
        over = rest.index("over")
        motion = next((name for name, phrase in PHRASES.items() if phrase.split() == rest[:over]), None)
        _, _, background_texture, background, _ = rest[over:]
    except ValueError:
        raise ValueError(f"{caption!r} is no caption of a procedural scene") from None
    found = {
        "shape": shape,
        "motion": motion,
        "colour": colour,
        "texture": texture,
        "background": background,
        "background_texture": background_texture,
    }
    if still:
        del found["motion"]
    if any(value not in ATTRIBUTES[name] for name, value in found.items()):
        raise ValueError(f"{caption!r} is no caption of a procedural scene")
    return found


def sample_prompts(seed: int, count: int) -> list[str]:
    """Captions of `count` scenes of the endless data set `seed`, every twelve in a row with all shapes and motions."""
    order = np.random.default_rng(seed).permutation(len(CLASS_NAMES))
    return [describe_scene(sample_scene(seed, index, int(order[index % len(order)]))[0]) for index in range(count)]
