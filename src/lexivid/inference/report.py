"""Predictions as one self-contained HTML page: frames of each clip, bars of the scores, timelines, what was used.

No script, no font and no picture is fetched from anywhere; names from files are escaped. The one script of the page
copies a time; the page allows it by its hash.
"""

from __future__ import annotations

import base64
import colorsys
import hashlib
import io
import math
import platform
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from lexivid import __version__
from lexivid.base.html import render_page
from lexivid.errors import printable
from lexivid.inference.output import SCORE_KINDS, clock, none_sentence
from lexivid.inference.prediction import NONE_OF_THESE, Prediction, Vocabulary
from lexivid.models.calibration import DEFAULT_THRESHOLD

_THUMBNAIL_HEIGHT = 135
_FILES_WITH_THUMBNAILS = 200
_MOST_LANES = 12  # labels whose segments are drawn, in multi-label mode
_TICK_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_NO_COLOUR = "#c9ced4"  # of "none of these"
_SCRIPT = Path(__file__).with_name("copy_time.js").read_text(encoding="utf-8")
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
        self._colours = {NONE_OF_THESE: _NO_COLOUR}  # of a label, the same in all files

    def add(self, prediction: Prediction) -> None:
        """A file; with thumbnails, where pictures are wanted."""
        if len(self._cards) >= _FILES_WITH_THUMBNAILS:
            prediction = prediction.without_thumbnails()
        self._cards.append(_card(prediction, self.top_k, self._colour_of))

    def _colour_of(self, label: str) -> str:
        return self._colours.setdefault(label, _colour(len(self._colours) - 1))

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
            script=_SCRIPT,
            script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
            score_kinds=[SCORE_KINDS[kind] for kind in dict.fromkeys(p.score_kind for p in predictions if not p.error)],
            cards=self._cards,
            num_failed=sum(prediction.error is not None for prediction in predictions),
            model=predictions[0].model if predictions else "",
            labels=vocabulary.labels[:500],
            num_more_labels=max(0, len(vocabulary.labels) - 500),
            warnings=vocabulary.warnings,
            calibrated_by=vocabulary.per_label.method if vocabulary.per_label else "",
            facts=facts,
            command=command,
        )


def render_report(predictions: Iterable[Prediction], vocabulary: Vocabulary, *, top_k: int = 5, **about: Any) -> str:
    """The page of these predictions; `about` as of `Report.render`."""
    report = Report(top_k=top_k)
    for prediction in predictions:
        report.add(prediction)
    return report.render(vocabulary, **about)


def _card(prediction: Prediction, top_k: int, colour_of: Callable[[str], str]) -> dict[str, Any]:
    duration_s = prediction.duration_s or 0.0
    segments: list[dict[str, Any]] = [
        {
            "label": segment.answer,
            "score": segment.none_of_these if segment.answer == NONE_OF_THESE else segment.labels[0].score,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "left": 100 * segment.start_s / duration_s if duration_s else 0,
            "width": 100 * (segment.end_s - segment.start_s) / duration_s if duration_s else 100,
            "colour": colour_of(segment.answer),
        }
        for segment in prediction.segments or ()
    ]
    lanes: dict[str, list[dict[str, Any]]] = {}  # segments that may overlap lie in rows, one for each label
    for segment in segments:
        lanes.setdefault(segment["label"] if prediction.multi_label else "", []).append(segment)
    return {
        "prediction": prediction.without_thumbnails(),
        "name": printable(Path(prediction.path).name),
        "folder": _folder(prediction.path),
        "labels": prediction.top(top_k),
        "thumbnails": [(time_s, _data_url(frame)) for time_s, frame in prediction.thumbnails],
        "none": none_sentence(prediction.to_dict(threshold=DEFAULT_THRESHOLD if prediction.multi_label else 0.0)),
        "segments": segments,
        "lanes": list(lanes.items())[:_MOST_LANES],
        "num_more_lanes": max(0, len(lanes) - _MOST_LANES),
        "ticks": [(100 * time_s / duration_s, clock(time_s)) for time_s in time_ticks(duration_s)] if segments else [],
        "colours": {segment["label"]: segment["colour"] for segment in segments},
    }


def _folder(path: str) -> str:
    """The folder as the user wrote it; "" for the present one."""
    folder = str(Path(path).parent)
    return "" if folder == "." else printable(folder)


def time_ticks(duration_s: float) -> list[float]:
    """Three to six times from 0 on, at round steps, of a time axis."""
    if duration_s <= 0:
        return []
    step = next((step for step in _TICK_STEPS_S if duration_s / step <= 5), math.ceil(duration_s / 18000) * 3600)
    return [number * step for number in range(int(duration_s / step) + 1)]


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
