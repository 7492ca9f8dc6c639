"""Labels -> a vocabulary, by sentences around each label that the backbone's text encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lexivid.errors import LabelError
from lexivid.inference.prediction import Vocabulary
from lexivid.inference.protocol import VideoModel
from lexivid.labels.database import LabelDatabase
from lexivid.labels.encoders.identity import doubts
from lexivid.labels.names import check_labels
from lexivid.labels.templates import TemplateSet, load_templates, short_templates


def prepare_by_prompts(
    model: VideoModel,
    labels: str | Iterable[str] | Mapping[str, str],
    *,
    templates: str | Path | TemplateSet | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """See `lexivid.inference.classifier.Classifier.prepare`.

    Raises:
        LabelError: labels, templates or a database that cannot be used.
    """
    if isinstance(labels, LabelDatabase):
        if not model.accepts(labels.encoder):
            raise LabelError(
                f"{labels.describe()}, and model {model.name!r} cannot compare clips with its vectors: use the "
                "model that made them, or make another database with this one"
            )
        own = labels.sentences(templates)
        if own is None:
            return Vocabulary(labels.labels, labels.vectors, None, phrases=labels.phrases)
        model.prompt_cache.remember(labels.phrases, own, labels.vectors)
        if labels.short is not None:
            model.prompt_cache.remember(labels.phrases, short_templates(own), labels.short)
        labels, templates = labels.told, own
    names, phrases, warnings = check_labels(labels, known=model.trained_on, english_only=model.backbone.english_only)
    chosen = load_templates(templates or model.backbone.default_templates)
    warnings += doubts(model.backbone, phrases, chosen)
    vectors = model.prompt_cache.embed(phrases, chosen, on_progress=on_progress)
    per_label = model.per_label(phrases, chosen, on_progress)
    return Vocabulary(tuple(names), vectors, chosen.name, tuple(warnings), per_label, tuple(phrases))
