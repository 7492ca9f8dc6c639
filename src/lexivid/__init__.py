"""Lexivid: classify any video in your own words, from pictures, motion and sound.

import lexivid
classifier = lexivid.load("lite")
prediction = classifier.classify("clip.mp4", labels=["playing drums", "dog barking"])
prediction.top(3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lexivid.errors import LabelError, LexividError, MediaError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from lexivid.inference.classifier import Classifier
    from lexivid.inference.loading import load
    from lexivid.inference.prediction import LabelScore, Prediction, Segment, Vocabulary
    from lexivid.media.views import Views

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "LabelError",
    "LabelScore",
    "LexividError",
    "MediaError",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "Segment",
    "Views",
    "Vocabulary",
    "load",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported at its first use, so that `lexivid --help` answers at once."""
    if name not in __all__:
        raise AttributeError(f"module 'lexivid' has no attribute {name!r}")
    if name == "Views":
        from lexivid.media.views import Views

        return Views
    from lexivid import inference

    return getattr(inference, name)
