"""The pictures of the synthetic world in docs/results/world.md: a contact sheet, and three clips that move.

    python -m benchmarks.tools.world_pictures

Writes docs/images/world.jpg and docs/images/world-1.gif to world-3.gif. Needs the extra `flow`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from lexivid.media.decode import read_views
from lexivid.media.views import Views
from lexivid.synthetic.world.files import FRAME_RATE, NUM_FRAMES, make_world
from lexivid.synthetic.world.sheet import contact_sheet, varied

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SEED, NUM_ROWS, NUM_FILMS, FILM_PX = 0, 6, 3, 128


def film(file: Path, out: Path) -> None:
    """A clip as an animated GIF, twice its size. Its colours are chosen for it alone, so that they stay themselves."""
    frames = read_views(file, Views(num_frames=NUM_FRAMES)).frames[0].movedim(1, -1).numpy()
    pictures = [
        Image.fromarray(frame).quantize(48, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for frame in frames
    ]
    large = [picture.resize((FILM_PX, FILM_PX), Image.Resampling.NEAREST) for picture in pictures]
    large[0].save(out, save_all=True, append_images=large[1:], duration=1000 // FRAME_RATE, loop=0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world", kind="both", clips_per_class=1, seed=SEED)
        contact_sheet(world, IMAGES / "world.jpg", num_clips=NUM_ROWS)
        for number, clip in enumerate(varied(world, NUM_FILMS), 1):
            film(Path(world.path) / clip.path, IMAGES / f"world-{number}.gif")
            print(f"world-{number}.gif: {clip.classes[0].name}")


if __name__ == "__main__":
    main()
