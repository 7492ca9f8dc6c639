"""A backbone that knows colours, and films of colours: the right answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.backbones import ImageProcessing
from lexivid.inference.classifier import Classifier
from lexivid.labels.prompt_cache import PromptCache

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class ColourBackbone:
    """The mean colour of a picture, and the colour that a text names, as unit vectors (N, 3)."""

    name = "colours"
    fingerprint = "colours-1"
    embedding_dim = 3
    temperature = 0.05
    images = ImageProcessing(32, 32, (0, 0, 0), (1, 1, 1))
    default_templates = "name"
    english_only = False
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self) -> None:
        self.num_images = 0

    def encode_images(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1:] == (3, 32, 32)
        self.num_images += len(pixels)
        return F.normalize(pixels.float().mean((2, 3)) + 1e-3, dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [next((rgb for name, rgb in COLOURS.items() if name in text), (1, 1, 1)) for text in texts]
        return F.normalize(torch.tensor(rows).float(), dim=-1)

    def is_truncated(self, text: str) -> bool:
        return len(text) > 200

    def unknown_words(self, text: str) -> list[str]:
        return []


def colour_classifier() -> Classifier:
    backbone = ColourBackbone()
    return Classifier(backbone, prompt_cache=PromptCache(backbone, on_disk=False))


def colour_film(path: Path, parts: Sequence[tuple[str, float]], *, rate: int = 10, sound: bool = False) -> Path:
    """A film that shows each colour for so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "18", "g": "20"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000) if sound else None
        for name, seconds in parts:
            picture = np.broadcast_to(np.array(COLOURS[name], np.uint8), (48, 64, 3))
            for _ in range(round(seconds * rate)):
                for packet in video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                    container.mux(packet)
        for packet in video.encode():
            container.mux(packet)
        if audio:
            total = sum(seconds for _, seconds in parts)
            wave = np.sin(np.arange(int(16000 * total)) * 0.2).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout="mono")
            frame.sample_rate = 16000
            for packet in [*audio.encode(frame), *audio.encode()]:
                container.mux(packet)
    return path
