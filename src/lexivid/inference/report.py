"""Predictions as one self-contained HTML page: frames of each clip, bars of the scores, what was used.

No script, no font and no picture is fetched from anywhere; names from files are escaped.
"""

from __future__ import annotations

import base64
import colorsys
import io
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from lexivid import __version__
from lexivid.base.html import render_page
from lexivid.errors import printable
from lexivid.inference.output import clock
from lexivid.inference.prediction import Prediction, Vocabulary
from lexivid.models.calibration import DEFAULT_THRESHOLD

_THUMBNAIL_HEIGHT = 135
_FILES_WITH_THUMBNAILS = 200
_MOST_LANES = 12  # labels whose segments are drawn, in multi-label mode
# What the page names of its making.
_VERSIONS = ("torch", "transformers", "av")


class Report:
    """The page of a run, to which predictions are added as they come.

    Pictures are kept as JPEG and no longer as frames, and those of the first 200 files alone: a report of a whole
    library stays a page that a browser can open.

    Args:
        top_k: bars per file (0: all labels).
    """

    def __init__(self, *, top_k: int = 5) -> None:
        self.top_k = top_k
        self._cards: list[dict[str, Any]] = []

    def add(self, prediction: Prediction) -> None:
        """A file; with thumbnails, where pictures are wanted."""
        if len(self._cards) >= _FILES_WITH_THUMBNAILS:
            prediction = prediction.without_thumbnails()
        self._cards.append(_card(prediction, self.top_k))

    def render(self, vocabulary: Vocabulary, *, command: str = "", settings: dict[str, Any] | None = None) -> str:
        """The page.

        Args:
            command: the call that repeats it.
            settings: further facts for the table at the end (views, device, seconds taken ...).
        """
        predictions: list[Prediction] = [card["prediction"] for card in self._cards]
        facts = {
            "Labels": f"{len(vocabulary.labels):,}",
            "Sentences": f"template set {vocabulary.templates!r}"
            if vocabulary.templates
            else "none: a trained label encoder",
            **(settings or {}),
            "Made with": f"lexivid {__version__}, "
            + ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
            + f", Python {platform.python_version()}",
            "Made on": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        }
        return render_page(
            "inference/report.html.jinja",
            clock=clock,
            cards=self._cards,
            num_failed=sum(prediction.error is not None for prediction in predictions),
            model=predictions[0].model if predictions else "",
            labels=vocabulary.labels[:500],
            num_more_labels=max(0, len(vocabulary.labels) - 500),
            warnings=vocabulary.warnings,
            multi_label=any(prediction.multi_label for prediction in predictions),
            judged=vocabulary.per_label.method if vocabulary.per_label else "",
            facts=facts,
            command=command,
        )


def render_report(predictions: Iterable[Prediction], vocabulary: Vocabulary, *, top_k: int = 5, **about: Any) -> str:
    """The page of these predictions; `about` as of `Report.render`."""
    report = Report(top_k=top_k)
    for prediction in predictions:
        report.add(prediction)
    return report.render(vocabulary, **about)


def _card(prediction: Prediction, top_k: int) -> dict[str, Any]:
    duration_s = prediction.duration_s or 0.0
    best = {segment.labels[0].label for segment in prediction.segments or ()}
    segments = [
        {
            "label": segment.labels[0].label,
            "score": segment.labels[0].score,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "left": 100 * segment.start_s / duration_s if duration_s else 0,
            "width": 100 * (segment.end_s - segment.start_s) / duration_s if duration_s else 100,
            "colour": _colour(sorted(best).index(segment.labels[0].label)),
        }
        for segment in prediction.segments or ()
    ]
    lanes: dict[Any, list[dict[str, Any]]] = {}  # segments that may overlap lie one below the other
    for segment in segments:
        lanes.setdefault(segment["label"] if prediction.multi_label else None, []).append(segment)
    none_of_these = prediction.none_of_these is not None and prediction.none_of_these > DEFAULT_THRESHOLD
    return {
        "prediction": prediction.without_thumbnails(),
        "name": printable(Path(prediction.path).name),
        "folder": printable(str(Path(prediction.path).parent)),
        "labels": prediction.top(top_k),
        "thumbnails": [(time_s, _data_url(frame)) for time_s, frame in prediction.thumbnails],
        "none_of_these": none_of_these,
        "segments": segments,
        "lanes": list(lanes.values())[:_MOST_LANES],
    }


def _colour(index: int) -> str:
    """Hues a golden angle apart, light enough for dark text on them."""
    red, green, blue = colorsys.hls_to_rgb((index * 0.381966 + 0.55) % 1, 0.68, 0.6)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _data_url(frame: Tensor) -> str:
    """(3, h, w) uint8 -> a JPEG in a data: address."""
    from PIL import Image

    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    if image.height > _THUMBNAIL_HEIGHT:
        width = max(1, round(image.width * _THUMBNAIL_HEIGHT / image.height))
        image = image.resize((width, _THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
