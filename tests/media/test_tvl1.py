"""TV-L1 flow against OpenCV's, against known motion, and on every odd input."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import flow_scenes
import numpy as np
import pytest
import torch
from flow_scenes import MOTIONS, distance, moved, opencv_tvl1, real_pairs

from lexivid.errors import LexividError, MissingExtraError
from lexivid.media import _median
from lexivid.media import tvl1 as module
from lexivid.media.tvl1 import pyramid_sizes, rgb_to_grey, tvl1

cv2 = pytest.importorskip("cv2")
pytest.importorskip("numba")
METHODS = ("numba", "torch")


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Four pairs (4, 48, 61) uint8, each moved differently."""
    scenes = [moved(kind, 48, 61, seed=seed) for seed, kind in enumerate(MOTIONS)]
    return np.stack([scene[0] for scene in scenes]), np.stack([scene[1] for scene in scenes])


# ---- the parts ----


def test_median_network_selects_the_median_of_all_binary_inputs() -> None:
    """The 0-1 principle: a network of minima and maxima that is right on binary inputs is right on all."""
    wires = [[] for _ in range(25)]
    wanted = []
    for ones in itertools.product(range(6), repeat=5):  # columns are sorted: `ones` at the end of each
        for row, column in itertools.product(range(5), range(5)):
            wires[5 * row + column].append(row >= 5 - ones[column])
        wanted.append(sum(ones) >= 13)
    values = [np.array(wire) for wire in wires]
    for low, high in _median.SELECT_13TH_OF_25:
        values[low], values[high] = values[low] & values[high], values[low] | values[high]
    np.testing.assert_array_equal(values[_median.MEDIAN_AT], wanted)
    for bits in itertools.product((0, 1), repeat=5):
        column = list(bits)
        for low, high in _median.SORT_5:
            column[low], column[high] = min(column[low], column[high]), max(column[low], column[high])
        assert column == sorted(bits)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 2), (5, 5), (37, 50)])
def test_medians_equal_opencv(size: tuple[int, int]) -> None:
    from lexivid.media import _tvl1_numba

    plane = np.random.default_rng(0).normal(size=size).astype(np.float32)
    wanted = cv2.medianBlur(plane, 5)
    np.testing.assert_array_equal(_median.median_5x5(torch.from_numpy(plane)).numpy(), wanted)
    found = np.empty_like(plane)
    _tvl1_numba._median(plane, found, *size)
    np.testing.assert_array_equal(found, wanted)


def test_grey_equals_opencv() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(rgb_to_grey(rgb)[0].numpy(), cv2.cvtColor(rgb[0], cv2.COLOR_RGB2GRAY))
    as_float = rgb_to_grey(rgb.astype(np.float64))
    assert (as_float - rgb_to_grey(rgb)).abs().max() <= 0.51


def test_pyramid_leaves_out_small_levels() -> None:
    assert pyramid_sizes(224, 224, 5) == [(224, 224), (179, 179), (143, 143), (114, 114), (91, 91)]
    assert pyramid_sizes(16, 16, 5) == [(16, 16)]
    assert pyramid_sizes(40, 24, 5) == [(40, 24), (32, 19)]
    assert pyramid_sizes(1, 1, 5) == [(1, 1)]


# ---- against OpenCV and the truth ----


@pytest.mark.parametrize("kind", MOTIONS)
def test_known_motion(kind: str) -> None:
    first, second, truth = moved(kind, 96, 128)
    theirs = opencv_tvl1(first, second)
    interior = (slice(8, -8), slice(8, -8))
    their_error = distance(theirs, truth)[interior].mean()
    for method in METHODS:
        ours = tvl1(first[None], second[None], method=method)[0]  # type: ignore[arg-type]
        assert distance(ours, theirs).mean() <= 0.02
        assert distance(ours, truth)[interior].mean() <= their_error + 0.01


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (15, 64), (64, 15), (33, 31)])
@pytest.mark.parametrize("method", METHODS)
def test_odd_sizes_equal_opencv(size: tuple[int, int], method: str) -> None:
    first, second, _ = moved("translation", *size)
    ours = tvl1(first[None], second[None], method=method)[0]  # type: ignore[arg-type]
    assert distance(ours, opencv_tvl1(first, second)).mean() <= 0.02


@pytest.mark.parametrize("parameters", [{"warps": 2}, {"lam": 0.05, "tau": 0.2, "theta": 0.2}, {"num_scales": 2}])
def test_parameters_mean_what_opencv_means(parameters: dict[str, float]) -> None:
    first, second, _ = moved("smooth", 64, 80)
    theirs = cv2.optflow.createOptFlow_DualTVL1()
    setters = {"warps": "WarpingsNumber", "lam": "Lambda", "num_scales": "ScalesNumber", "tau": "Tau", "theta": "Theta"}
    for name, value in parameters.items():
        getattr(theirs, f"set{setters[name]}")(value)
    wanted = theirs.calc(first, second, None).transpose(2, 0, 1)
    for method in METHODS:
        ours = tvl1(first[None], second[None], method=method, **parameters)[0]  # type: ignore[arg-type]
        assert distance(ours, wanted).mean() <= 0.02


@pytest.mark.slow
def test_real_clips_equal_opencv(media: Path) -> None:
    """At most 0.03 px on average; no pair above 0.2, or above what 0.01 grey levels of noise do to OpenCV itself."""
    names, firsts, seconds, cuts = real_pairs(media)
    assert len(names) >= 30, cuts
    names, firsts, seconds = names[::2], firsts[::2], seconds[::2]  # OpenCV takes seconds for each
    ours = tvl1(firsts, seconds)
    theirs = [opencv_tvl1(*pair) for pair in zip(firsts, seconds, strict=True)]
    means = np.array([distance(*flows).mean() for flows in zip(ours, theirs, strict=True)])
    assert means.mean() <= 0.03
    assert np.median(means) <= 0.01
    noise = np.random.default_rng(0)
    for index in np.flatnonzero(means > 0.2):
        noisy = (picture[index] / 255 + noise.uniform(-0.01, 0.01, (256, 340)) / 255 for picture in (firsts, seconds))
        itself = opencv_tvl1(*(picture.clip(0, 1).astype(np.float32) for picture in noisy))
        assert means[index] <= distance(itself, theirs[index]).mean(), names[index]
    chosen = np.argsort(means)[:6]  # the plain path agrees to the same tolerance
    plain = tvl1(firsts[chosen], seconds[chosen], method="torch")
    assert distance(plain, ours[chosen]).mean() <= 0.03


# ---- the same whatever the batch, the threads, the type ----


@pytest.mark.parametrize("method", METHODS)
def test_batch_and_threads_change_nothing(pairs: tuple[np.ndarray, np.ndarray], method: str) -> None:
    first, second = pairs
    together = tvl1(first, second, method=method, num_threads=3)  # type: ignore[arg-type]
    for index in range(len(first)):
        alone = tvl1(first[index : index + 1], second[index : index + 1], method=method, num_threads=1)  # type: ignore[arg-type]
        assert torch.equal(together[index], alone[0])


def test_plain_path_in_a_batch_is_the_plain_path_alone(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """On a GPU without Triton the plain path takes the whole batch: pairs that have stopped leave it."""
    first, second = (torch.from_numpy(pictures).float() for pictures in pairs)
    with torch.inference_mode():
        together = module._tvl1_torch(first, second, module.TVL1Settings())
    assert distance(together, tvl1(first, second, method="torch")).mean() <= 1e-3


def test_kinds_of_input(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (pictures[:2].copy() for pictures in pairs)
    wanted = tvl1(first, second)
    assert wanted.shape == (2, 2, 48, 61)
    assert wanted.dtype == torch.float32
    kept = first.copy()
    for kind in (
        torch.from_numpy,
        np.asfortranarray,
        lambda a: a.astype(np.float32),
        lambda a: torch.tensor(a).double(),
    ):
        assert torch.equal(tvl1(kind(first), kind(second)), wanted)
    wide = np.repeat(first, 2, axis=2)[:, :, ::2], np.repeat(second, 2, axis=2)[:, :, ::2]  # strided
    assert torch.equal(tvl1(*wide), wanted)
    colours = (np.repeat(pictures[..., None], 3, axis=-1) for pictures in (first, second))  # grey as RGB
    assert torch.equal(tvl1(*colours), wanted)
    np.testing.assert_array_equal(first, kept)


# ---- odd inputs ----


@pytest.mark.parametrize("method", METHODS)
def test_identical_and_black_frames_do_not_move(pairs: tuple[np.ndarray, np.ndarray], method: str) -> None:
    assert (tvl1(pairs[0], pairs[0], method=method) == 0).all()  # type: ignore[arg-type]
    black = np.zeros((2, 33, 47), np.uint8)
    assert (tvl1(black, black, method=method) == 0).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (5, 20)])
def test_tiny_pictures(size: tuple[int, int], method: str) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 1, *size), dtype=np.uint8)
    found = tvl1(first, second, method=method)  # type: ignore[arg-type]
    assert found.shape == (1, 2, *size)
    assert found.isfinite().all()
    plain = tvl1(first, second, method="torch")
    assert distance(found, plain).mean() <= 0.1  # between unrelated pictures rounding decides more than elsewhere


@pytest.mark.parametrize("method", METHODS)
def test_scene_cut_ends_in_bounded_time(method: str) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 1, 48, 64), dtype=np.uint8)
    began = time.perf_counter()
    found = tvl1(first, second, method=method)  # type: ignore[arg-type]
    assert time.perf_counter() - began < 120
    assert found.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_batch_of_none(method: str) -> None:
    none = np.zeros((0, 20, 30), np.uint8)
    assert tvl1(none, none, method=method).shape == (0, 2, 20, 30)  # type: ignore[arg-type]


@pytest.mark.slow
def test_4k() -> None:
    first, second, _ = moved("translation", 270, 480)
    first, second = (cv2.resize(picture, (3840, 2160), interpolation=cv2.INTER_CUBIC) for picture in (first, second))
    found = tvl1(first[None], second[None], warps=1)
    assert found.shape == (1, 2, 2160, 3840)
    assert found.isfinite().all()


GREY = np.zeros((2, 20, 30), np.uint8)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (GREY, np.zeros((2, 20, 31), np.uint8), "must match: first is 2x20x30, second 2x20x31"),
        (GREY, GREY[:1], "must match"),
        (GREY, np.full((2, 20, 30), np.nan), "second holds values that are not finite"),
        (np.full((2, 20, 30), np.inf, np.float32), GREY, "first holds values that are not finite"),
        (np.full((2, 20, 30), 1e9, np.float32), GREY, "far outside 0..255"),
        (GREY.astype(np.int32), GREY, "uint8 or floating point in 0..255, not int32"),
        (GREY.astype(bool), GREY, "not bool"),
        (torch.zeros(2, 20, 30, dtype=torch.int64), GREY, "not torch.int64"),
        (GREY[0], GREY[0], "not 20x30"),
        (np.zeros((2, 3, 20, 30), np.uint8), GREY, "not 2x3x20x30"),
        (np.zeros((2, 0, 30), np.uint8), GREY, "without pixels"),
        ([[1]], GREY, "an array or a tensor, not list"),
    ],
)
def test_unusable_pictures_say_why(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(LexividError, match=message):
        tvl1(first, second)


@pytest.mark.parametrize(
    "option",
    [{"warps": 0}, {"tau": 0.0}, {"lam": -1.0}, {"epsilon": float("nan")}, {"num_threads": 0}, {"method": "fast"},
     {"method": "triton"}, {"theta": float("inf")}, {"warps": 2.5}],
)  # fmt: skip
def test_unusable_options_say_why(option: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(LexividError, match=f"{next(iter(option))}"):
        tvl1(GREY, GREY, **option)  # type: ignore[arg-type]


# ---- what is installed ----


def test_without_numba_the_plain_path_takes_over_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "lexivid.media._tvl1_numba", raising=False)
    monkeypatch.setattr(module, "_said_missing", set())
    with pytest.warns(RuntimeWarning, match=r"lexivid\[flow\]"):
        found = tvl1(GREY, GREY)
    assert (found == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tvl1(GREY, GREY)
    with pytest.raises(MissingExtraError, match=r'method=.numba.*pip install "lexivid\[flow\]"'):
        tvl1(GREY, GREY, method="numba")


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from lexivid.media import _tvl1_numba

    real = _tvl1_numba.numba.njit

    def njit(*args: object, **options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(_tvl1_numba.numba, "njit", njit)
    assert _tvl1_numba._kernel(lambda x: x + 1)(1) == 2


TRITON_AGREES = """
import numpy as np, torch, sys
from lexivid.media import _tvl1_triton
from lexivid.media.tvl1 import tvl1
from flow_scenes import distance, moved
_tvl1_triton.BLOCK = 128  # three tiles
scenes = [moved(kind, 15, 18, seed=3) for kind in ("rotation", "smooth")]
first, second = np.stack([s[0] for s in scenes]), np.stack([s[1] for s in scenes])
options = dict(warps=2, num_scales=2, inner_iterations=4, outer_iterations=2)
ours = tvl1(first, second, method="triton", **options)
assert ours.abs().mean() > 0.1
assert distance(ours, tvl1(first, second, method="torch", **options)).mean() <= 0.02
assert torch.equal(tvl1(first[1:], second[1:], method="triton", **options)[0], ours[1])
assert (tvl1(first, first, method="triton", **options) == 0).all()
"""


@pytest.mark.slow
def test_triton_kernels_agree_with_the_plain_path() -> None:
    """Interpreted on the CPU: the same kernels, without a GPU."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(flow_scenes.__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run([sys.executable, "-c", TRITON_AGREES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["_primal", "_dual", "_median", "_take", "_warp"])
def test_triton_kernels_compile_for_an_h100(kernel: str) -> None:
    """What interpretation does not show: that the types hold and the registers suffice. Needs no GPU."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lexivid.media import _tvl1_triton

    function = getattr(_tvl1_triton, kernel)
    constants = {"BLOCK": 256 if kernel in ("_median", "_warp") else 1024, "TILES": 64}
    whole = {"height": "i32", "width": "i32", "num_tiles": "i32", "live": "*i32", "running": "*i32"}
    whole |= dict.fromkeys(("limit", "theta", "bound", "taut"), "fp32")
    signature = {name: "constexpr" if name in constants else whole.get(name, "*fp32") for name in function.arg_names}
    constexprs = {(function.arg_names.index(name),): value for name, value in constants.items() if name in signature}
    source = ASTSource(fn=function, signature=signature, constexprs=constexprs)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


def test_gpu_agrees_with_the_cpu(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pairs
    wanted = tvl1(first, second)
    together = tvl1(first, second, device="cuda")
    assert distance(together.cpu(), wanted).mean() <= 0.02
    assert torch.equal(tvl1(first[2:3], second[2:3], device="cuda")[0], together[2])
    assert distance(tvl1(first, second, device="cuda", method="torch").cpu(), wanted).mean() <= 0.02
    assert (tvl1(first, first, device="cuda") == 0).all()
