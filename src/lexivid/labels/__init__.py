"""Labels in the user's own words -> unit vectors (K, D): sentence templates, prompt ensemble, cache."""

from lexivid.labels.lists import read_labels_file, read_names
from lexivid.labels.names import CheckedLabels, Label, check_labels, split_labels, with_phrases
from lexivid.labels.templates import TemplateSet, load_templates

__all__ = [
    "CheckedLabels",
    "Label",
    "TemplateSet",
    "check_labels",
    "load_templates",
    "read_labels_file",
    "read_names",
    "split_labels",
    "with_phrases",
]
