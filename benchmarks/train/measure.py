"""How fast Lexivid trains, and where the time goes.

    python -m benchmarks.train.measure --data FOLDER_OF_CLASSES [--clips 24]  # CPU, one thread: recipe lite-mov
    python -m benchmarks.train.measure --gpu            # CUDA: the paper's B/16 at true size, bfloat16

CPU: each stage by itself, then whole epochs: nothing kept; decoded clips kept; also the frozen tower's features kept
(`--cache-video-features 2`). Seconds are CPU seconds of the one process (no workers), which other load on the machine
does not count into; then, by the wall clock, what share of an epoch the training process waits for 2 workers.

GPU: random weights (speed does not depend on them), 16 frames of video and flow; floating point operations counted
by torch's own counter over one step, against the rate of one large matrix product measured in the same run.
Writes result.json (train_gpu.json).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOOKS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CLASS/CLIP files, such as UCF101's")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", default="cuda", help="of --gpu; cpu with --tiny only shows that the code runs")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--batch", type=int, default=32, help="clips in a step of --gpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    if args.gpu:
        result = on_gpu(args.device, batch=args.batch, tiny=args.tiny)
    else:
        if not args.data:
            parser.error("--data is needed (or --gpu)")
        torch.set_num_threads(1)
        result = on_cpu(args.data, args.clips)
    result |= {
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("lexivid", "torch", "av", "numba")},
    }
    out = args.out or HERE / ("result_gpu.json" if args.gpu else "result.json")
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if not args.tiny:
        out.write_text(text, encoding="utf-8")


# ---- CPU


def on_cpu(data: Path, num_clips: int) -> dict[str, Any]:
    from lexivid.backbones import load_backbone
    from lexivid.data.cache import ClipCache
    from lexivid.data.sampling import ClipSamples, read_parts
    from lexivid.models.mov import MOV
    from lexivid.models.mov_config import MOVConfig
    from lexivid.training.clips import draw_clips, sample_spec
    from lexivid.training.recipe import load_recipe

    recipe = load_recipe("lite-mov", {"data.held_out": 0, "data.num_workers": 0, "training.checkpoint_every": 10_000})
    drawn = draw_clips(recipe, data)
    clips, split = drawn.train, drawn.split
    clips = clips[:: max(1, len(clips) // num_clips)][:num_clips]
    backbone = load_backbone("lite", device="cpu", dtype="float32")
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, **recipe.model.mov_settings())).train()
    spec = sample_spec(recipe, backbone.images, train=True)
    only = {name: replace(spec, inputs=(name,)) for name in ("video", "flow")}
    sound = replace(spec, modalities=("video", "flow", "audio"), inputs=("audio",))

    def per_clip(work: Callable[[Any], Any], items: list[Any], *, warm: int = 1) -> float:
        for item in items[:warm]:
            work(item)
        start = time.process_time()
        for item in items:
            work(item)
        return (time.process_time() - start) / len(items)

    stages = {}
    with tempfile.TemporaryDirectory() as folder:
        stages["decode"] = per_clip(lambda c: read_parts(c, only["video"], [0]), clips)
        stages["flow"] = per_clip(lambda c: read_parts(c, only["flow"], [0]), clips) - stages["decode"]
        stages["spectrogram (with decoding; clips without sound count 0)"] = per_clip(
            lambda c: read_parts(c, sound, [0]), clips
        )
        cache = ClipCache(folder)
        samples = ClipSamples(clips, spec, classes=split.base, cache=cache)
        for i in range(len(clips)):
            samples[i]
        stages["augmentation (with reading the clip cache)"] = per_clip(lambda i: samples[i], list(range(len(clips))))
        made = [samples[i] for i in range(len(clips))]
    images = backbone.images
    video = [images.normalise(s["video"]) for s in made]
    flow = [images.normalise(s["flow"]) for s in made]
    stages["video tower"] = per_clip(mov.towers["video"], video)
    stages["flow tower, forward and backward of the last 5 blocks"] = per_clip(
        lambda x: mov.towers["flow"](x).square().mean().backward(), flow
    )
    tokens = [mov.towers["video"](x)[None] for x in video]
    moving = [mov.towers["flow"](x)[None].detach() for x in flow]

    def fuse(pair: tuple[Any, Any]) -> None:
        out = mov(video=pair[0], flow=pair[1])
        (out.v_m.square().mean() + out.x_m["flow"].square().mean()).backward()

    stages["fusion, forward and backward (one clip at a time)"] = per_clip(fuse, list(zip(tokens, moving, strict=True)))
    epochs = {
        "nothing kept": _epochs(recipe, data, clips, split, backbone, cache_clips=False, looks=0),
        "decoded clips kept": _epochs(recipe, data, clips, split, backbone, cache_clips=True, looks=0),
        "decoded clips and video features kept": _epochs(
            recipe, data, clips, split, backbone, cache_clips=True, looks=LOOKS
        ),
    }
    return {
        "what": "recipe lite-mov: 8 frames of 288 px, 8 flow pictures of 160 px, one CPU thread, float32",
        "clips": len(clips),
        "cpu_seconds_per_clip_by_stage": {name: round(max(s, 0.0), 4) for name, s in stages.items()},
        "epochs_after_the_first": epochs,
        "two_workers": _waiting(recipe, clips, split, backbone),
    }


def _open(recipe: Any, clips: list[Any], split: Any, backbone: Any, *, cache_clips: bool, looks: int) -> Any:
    """-> (mov, samples) as `open_clips` makes them."""
    from lexivid.models.mov import MOV
    from lexivid.models.mov_config import MOVConfig
    from lexivid.training import clips as opening

    settings = {"data.cache_clips": cache_clips, "data.cache_video_features": looks}
    recipe = recipe.with_settings(settings)
    mov = MOV.from_backbone(backbone, MOVConfig.for_backbone(backbone, **recipe.model.mov_settings()))
    if looks:
        samples, _ = opening._with_cached_features(
            recipe, clips, backbone.images, split.base, mov, train=True, accelerator=None, on_progress=None
        )
    else:
        samples = opening._samples(recipe, clips, backbone.images, split.base, train=True)
    return recipe, mov, samples


def _epochs(
    recipe: Any, data: Path, clips: list[Any], split: Any, backbone: Any, *, cache_clips: bool, looks: int
) -> dict[str, float]:
    """CPU seconds a clip of an epoch through `fit`, after one that fills the caches; and what filling costs."""
    import torch

    from lexivid.models.system import System
    from lexivid.training.loop import fit

    os.environ["LEXIVID_CACHE"] = folder = tempfile.mkdtemp()
    try:
        start = time.process_time()
        recipe, mov, samples = _open(recipe, clips, split, backbone, cache_clips=cache_clips, looks=looks)
        if cache_clips:
            for look in range(max(1, looks)):
                samples.set_epoch(look)
                for i in range(len(samples)):
                    samples[i]
        filling = time.process_time() - start
        labels = torch.randn(len(split.base), backbone.embedding_dim)
        recipe = recipe.with_settings({"training.epochs": 1, "training.batch_size": 8, "training.micro_batch": 4})
        run = Path(folder) / "run"
        start, wall = time.process_time(), time.monotonic()
        fit(System(mov, labels), samples, recipe, run, images=backbone.images, device="cpu")
        seconds, wall = time.process_time() - start, time.monotonic() - wall
        trained = len(clips) // 8 * 8
        return {
            "clips_per_cpu_second": round(trained / seconds, 3),
            "cpu_seconds_to_fill_the_caches_per_clip": round(filling / len(clips), 3),
            "clips_per_second_by_the_wall_clock": round(trained / wall, 3),
        }
    finally:
        shutil.rmtree(folder)


def _waiting(recipe: Any, clips: list[Any], split: Any, backbone: Any) -> dict[str, float]:
    """Share of an epoch, by the wall clock, that the training process waits for 2 workers; decoded clips kept."""
    import torch

    from lexivid.training import loop

    os.environ["LEXIVID_CACHE"] = folder = tempfile.mkdtemp()
    original = loop.load_batches
    waited = [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        batches = original(*args, **kwargs)
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            waited[0] += time.monotonic() - start
            if batch is None:
                return
            yield batch

    try:
        recipe, mov, samples = _open(recipe, clips, split, backbone, cache_clips=True, looks=LOOKS)
        for i in range(len(samples)):
            samples[i]
        recipe = recipe.with_settings(
            {"training.epochs": 2, "training.batch_size": 8, "training.micro_batch": 4, "data.num_workers": 2}
        )
        labels = torch.randn(len(split.base), backbone.embedding_dim)
        loop.load_batches = timed
        start = time.monotonic()
        loop.fit(loop.System(mov, labels), samples, recipe, Path(folder) / "run", images=backbone.images, device="cpu")
        return {"share_waiting_for_data": round(waited[0] / (time.monotonic() - start), 3)}
    finally:
        loop.load_batches = original
        shutil.rmtree(folder)


# ---- GPU


def on_gpu(device: str, *, batch: int, tiny: bool) -> dict[str, Any]:
    import torch
    from transformers import CLIPConfig, CLIPModel

    from lexivid.media.flow import flow, flow_to_image
    from lexivid.models.mov import MOV
    from lexivid.models.mov_config import MOVConfig
    from lexivid.models.towers import ClipTower
    from lexivid.training.recipe import Recipe
    from lexivid.training.schedule import make_optimizer

    side, frames = (32, 2) if tiny else (224, 16)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    if not tiny:
        size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    batch = 2 if tiny else batch
    torch.manual_seed(0)
    text = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = {"image_size": side, "patch_size": 16, **size}
    picture = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
    towers = {name: ClipTower(picture) for name in ("video", "flow")}
    mov = MOV(MOVConfig(), towers=towers).to(device).train()
    optimizer = make_optimizer(mov, Recipe().training)
    labels = torch.randn(400, 512, device=device)
    targets = torch.arange(batch, device=device) % 400
    mean, std = (torch.full((3, 1, 1), x, device=device) for x in (0.45, 0.27))
    g = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (batch, frames + 1, 3, side, side), generator=g, dtype=torch.uint8).to(device)
    smooth = torch.nn.functional.avg_pool2d(pictures.flatten(0, 1).float(), 9, 1, 4).byte().view_as(pictures)
    still = flow_to_image(torch.randn(batch * frames, 2, side, side, device=device) * 3).view(
        batch, frames, 3, side, side
    )

    def normalise(x: Any) -> Any:
        return (x.float() / 255 - mean) / std

    def step(*, flow_on_the_fly: bool, cached: Any = None) -> None:
        motion = still
        if flow_on_the_fly:
            first, second = (smooth[:, i : i + frames].flatten(0, 1).movedim(1, -1) for i in (0, 1))
            motion = flow_to_image(flow(first, second)).view_as(still)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            video = normalise(smooth[:, :frames]) if cached is None else cached
            out = mov(video=video, flow=normalise(motion))
        mov.loss(out, labels, targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    def sync() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    def clips_per_s(repeats: int = 10, **options: Any) -> float:
        for _ in range(2):
            step(**options)
        sync()
        start = time.monotonic()
        for _ in range(repeats):
            step(**options)
        sync()
        return batch * repeats / (time.monotonic() - start)

    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(flow_on_the_fly=False)
    flops_per_clip = counter.get_total_flops() / batch
    n = 256 if tiny else 8192
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    sync()
    start = time.monotonic()
    for _ in range(20):
        a @ a
    sync()
    matrix_rate = 20 * 2 * n**3 / (time.monotonic() - start)
    cached = torch.randn(batch, frames, 512, device=device)
    rates = {
        "flow given": clips_per_s(flow_on_the_fly=False),
        "flow given, video features cached": clips_per_s(flow_on_the_fly=False, cached=cached),
        "flow computed on the fly (tvl1)": clips_per_s(3, flow_on_the_fly=True),
    }
    return {
        "what": "CLIP B/16 at true size, 16 frames and 16 flow pictures of 224 px, bfloat16, AdamW, one device",
        "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device,
        "batch": batch,
        "clips_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "flops_per_clip": flops_per_clip,
        "measured_matrix_flops": matrix_rate,
        "share_of_matrix_rate": round(rates["flow given"] * flops_per_clip / matrix_rate, 3),
    }


if __name__ == "__main__":
    main()
