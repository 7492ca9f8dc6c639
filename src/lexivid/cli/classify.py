"""`lexivid classify`."""

from __future__ import annotations

from typing import Any

from lexivid import __version__
from lexivid.cli.console import say, status
from lexivid.cli.options import (
    DEFAULT_MODEL,
    Device,
    Dtype,
    Format,
    Frames,
    LabelDatabase,
    Labels,
    LabelsFile,
    LabelSplit,
    Layout,
    Modalities,
    ModelOrDatabases,
    MultiLabel,
    Names,
    Output,
    Paths,
    Report,
    Stride,
    StrideRate,
    Templates,
    Threshold,
    Timeline,
    TopK,
    check_paths,
    choose_format,
    split_words,
    views_asked,
)
from lexivid.cli.root import USE, app
from lexivid.cli.running import prepare, run, told
from lexivid.errors import LexividError


@app.command(rich_help_panel=USE)
def classify(
    paths: Paths,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    names: Names = None,
    label_database: LabelDatabase = None,
    model: ModelOrDatabases = None,
    modalities: Modalities = None,
    label_split: LabelSplit = "mixed",
    views: Layout = None,
    frames: Frames = None,
    stride: Stride = None,
    stride_rate: StrideRate = None,
    templates: Templates = None,
    multi_label: MultiLabel = False,
    top_k: TopK = 5,
    threshold: Threshold = None,
    timeline: Timeline = None,
    format: Format = None,
    output: Output = None,
    report: Report = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Say which of your labels fit each video.

    lexivid classify holiday.mp4 --labels "surfing, playing the piano, a dog on a beach"
    """
    from lexivid.labels import check_labels, read_labels_file

    # What is wrong with the call is said before anything is loaded.
    fmt = choose_format(format, output)
    if fmt in ("vtt", "srt") and timeline is None:
        raise LexividError(f"--format {fmt}: subtitles say which label when; give --timeline SECONDS")
    named_views = {"--views": views, "--frames": frames, "--stride": stride, "--stride-rate": stride_rate}
    if timeline is not None and (unused := [name for name, value in named_views.items() if value is not None]):
        raise LexividError(f"--timeline reads the whole file, four frames in each half window: leave out {unused[0]}")
    num_files = check_paths(paths, sound=modalities is None or "audio" in modalities)
    if fmt in ("vtt", "srt") and num_files > 1 and (output is None or output.suffix):
        raise LexividError(f"--format {fmt}: a film has a file of subtitles of its own; give --output FOLDER")
    words = [word for text in labels or [] for word in split_words(text)]
    if labels_file:
        words += read_labels_file(labels_file)
    if names:
        words = told(words, names)
    if label_database is None:
        check_labels(words)

    from lexivid.inference.loading import load, model_of
    from lexivid.labels.database import open_database
    from lexivid.media.decode import decoder_version
    from lexivid.models.calibration import DEFAULT_THRESHOLD

    database = open_database(label_database) if label_database else None
    given = words if database is None else database.also(words) if words else database
    model = model or (DEFAULT_MODEL if database is None else model_of(database))
    asked_views = views_asked(views, frames, stride, stride_rate)
    with status(f"loading {model}"):
        classifier = load(model, device=device, dtype=dtype, label_split=label_split)
    vocabulary = prepare(classifier, given, templates)
    if multi_label:
        classifier.check_multi_label(vocabulary)
        if vocabulary.per_label and not vocabulary.per_label.is_fitted:
            say(f"warning: probabilities of {model} are {vocabulary.per_label.method}", "yellow")
    chosen_views = classifier.views_of(asked_views)
    asked = [part.strip() for part in modalities.split(",")] if modalities else None
    least = (DEFAULT_THRESHOLD if multi_label else 0.0) if threshold is None else threshold
    options: dict[str, Any] = {
        "views": chosen_views, "modalities": asked, "timeline_s": timeline, "multi_label": multi_label,
        "threshold": least,
    }  # fmt: skip
    call = {
        "lexivid": __version__, "decoder": decoder_version(), "model": classifier.fingerprint,
        "labels": list(vocabulary.labels), "phrases": list(vocabulary.phrases),
        "templates": vocabulary.templates, "views": str(chosen_views), "timeline_s": timeline, "modalities": asked,
        "vocabulary_is": label_split, "multi_label": multi_label, "top_k": top_k, "threshold": least,
        "label_database": None if database is None else given.digest,  # type: ignore[union-attr]
    }  # fmt: skip
    run(classifier, paths, vocabulary, options, call, fmt=fmt, output=output, report=report)
