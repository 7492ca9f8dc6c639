"""Vision-language models behind one small interface: `load_backbone(name)`."""

from lexivid.backbones.base import Backbone, load_backbone
from lexivid.backbones.preprocess import ImageProcessing

__all__ = ["Backbone", "ImageProcessing", "load_backbone"]
