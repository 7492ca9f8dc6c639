"""The modalities of a clip, by name."""

MODALITIES = ("video", "flow", "audio")
"""In the order of every mask, and of every list of modalities."""
