"""Small models, samples and clips for the tests of training. Run as a program: one process of a distributed run."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

from lexivid.backbones.preprocess import ImageProcessing
from lexivid.models.mov import MOV
from lexivid.models.mov_config import MOVConfig
from lexivid.models.system import System
from lexivid.training.batches import MemorySamples
from lexivid.training.loop import FitResult, fit
from lexivid.training.recipe import Recipe

D, NUM_CLASSES, NUM_CLIPS = 16, 3, 26
ALL = ("video", "flow", "audio")
IMAGES = ImageProcessing(8, 8, (0.5,) * 3, (0.5,) * 3)
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


class TinyTower(nn.Module):
    """(N, 3, H, W) -> (N, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Linear(8, D)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(pictures)).mean(dim=(2, 3)))


def tiny_mov(modalities: tuple[str, ...] = ALL, *, seed: int = 0, **settings: Any) -> MOV:
    torch.manual_seed(seed)
    config = MOVConfig(embedding_dim=D, num_heads=2, modalities=modalities, tau=0.1, mlp_ratio=1.0, **settings)
    return MOV(config, towers={name: TinyTower() for name in modalities})


def tiny_system(*args: Any, **settings: Any) -> System:
    return System(tiny_mov(*args, **settings), labels())


def labels() -> Tensor:
    return torch.randn(NUM_CLASSES, D, generator=torch.Generator().manual_seed(7))


def samples(num: int = NUM_CLIPS, *, seed: int = 1, failing: tuple[int, ...] = ()) -> MemorySamples:
    """Clips that show their class; some lack flow or sound."""
    g = torch.Generator().manual_seed(seed)
    made: list[dict[str, Any]] = []
    for i in range(num):
        target = i % NUM_CLASSES
        video = torch.randint(0, 60, (3, 3, 8, 8), generator=g).to(torch.uint8)
        video[:, target] += 120
        flow = torch.randint(100, 150, (3, 3, 8, 8), generator=g).to(torch.uint8)
        audio = torch.randn(3, 8, 20, generator=g)
        audio[:, target * 2] += 2
        mask = torch.tensor([True, i % 4 != 0, i % 5 != 0])
        if i in failing:
            made.append({"failed": "no such file", "path": f"clip{i}.mp4"})
        else:
            streams = zip(ALL, (video, flow, audio), mask.tolist(), strict=True)
            made.append({"mask": mask, "target": target, **{name: x if there else None for name, x, there in streams}})
    return MemorySamples(made)


def recipe(**training: Any) -> Recipe:
    settings = {"epochs": 4, "batch_size": 8, "lr": 3e-3, "checkpoint_every": 1, "clip_norm": 1.0} | training
    return Recipe.from_dict(
        {
            "name": "tiny",
            "model": {"modalities": list(ALL)},
            "data": {"num_workers": 0},
            "training": settings,
        }
    )


def run(out: Path, *, resume: bool = False, failing: tuple[int, ...] = (), **training: Any) -> FitResult:
    torch.set_num_threads(1)
    return fit(
        tiny_system(), samples(failing=failing), recipe(**training), out, images=IMAGES,
        held_out=samples(9, seed=2), resume=resume, device="cpu",
    )  # fmt: skip


def make_clip(path: Path, colour: tuple[int, int, int], *, step: int, tone_hz: float | None, num: int = 30) -> Path:
    """A square of a colour that moves by `step` pixels a frame, and a tone: 64 x 48, 15 frames a second, 2 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 400_000
        sound = container.add_stream("aac", rate=16000, layout="mono") if tone_hz else None
        texture = np.random.default_rng(0).integers(0, 40, (48, 64, 3))
        for i in range(num):
            picture = (40 + texture).astype(np.uint8)
            left = (10 + step * i) % 48
            picture[16:32, left : left + 16] = np.clip(np.array(colour) + texture[16:32, :16], 0, 255)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        if sound is not None:
            wave = 0.3 * np.sin(2 * np.pi * tone_hz * np.arange(num * 16000 // 15) / 16000)
            for start in range(0, len(wave) - 1023, 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024].astype(np.float32), "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
                for packet in sound.encode(frame):
                    container.mux(packet)
            for packet in sound.encode():
                container.mux(packet)
    return path


def make_clips(folder: Path, *, num: int = 6) -> Path:
    """folder/CLASS/n.mp4: three colours, each with its motion and its tone."""
    for place, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(num):
            make_clip(folder / name / f"{i}.mp4", colour, step=place - 1 or 2, tone_hz=300.0 * (place + 1) + 10 * i)
    return folder


if __name__ == "__main__":
    result = run(Path(sys.argv[1]), **eval(sys.argv[2]))
    if int(__import__("os").environ.get("RANK", "0")) == 0:
        from safetensors.torch import save_file

        save_file(result.weights, Path(sys.argv[1]) / "final.safetensors")
