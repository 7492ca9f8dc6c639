"""Files and labels -> predictions: load, classify, timelines, tables and reports."""

from lexivid.inference.classifier import Classifier
from lexivid.inference.loading import load
from lexivid.inference.prediction import LabelScore, Prediction, Segment, Vocabulary

__all__ = ["Classifier", "LabelScore", "Prediction", "Segment", "Vocabulary", "load"]
