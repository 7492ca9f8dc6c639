"""TV-L1 optical flow (Zach, Pock, Bischof: "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007).

In: N pairs of pictures (N, H, W) or (N, H, W, 3). Out: (N, 2, H, W) float32 pixels, horizontal (right +) then vertical
(down +). The paper's method, its formulas numbered for this file:

    (1)  minimise over u:   sum |grad u1| + |grad u2| + lambda |rho(u)|
    (2)  rho(u) = I1(x + u0) + grad I1(x + u0) . (u - u0) - I0(x): the picture I1 linearised around the last flow u0
    (3)  split by v near u: v = u + d, where d = grad I1 . clamp(-rho(u) / |grad I1|^2, -lambda theta, +lambda theta)
         (the three cases of the paper's thresholding step in one)
    (4)  then, for that v:  u = v + theta div p
    (5)  with the dual p:   p = (p + tau/theta grad u) / (1 + tau/theta |grad u|), once an iteration (Chambolle 2004)

from coarse to fine, with several warps (new u0) at each scale.
Every detail follows OpenCV's DualTVL1OpticalFlow (contrib 5.0), whose flow the field's results are built on.

This file: the call and the algorithm in plain PyTorch, to be read and always there. Beside it the same numbers, faster:
`_tvl1_numba.py` (CPU) and `_tvl1_triton.py` (CUDA). The call is in the second half.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexivid.errors import LexividError, MissingExtraError
from lexivid.media._median import median_5x5

Method = Literal["auto", "numba", "triton", "torch"]

SCALE_STEP = 0.8
"""Each level of the pyramid is this much smaller than the one below."""
SMALLEST_SIDE = 16
"""A level with a side below this, in pixels, is left out."""
GRADIENT_IS_ZERO = 1.1920929e-07
"""At or below this |grad I1|^2 the data term says nothing."""


class TVL1Settings(NamedTuple):
    """The parameters, in the paper's letters (OpenCV's defaults)."""

    warps: int = 5
    num_scales: int = 5
    inner_iterations: int = 30
    outer_iterations: int = 10
    tau: float = 0.25  # time step of the dual update
    lam: float = 0.15  # weight of the data term, for grey values 0..255
    theta: float = 0.3  # tightness of the coupling of u and v
    epsilon: float = 0.01  # stop: root mean square change of the flow, pixels


def pyramid_sizes(height: int, width: int, num_scales: int) -> list[tuple[int, int]]:
    """The (height, width) of each level, finest first."""
    sizes = [(height, width)]
    while len(sizes) < num_scales:
        smaller = (round(sizes[-1][0] * SCALE_STEP), round(sizes[-1][1] * SCALE_STEP))
        if min(smaller) < SMALLEST_SIDE:
            break
        sizes.append(smaller)
    return sizes


def _resize(planes: Tensor, size: tuple[int, int], step: tuple[float, float]) -> Tensor:
    """Bilinear, no antialiasing: output pixel d looks at (d + 0.5) * step - 0.5. (..., H, W) -> (..., *size)."""
    for axis, length, stride in zip((-1, -2), size[::-1], step[::-1], strict=True):
        last = planes.shape[axis] - 1
        position = (torch.arange(length, device=planes.device) + 0.5).mul(stride).sub(0.5).clamp(0, last)
        before = position.floor().long()
        weight = position - before if axis == -1 else (position - before)[:, None]
        low, high = planes.index_select(axis, before), planes.index_select(axis, (before + 1).clamp(max=last))
        planes = low * (1 - weight) + high * weight
    return planes


def _central_gradient(image: Tensor) -> Tensor:
    """(N, H, W) -> (N, 2, H, W): half the difference of the two neighbours, the border replicated."""
    p = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return torch.stack((p[:, 1:-1, 2:] - p[:, 1:-1, :-2], p[:, 2:, 1:-1] - p[:, :-2, 1:-1]), dim=1).mul(0.5)


def _tap_weights(t: Tensor) -> list[Tensor]:
    """Cubic convolution (Keys 1981) with a = -0.75: the weights of the taps at -1, 0, 1, 2 for fraction t."""
    a, s, r = -0.75, t + 1, 1 - t
    first = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    second, third = (((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, r))
    return [first, second, third, 1 - first - second - third]  # t = 0 gives 0, 1, 0, 0 exactly


def _warp(planes: Tensor, u: Tensor) -> Tensor:
    """planes (N, C, H, W) at x + u (N, 2, H, W): cubic convolution, zero outside the picture."""
    height, width = u.shape[-2:]
    x = (torch.arange(width, device=u.device) + u[:, 0]).clamp(-3, width + 2)  # beyond, all taps are outside
    y = (torch.arange(height, device=u.device)[:, None] + u[:, 1]).clamp(-3, height + 2)
    left, top, edge = x.floor(), y.floor(), 5
    padded = F.pad(planes, (edge, edge, edge, edge)).flatten(2)
    pitch = width + 2 * edge
    at = ((top.long() + edge - 1) * pitch + left.long() + edge - 1).flatten(1)[:, None].expand(-1, planes.shape[1], -1)
    warped = torch.zeros_like(planes)
    for j, weight_y in enumerate(_tap_weights(y - top)):
        for i, weight_x in enumerate(_tap_weights(x - left)):
            tap = padded.gather(2, at + (j * pitch + i)).view_as(planes)
            warped += (weight_y * weight_x)[:, None] * tap
    return warped


def _forward_gradient(u: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical forward differences of (..., H, W), zero at the last column and row."""
    return F.pad(u[..., 1:] - u[..., :-1], (0, 1)), F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))


def _divergence(p: Tensor) -> Tensor:
    """(N, 2, 2, H, W) -> (N, 2, H, W): backward differences of each component's (x, y) field, zero outside."""
    px, py = p[:, :, 0], p[:, :, 1]
    return px - F.pad(px[..., :-1], (1, 0)) + py - F.pad(py[..., :-1, :], (0, 0, 1, 0))


def _iterate(u: Tensor, p: Tensor, grad: Tensor, norm: Tensor, rho_c: Tensor, s: TVL1Settings) -> tuple[Tensor, ...]:
    """One iteration: new u (N, 2, H, W), new p (N, 2, 2, H, W), and the squared change of u (N,)."""
    rho = rho_c + (grad * u).sum(1)  # (2)
    step = torch.clamp(-rho / norm, -s.lam * s.theta, s.lam * s.theta)
    v = u + grad * torch.where(norm > GRADIENT_IS_ZERO, step, 0)[:, None]  # (3)
    u_new = v + s.theta * _divergence(p)  # (4)
    taut = s.tau / s.theta
    gx, gy = _forward_gradient(u_new)
    p_new = torch.stack((p[:, :, 0] + taut * gx, p[:, :, 1] + taut * gy), dim=2)
    p_new = p_new / (1 + taut * torch.sqrt(gx * gx + gy * gy))[:, :, None]  # (5)
    return u_new, p_new, (u_new - u).square().sum((1, 2, 3), dtype=torch.float64)


def _solve(u: Tensor, p: Tensor, grad: Tensor, rho_c: Tensor, s: TVL1Settings) -> tuple[Tensor, Tensor]:
    """Iterate between two warps until each pair's flow stands still; pairs that have stopped leave the batch.

    u (N, 2, H, W), p (N, 2, 2, H, W) dual field, grad (N, 2, H, W) warped gradient, rho_c (N, H, W) -> u, p
    """
    limit = s.epsilon**2 * u.shape[-1] * u.shape[-2]
    norm = grad.square().sum(1)
    u_out, p_out, running = torch.empty_like(u), torch.empty_like(p), torch.arange(len(u), device=u.device)
    for _ in range(s.outer_iterations):
        u = median_5x5(u)
        for _ in range(s.inner_iterations):
            u, p, change = _iterate(u, p, grad, norm, rho_c, s)
            going = change > limit
            if not going.all():
                u_out[running[~going]], p_out[running[~going]] = u[~going], p[~going]
                u, p, grad, norm, rho_c, running = (t[going] for t in (u, p, grad, norm, rho_c, running))
            if not len(u):
                return u_out, p_out
    u_out[running], p_out[running] = u, p
    return u_out, p_out


def _tvl1_torch(first: Tensor, second: Tensor, s: TVL1Settings) -> Tensor:
    """The whole algorithm: grey (N, H, W) float32, 0..255 -> flow (N, 2, H, W)."""
    sizes = pyramid_sizes(first.shape[-2], first.shape[-1], s.num_scales)
    pyramid = [(first, second)]
    for size in sizes[1:]:
        shrink = (1 / SCALE_STEP, 1 / SCALE_STEP)  # exactly 1.25, not the ratio of the rounded sizes
        pyramid.append((_resize(pyramid[-1][0], size, shrink), _resize(pyramid[-1][1], size, shrink)))
    u = first.new_zeros(len(first), 2, *sizes[-1])
    for level in reversed(range(len(sizes))):
        height, width = sizes[level]
        if u.shape[-2:] != (height, width):  # up from the coarser level
            u = _resize(u, (height, width), (u.shape[-2] / height, u.shape[-1] / width)) / SCALE_STEP
        image0, image1 = pyramid[level]
        planes = torch.cat((image1[:, None], _central_gradient(image1)), dim=1)
        p = u.new_zeros(len(u), 2, 2, height, width)  # kept from warp to warp
        for _ in range(s.warps):
            warped = _warp(planes, u)  # the gradient is warped too; it is not the warped picture's gradient
            grad = warped[:, 1:]
            rho_c = warped[:, 0] - (grad * u).sum(1) - image0  # what (2) holds of u0
            u, p = _solve(u, p, grad, rho_c, s)
    return u


# ---- the call ----


def tvl1(
    first: np.ndarray | Tensor,
    second: np.ndarray | Tensor,
    *,
    warps: int = 5,
    num_scales: int = 5,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    tau: float = 0.25,
    lam: float = 0.15,
    theta: float = 0.3,
    epsilon: float = 0.01,
    method: Method = "auto",
    device: str | torch.device | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """TV-L1 optical flow of N pairs of pictures: where each pixel of `first` has gone in `second`.

    The numbers are those of OpenCV's DualTVL1OpticalFlow with the same parameters, to about 0.01 px. They do not
    depend on the batch or on the number of threads.

    Args:
        first, second: (N, H, W) grey or (N, H, W, 3) RGB; uint8, or floating point in the same range 0..255.
        warps: how often the second picture is warped anew at each scale. 3 takes half the time and is 0.07 px off on
            most pairs, more on fast motion.
        num_scales: levels of the pyramid, 0.8 apart; levels with a side below 16 px are left out.
        inner_iterations, outer_iterations: at most this many steps in a warp; a median filter begins each outer round.
        tau: time step of the dual update. At most 0.25 converges for certain.
        lam: weight of the data term against smoothness; smaller is smoother.
        theta: how tightly the two halves of the split energy are coupled.
        epsilon: a warp ends when the flow's root mean square change in a step is at most this, pixels.
        method: "numba" (CPU), "triton" (CUDA), "torch" (plain, any device), or "auto": the fastest that is installed.
        device: where to compute; default: where `first` is (arrays: the CPU).
        num_threads: CPU threads over pairs; default `torch.get_num_threads()`.

    Returns:
        (N, 2, H, W) float32 on `device`: pixels, horizontal (right +) and vertical (down +).

    Raises:
        LexividError: shapes, types or values cannot be used.
        MissingExtraError: `method` names one that is not installed.
    """
    settings = TVL1Settings(warps, num_scales, inner_iterations, outer_iterations, tau, lam, theta, epsilon)
    _check_settings(settings, num_threads)
    grey0, grey1 = rgb_to_grey(first, name="first", device=device), rgb_to_grey(second, name="second", device=device)
    if grey0.shape != grey1.shape:
        raise LexividError(f"the two pictures of a pair must match: first is {_shape(first)}, second {_shape(second)}")
    grey1 = grey1.to(grey0.device)
    num_pairs, height, width = grey0.shape
    if not num_pairs:
        return grey0.new_zeros(0, 2, height, width)
    if method == "auto":
        method = _best_method(grey0.device)
    if method == "triton":
        return _load("triton").tvl1_triton(grey0, grey1, settings)
    if method == "numba":
        flow = _load("numba").tvl1_numba(grey0.numpy(force=True), grey1.numpy(force=True), settings, num_threads)
        return torch.from_numpy(flow).to(grey0.device)
    if method != "torch":
        raise LexividError(f"unknown method {method!r}: choose auto, numba, triton or torch")
    with torch.inference_mode():
        if grey0.device.type == "cpu":  # one pair stays in the cache
            pairs = zip(grey0.split(1), grey1.split(1), strict=True)
            return torch.cat([_tvl1_torch(a, b, settings) for a, b in pairs])
        return _tvl1_torch(grey0, grey1, settings)


def _load(method: Literal["numba", "triton"]) -> ModuleType:
    """The module of kernels beside this one."""
    try:
        return import_module(f"lexivid.media._tvl1_{method}")
    except ImportError as error:
        extra = "lexivid[flow]" if method == "numba" else "triton"
        raise MissingExtraError(
            f"method={method!r} needs {method}, which cannot be imported ({error}): "
            f'pip install "{extra}", or use method="torch"'
        ) from error


def _best_method(device: torch.device) -> Method:
    """The fastest method for this device whose package is installed; says once if a faster one is missing."""
    wanted: Literal["numba", "triton"] | None = {"cpu": "numba", "cuda": "triton"}.get(device.type)  # type: ignore[assignment]
    if wanted is None:
        return "torch"
    try:
        _load(wanted)
    except MissingExtraError:
        if wanted not in _said_missing:
            _said_missing.add(wanted)
            how = 'pip install "lexivid[flow]"' if wanted == "numba" else "pip install triton"
            warnings.warn(
                f"{wanted} is not installed: TV-L1 flow takes the plain PyTorch path, several times slower ({how})",
                RuntimeWarning,
                stacklevel=3,
            )
        return "torch"
    return wanted


_said_missing: set[str] = set()


def _shape(pictures: np.ndarray | Tensor) -> str:
    return "x".join(str(side) for side in pictures.shape)


def rgb_to_grey(
    pictures: np.ndarray | Tensor, *, name: str = "pictures", device: str | torch.device | None = None
) -> Tensor:
    """(N, H, W) grey or (N, H, W, 3) RGB -> (N, H, W) float32, 0..255; 8-bit RGB to whole numbers, as OpenCV rounds.

    Raises:
        LexividError: shape, type or values cannot be used; `name` is what the message calls them.
    """
    if not isinstance(pictures, (np.ndarray, Tensor)):
        raise LexividError(f"{name} must be an array or a tensor, not {type(pictures).__name__}")
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[-1] != 3):
        raise LexividError(f"{name} must be (N, H, W) grey or (N, H, W, 3) RGB, not {_shape(pictures) or 'a number'}")
    if 0 in pictures.shape[1:]:
        raise LexividError(f"{name} has pictures without pixels: {_shape(pictures)}")
    is_byte = pictures.dtype in (np.uint8, torch.uint8)
    is_float = pictures.dtype in (np.float16, np.float32, np.float64) or (
        isinstance(pictures, Tensor) and pictures.dtype.is_floating_point
    )
    if not is_byte and not is_float:
        raise LexividError(f"{name} must be uint8 or floating point in 0..255, not {pictures.dtype}")
    if isinstance(pictures, np.ndarray):
        pictures = torch.from_numpy(np.ascontiguousarray(pictures))
    pictures = pictures.detach().to(device) if device is not None else pictures.detach()
    if is_byte:
        if pictures.ndim == 4:  # fixed point with 15 bits, rounded: what cv2.cvtColor(..., COLOR_RGB2GRAY) computes
            red, green, blue = pictures.int().unbind(-1)
            pictures = (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15
        return pictures.float().contiguous()
    pictures = pictures.float()
    if not torch.isfinite(pictures).all():
        raise LexividError(f"{name} holds values that are not finite (NaN or infinity)")
    if pictures.numel() and (pictures.min() < -255 or pictures.max() > 510):  # some overshoot of a resize is fine
        raise LexividError(f"{name} holds values far outside 0..255: {pictures.min():g} to {pictures.max():g}")
    if pictures.ndim == 4:
        pictures = pictures @ pictures.new_tensor([0.299, 0.587, 0.114])
    return pictures.contiguous()


def _check_settings(s: TVL1Settings, num_threads: int | None) -> None:
    for name in ("warps", "num_scales", "inner_iterations", "outer_iterations"):
        if not isinstance(getattr(s, name), int) or getattr(s, name) < 1:
            raise LexividError(f"{name} must be a whole number of at least 1, not {getattr(s, name)!r}")
    for name in ("tau", "lam", "theta"):
        if not 0 < getattr(s, name) < float("inf"):
            raise LexividError(f"{name} must be above 0, not {getattr(s, name)!r}")
    if not 0 <= s.epsilon < float("inf"):
        raise LexividError(f"epsilon must be 0 or more, not {s.epsilon!r}")
    if num_threads is not None and num_threads < 1:
        raise LexividError(f"num_threads must be at least 1, not {num_threads}")
