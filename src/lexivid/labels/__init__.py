"""Labels in the user's own words -> unit vectors (K, D): sentence templates, prompt ensemble, cache."""

from lexivid.labels.bank import LabelBank
from lexivid.labels.names import check_labels, read_labels_file, split_labels
from lexivid.labels.templates import TemplateSet, load_templates

__all__ = ["LabelBank", "TemplateSet", "check_labels", "load_templates", "read_labels_file", "split_labels"]
