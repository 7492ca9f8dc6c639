"""Labels -> a vocabulary, by sentences around each label that the backbone's text encoder reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lexivid.errors import LabelError
from lexivid.inference.prediction import Vocabulary
from lexivid.inference.protocol import VideoModel
from lexivid.labels.database import ExtendedDatabase, LabelDatabase, LabelsGiven
from lexivid.labels.encoders.identity import doubts
from lexivid.labels.names import Label, check_labels, listed
from lexivid.labels.templates import TemplateSet, load_templates, short_templates


def database_and_more(labels: LabelsGiven) -> tuple[LabelDatabase | None, tuple[Label, ...]]:
    """A database, and labels beside it; None: labels are no database."""
    if isinstance(labels, ExtendedDatabase):
        return labels.database, labels.more
    return (labels, ()) if isinstance(labels, LabelDatabase) else (None, ())


def prepare_by_prompts(
    model: VideoModel,
    labels: LabelsGiven,
    *,
    templates: str | Path | TemplateSet | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """See `lexivid.inference.classifier.Classifier.prepare`.

    Raises:
        LabelError: labels, templates or a database that cannot be used.
    """
    database, more = database_and_more(labels)
    if database is not None:
        if not model.accepts(database.encoder):
            raise LabelError(
                f"{database.describe()}, and model {model.name!r} cannot compare clips with its vectors: use the "
                "model that made them, or make another database with this one"
            )
        template_set = database.sentences(templates)
        if template_set is None and more:
            raise LabelError(
                f"{database.describe()}, which model {model.name!r} does not have: it cannot read {listed(more)}; put "
                f"further labels there by `lexivid labels add {database.folder}`"
            )
        if template_set is None:
            return Vocabulary(database.labels, database.vectors, None, phrases=database.phrases)
        model.prompt_cache.remember(database.phrases, template_set, database.vectors)
        if database.short is not None:
            model.prompt_cache.remember(database.phrases, short_templates(template_set), database.short)
        labels, templates = [*database.told, *more], template_set
    assert not isinstance(labels, ExtendedDatabase)
    names, phrases, warnings = check_labels(labels, known=model.trained_on, english_only=model.backbone.english_only)
    chosen = load_templates(templates or model.backbone.default_templates)
    warnings += doubts(model.backbone, phrases, chosen)
    vectors = model.prompt_cache.embed(phrases, chosen, on_progress=on_progress)
    per_label = model.per_label(phrases, chosen, on_progress)
    return Vocabulary(tuple(names), vectors, chosen.name, tuple(warnings), per_label, tuple(phrases))
