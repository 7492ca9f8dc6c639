"""A contact sheet of a world: an image whose rows are clips, decoded from their files.

Frames over one second, TV-L1 flow between some of them, the log-mel spectrogram, and above them the labels.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lexivid.base.storage import write_atomically
from lexivid.errors import LexividError
from lexivid.media.audio import read_waveform
from lexivid.media.decode import read_views
from lexivid.media.flow import flow, flow_to_color
from lexivid.media.spectrogram import log_mel
from lexivid.media.views import Views
from lexivid.synthetic.world.files import FRAME_RATE, NUM_FRAMES, World, WorldClip

_FORMATS = {".png": "PNG", ".jpg": "JPEG"}
_CELL, _GAP, _MARGIN = 112, 4, 16
_CAPTION, _HEADER = 26, 34  # heights of text
_SOUND_WIDTH = 224
_PAIRS = (1, 4)  # flow from these frames to the next
_FLOW_BOUND_PX = 5.0  # gets the full colour: a moving object goes 4 pixels a frame
_INK, _FAINT, _PAPER = (24, 28, 38), (105, 112, 125), (255, 255, 255)
# Dark to light through blue, green and yellow; equal steps look equal.
_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)


def contact_sheet(world: World, path: str | os.PathLike[str], *, num_clips: int = 8) -> None:
    """Write a contact sheet of some test clips, or of training clips if there are no test clips.

    Args:
        world: that `make_world` returned.
        path: the file; .png, or .jpg, which is a fifth of the size because noise hardly compresses.
        num_clips: rows; chosen so that they show many different words.

    Raises:
        LexividError: the ending is another, or the file cannot be written.
        MissingExtraError: `flow_vis` is not installed.
        MediaError: a clip cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise LexividError(f"a contact sheet ends in {' or '.join(_FORMATS)}, which {str(path)!r} does not")
    chosen = varied(world, num_clips)
    num_frames = FRAME_RATE  # one second: every motion's whole course
    left_of_flow = _MARGIN + num_frames * (_CELL + _GAP) + 2 * _GAP
    left_of_sound = left_of_flow + len(_PAIRS) * (_CELL + _GAP) + 2 * _GAP
    row_height = _CAPTION + _CELL + 10
    size = (left_of_sound + _SOUND_WIDTH + _MARGIN, _HEADER + len(chosen) * row_height + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(13), ImageFont.load_default(16)
    for left, text in (
        (_MARGIN, f"frames of one second, {FRAME_RATE} a second"),
        (left_of_flow, "motion (TV-L1): hue is direction"),
        (left_of_sound, "sound: mel bands over 2 s"),
    ):
        pen.text((left, 12), text, _FAINT, small)
    for row, clip in enumerate(chosen):
        top = _HEADER + row * row_height
        pen.text((_MARGIN, top + 3), " + ".join(clip.labels), _INK, large)
        file = Path(world.path) / clip.path
        frames = read_views(file, Views(num_frames=NUM_FRAMES)).frames[0]
        channels_last = frames.movedim(1, -1)
        first = channels_last[list(_PAIRS)]
        flow_images = flow_to_color(flow(first, channels_last[[i + 1 for i in _PAIRS]]), bound_px=_FLOW_BOUND_PX)
        for left, images in ((_MARGIN, frames[:num_frames]), (left_of_flow, flow_images)):
            for i, image in enumerate(images):
                cell = _image(image).resize((_CELL, _CELL), Image.Resampling.BICUBIC)
                sheet.paste(cell, (left + i * (_CELL + _GAP), top + _CAPTION))
        spectrogram = _spectrogram(log_mel(read_waveform(file))).resize(
            (_SOUND_WIDTH, _CELL), Image.Resampling.BILINEAR
        )
        sheet.paste(spectrogram, (left_of_sound, top + _CAPTION))
    buffer = io.BytesIO()
    sheet.save(buffer, _FORMATS[path.suffix.lower()], quality=82, optimize=True)
    write_atomically(path, buffer.getvalue())


def varied(world: World, num_clips: int) -> list[WorldClip]:
    """Clips of different classes that between them show many words; always the same ones."""
    splits = {clip.split for clip in world.clips}
    chosen_from = "test" if "test" in splits else "train"
    left = [c for c in world.clips if c.split == chosen_from and (c.index == 0 or c.own_labels)]
    used: Counter[tuple[str, int | None]] = Counter()
    chosen: list[WorldClip] = []
    while left and len(chosen) < num_clips:
        best = min(left, key=lambda clip: sum(used[word] for word in _words(clip)) / len(clip.classes))
        used.update(_words(best))
        chosen.append(best)
        left.remove(best)
    return chosen


def _words(clip: WorldClip) -> list[tuple[str, int | None]]:
    return [word for c in clip.classes for word in vars(c).items()]


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.movedim(0, -1).numpy())


def _spectrogram(spectrogram: Tensor) -> Image.Image:
    """(F, S), low bands first -> colours, low bands at the bottom; the quietest 5 % dark, the loudest 0.5 % light."""
    low, high = torch.quantile(spectrogram, torch.tensor([0.05, 0.995]))
    share = ((spectrogram.flip(0) - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).numpy()
    positions = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(share, positions, channel) for channel in _COLOURS.T]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
