"""Data sets as others lay them out: one file for each kind, and `read_dataset` for all."""

from lexivid.data.formats.read import Kind, read_dataset

__all__ = ["Kind", "read_dataset"]
