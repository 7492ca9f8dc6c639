"""Measures of predictions: one label a clip, or several."""
