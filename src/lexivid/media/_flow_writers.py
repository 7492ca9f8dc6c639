"""Where `flow_file` puts flow: a colour-wheel video, a folder of pictures, or a file of arrays.

Each writer is a context manager that works beside the output, under a hidden name, and moves it into place when all
went well; otherwise it leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from PIL import Image
from torch import Tensor

from lexivid.errors import LexividError

ToPicture = Mapping[str, Callable[[Tensor], Tensor]]


class Writer(Protocol):
    """What `flow_file` sees of a writer."""

    def add(self, flow: Tensor, times_s: list[float]) -> None:
        """Take more flow, (N, 2, H, W) in pixels, and the time of each pair in seconds."""


@contextlib.contextmanager
def writer_for(out: str, facts: dict[str, Any], to_picture: ToPicture) -> Iterator[Writer]:
    """The writer that the name asks for: .mp4, .npz, or a folder.

    Args:
        out: the output.
        facts: what to store with the flow; `frame_rate` among them.
        to_picture: "color" and "image": how flow (N, 2, H, W) becomes pictures (N, 3, H, W) uint8.

    Raises:
        LexividError: the name has another ending, or the folder already holds something.
    """
    target = Path(out)
    suffix = target.suffix.lower()
    if not target.is_dir() and suffix not in (".mp4", ".npz", ""):
        raise LexividError(f"{out}: flow is written as FILE.mp4, FILE.npz or a folder, not as {suffix}")
    if target.is_dir() and any(target.iterdir()):
        raise LexividError(f"{out} already holds files: choose a new or an empty folder")
    if target.is_file() and not suffix:
        raise LexividError(f"{out} is a file: choose FILE.mp4, FILE.npz or a folder")
    if not target.absolute().parent.is_dir():
        raise LexividError(f"{out}: the folder {target.absolute().parent} does not exist")
    try:
        workplace = tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=f".{target.name}.")
    except OSError as error:
        raise LexividError(f"{out} cannot be written: {error.strerror}") from error
    with workplace as folder:
        writer: _Video | _Arrays | _Pictures
        if target.is_dir() or not suffix:
            writer = _Pictures(Path(folder) / "pictures", facts, to_picture["image"])
        elif suffix == ".mp4":
            writer = _Video(Path(folder) / "flow.mp4", facts, to_picture["color"])
        else:
            writer = _Arrays(Path(folder) / "flow.npz", facts)
        try:
            try:
                yield writer
                writer.finish()
            finally:
                writer.close()
            writer.path.replace(target)  # a folder may take the place of an empty folder
        except OSError as error:
            raise LexividError(f"{out} cannot be written: {error.strerror or error}") from error


class _Pictures:
    """000000.png, ... and flow.json."""

    def __init__(self, path: Path, facts: dict[str, Any], to_picture: Callable[[Tensor], Tensor]) -> None:
        path.mkdir()
        self.path, self.facts, self.to_picture = path, facts, to_picture
        self.times_s: list[float] = []

    def add(self, flow: Tensor, times_s: list[float]) -> None:
        pictures = self.to_picture(flow).permute(0, 2, 3, 1).numpy(force=True)
        for number, picture in enumerate(pictures, start=len(self.times_s)):
            Image.fromarray(picture).save(self.path / f"{number:06d}.png", compress_level=3)
        self.times_s += times_s

    def finish(self) -> None:
        text = json.dumps({**self.facts, "times_s": self.times_s}, indent=1)
        (self.path / "flow.json").write_text(text, encoding="utf-8")

    def close(self) -> None:
        pass


class _Video:
    """H.264 at the rate of the pairs. An odd last row or column, which the format cannot hold, is left out."""

    def __init__(self, path: Path, facts: dict[str, Any], to_picture: Callable[[Tensor], Tensor]) -> None:
        self.path, self.to_picture = path, to_picture
        self.rate = Fraction(facts["frame_rate"]).limit_denominator(1001)
        self.container = av.open(str(path), "w")
        self.stream: Any = None

    def add(self, flow: Tensor, times_s: list[float]) -> None:
        pictures = self.to_picture(flow).permute(0, 2, 3, 1).numpy(force=True)
        height, width = (max(side // 2 * 2, side % 2 * 2) for side in pictures.shape[1:3])
        if pictures.shape[1] < height or pictures.shape[2] < width:  # one pixel wide or high: doubled
            missing = ((0, 0), (0, height - min(height, pictures.shape[1])), (0, width - min(width, pictures.shape[2])))
            pictures = np.pad(pictures, (*missing, (0, 0)), mode="edge")
        if self.stream is None:
            self.stream = self.container.add_stream("libx264", rate=self.rate, options={"crf": "18"})
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures[:, :height, :width]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))

    def close(self) -> None:
        self.container.close()


class _Arrays:
    """A NumPy archive. How many pairs there are is known only at the end, so the raw values wait in a file."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.raw = path.with_suffix(".raw").open("w+b")
        self.shape: tuple[int, ...] = (2, 0, 0)
        self.times_s: list[float] = []

    def add(self, flow: Tensor, times_s: list[float]) -> None:
        values = flow.numpy(force=True).astype("<f4", copy=False)
        self.shape = values.shape[1:]
        self.raw.write(np.ascontiguousarray(values).data)
        self.times_s += times_s

    def finish(self) -> None:
        self.raw.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.times_s), *self.shape)}
        with zipfile.ZipFile(self.path, "w") as archive:
            with archive.open("flow.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                shutil.copyfileobj(self.raw, member, 1 << 20)
            for name, value in {**self.facts, "times_s": np.array(self.times_s, np.float64)}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)

    def close(self) -> None:
        self.raw.close()
