"""Data sets as others lay them out: one file for each kind, and `read_dataset` for all."""

from lexivid.data.formats.read import DatasetKind, read_dataset

__all__ = ["DatasetKind", "read_dataset"]
