"""Label a library of footage: files and folders in, one row each out, in order; what is done is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lexivid.inference.classifier import Classifier
from lexivid.inference.prediction import Prediction, Vocabulary
from lexivid.media.files import FoundFile, find_media


def classify_library(
    classifier: Classifier,
    paths: Iterable[str | Path],
    vocabulary: Vocabulary,
    *,
    known: Mapping[str, Prediction] | None = None,
    on_total: Callable[[int], None] | None = None,
    on_left_out: Callable[[str], None] | None = None,
    **options: Any,
) -> Iterator[Prediction]:
    """Classify files, and the videos below folders; sound files too, where the model is asked to hear.

    A file or folder that cannot be used is a `Prediction` with `error`; the rest is done.

    Args:
        known: predictions of an earlier, interrupted run, by path: passed through in their places.
        on_total: called once with the number of predictions to come.
        on_left_out: called with one line where the search of folders passed something by.
        options: of `Classifier.classify_many` (views, modalities, timeline_s, num_thumbnails, multi_label, threshold,
            on_progress).
    """
    search = find_media(paths, sound="audio" in (options.get("modalities") or classifier.modalities))
    media = search.files
    if on_total:
        on_total(len(media))
    if on_left_out and (passed_by := str(search.left_out)):
        on_left_out(passed_by)
    known = known or {}
    fresh = classifier.classify_many(
        [file.path for file in media if not _is_settled(file, known)], vocabulary, **options
    )
    for file in media:
        if file.error:
            yield Prediction(file.path, classifier.name, error=file.error)
        elif file.path in known:
            yield known[file.path]
        else:
            yield next(fresh)


def _is_settled(file: FoundFile, known: Mapping[str, Prediction]) -> bool:
    return bool(file.error) or file.path in known
