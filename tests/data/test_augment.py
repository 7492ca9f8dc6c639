"""data/augment.py: one draw per clip, motion that stays motion, SpecAugment's ranges, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from lexivid.data.augment import ClipAugmentation, random_window, sample_clip_augmentation, spec_augment

IDENTITY = ClipAugmentation(0, 0, 1, 1, mirror=False)


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pictures(num_frames: int = 4, height: int = 40, width: int = 60) -> Tensor:
    return torch.randint(0, 256, (num_frames, 3, height, width), generator=_seed(1), dtype=torch.uint8)


def test_same_seed_same_clip() -> None:
    draws = [sample_clip_augmentation(240, 320, generator=_seed(s), colour=0.4) for s in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]


def test_all_frames_alike() -> None:
    """A clip of one frame repeated stays one frame repeated."""
    frames = _pictures(1).expand(5, -1, -1, -1)
    for seed in range(5):
        out = sample_clip_augmentation(40, 60, generator=_seed(seed), colour=0.4).frames(frames, 32)
        assert out.shape == (5, 3, 32, 32)
        assert out.dtype == torch.uint8
        assert all(torch.equal(frame, out[0]) for frame in out)


def test_boxes_have_the_standard_distribution() -> None:
    generator = _seed(0)
    draws = [sample_clip_augmentation(240, 320, generator=generator) for _ in range(2000)]
    area = np.array([d.height * d.width for d in draws])
    shape = np.array([d.width * 320 / (d.height * 240) for d in draws])
    assert 0.078 < area.min() < 0.1
    assert area.max() <= 1
    assert 0.40 < area.mean() < 0.48  # below the 0.54 of uniform areas: large boxes of other shapes do not fit
    assert 0.72 < shape.min() < 0.78
    assert 1.29 < shape.max() < 1.38
    assert min(min(d.top, d.left) for d in draws) >= 0
    assert max(max(d.top + d.height, d.left + d.width) for d in draws) <= 1 + 1e-9
    assert 0.46 < np.mean([d.mirror for d in draws]) < 0.54
    assert not any(sample_clip_augmentation(9, 9, generator=generator, mirror=False).mirror for _ in range(20))


def test_extreme_pictures_get_the_central_box() -> None:
    wide = sample_clip_augmentation(10, 1000, generator=_seed(0), scale=(0.9, 1.0))
    assert (wide.top, wide.height) == (0, 1)
    assert wide.width * 1000 == pytest.approx(13)
    tall = sample_clip_augmentation(1000, 10, generator=_seed(0), scale=(0.9, 1.0))
    assert (tall.left, tall.width) == (0, 1)
    assert tall.height * 1000 == pytest.approx(13)


def test_crop_takes_the_box() -> None:
    frames = _pictures()
    out = ClipAugmentation(0.25, 0.5, 0.5, 1 / 3, mirror=False).frames(frames, 20)
    assert torch.equal(out, frames[..., 10:30, 30:50])
    out = ClipAugmentation(0.25, 0.5, 0.5, 1 / 3, mirror=True).frames(frames, 20)
    assert torch.equal(out, frames[..., 10:30, 30:50].flip(-1))


def test_flow_is_cut_where_the_frames_are() -> None:
    """Also when it was computed at half the size."""
    ramp = torch.arange(64.0).repeat(64, 1)
    frames = (ramp * 3).to(torch.uint8).expand(1, 3, 64, 64)
    flow = frames.float()[..., ::2, ::2]
    draw = ClipAugmentation(0.25, 0.125, 0.5, 0.5, mirror=False)
    assert torch.allclose(draw.frames(frames, 16).float(), draw.flow(flow, 16), atol=3)


def test_mirroring_negates_horizontal_flow() -> None:
    """The flow of the mirrored clip is the mirrored flow of the clip: u changes its sign, v and the zero stay."""
    right_and_down = torch.tensor([127.5 + 40, 127.5 + 20, 127.5]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    mirrored = ClipAugmentation(0, 0, 1, 1, mirror=True).flow(right_and_down, 8)
    assert mirrored[0, :, 0, 0].tolist() == [127.5 - 40, 127.5 + 20, 127.5]
    assert torch.equal(IDENTITY.flow(right_and_down, 8), right_and_down)
    pictures = _pictures(height=8, width=8)
    twice = ClipAugmentation(0, 0, 1, 1, mirror=True)
    assert torch.equal(twice.flow(twice.flow(pictures, 8), 8), pictures)
    assert twice.flow(pictures, 8).dtype == torch.uint8


def test_mirrored_motion_is_the_motion_of_the_mirrored_clip() -> None:
    """A block that moves right by one pixel per frame, its flow known, seen in a mirror."""
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    frames[0, :, 4:8, 2:6] = 200
    frames[1, :, 4:8, 3:7] = 200
    flow = torch.full((1, 3, 16, 16), 127.5)
    flow[0, 0, 4:8, 2:6] += 255 / 40  # one pixel of +-20
    mirror = ClipAugmentation(0, 0, 1, 1, mirror=True)
    seen, motion = mirror.frames(frames, 16), (mirror.flow(flow, 16) - 127.5) / (255 / 40)
    u = motion[0, 0].round().long()
    y, x = torch.nonzero(seen[0, 0], as_tuple=True)
    assert torch.equal(seen[1, 0][y, x + u[y, x]], seen[0, 0][y, x])


def test_flow_keeps_its_colours() -> None:
    flow = _pictures()
    jitter = ClipAugmentation(0, 0, 1, 1, mirror=False, brightness=0.6, contrast=1.4, saturation=0.6)
    assert torch.equal(jitter.flow(flow, 40), IDENTITY.flow(flow, 40))
    assert not torch.equal(jitter.frames(flow, 40), IDENTITY.frames(flow, 40))


@pytest.mark.parametrize(("what", "enhancer"), [
    ("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color),
])  # fmt: skip
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_colours_equal_pils(what: str, enhancer: type, factor: float) -> None:
    picture = _pictures(1, 32, 32)
    ours = ClipAugmentation(0, 0, 1, 1, mirror=False, **{what: factor}).frames(picture, 32)[0]
    theirs = np.asarray(enhancer(Image.fromarray(picture[0].permute(1, 2, 0).numpy())).enhance(factor))
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 2


def test_random_window_of_a_long_sound() -> None:
    sound = torch.arange(1000.0).expand(3, 4, 1000)
    generator = _seed(0)
    starts = set()
    for _ in range(300):
        window = random_window(sound, generator=generator)
        assert window.shape == (3, 4, 800)
        start = int(window[0, 0, 0])
        assert torch.equal(window, sound[..., start : start + 800])
        starts.add(start)
    assert min(starts) < 10
    assert max(starts) > 190
    assert torch.equal(random_window(sound, generator=generator, num_steps=1000), sound)


def test_random_window_of_a_short_sound_repeats_it() -> None:
    sound = torch.arange(300.0).expand(3, 4, 300)
    window = random_window(sound, generator=_seed(3))[0, 0]
    assert window.shape == (800,)
    assert torch.equal(window, (window[0] + torch.arange(800.0)) % 300)
    assert len({int(random_window(sound, generator=_seed(s))[0, 0, 0]) for s in range(20)}) > 10


def test_spec_augment_masks_one_band_of_each() -> None:
    spectrogram = torch.ones(3, 128, 800)
    generator = _seed(0)
    times, bins = [], []
    for _ in range(300):
        out = spec_augment(spectrogram, generator=generator)
        assert torch.equal(out[0], out[1])
        assert torch.equal(out[0], out[2])
        masked_steps = torch.nonzero(out[0].sum(0) == 0).flatten()
        masked_bins = torch.nonzero(out[0].sum(1) == 0).flatten()
        for masked in (masked_steps, masked_bins):  # one band, without gaps
            assert len(masked) == 0 or int(masked[-1] - masked[0]) == len(masked) - 1
        assert int((out[0] == 0).sum()) == len(masked_steps) * 128 + len(masked_bins) * (800 - len(masked_steps))
        times.append(len(masked_steps))
        bins.append(len(masked_bins))
    assert max(times) in range(180, 193)
    assert max(bins) in range(45, 49)
    assert 80 < np.mean(times) < 112
    assert 20 < np.mean(bins) < 28
    assert torch.equal(spectrogram, torch.ones(3, 128, 800))  # a copy


def test_spec_augment_takes_any_size_and_seed() -> None:
    small = torch.ones(3, 8, 5)
    assert spec_augment(small, generator=_seed(0)).shape == small.shape
    first, again = (spec_augment(torch.randn(3, 128, 800, generator=_seed(1)), generator=_seed(2)) for _ in range(2))
    assert torch.equal(first, again)
