"""Lexivid: classify any video in your own words, from pictures, motion and sound."""

__version__ = "0.1.0"
