"""TV-L1 on the CPU: the algorithm of `tvl1.py` as fused kernels in Numba, one pair per thread, without the GIL.

Where the time goes, and what is done about it:
- An iteration is one sweep: row y of u, then row y - 1 of p, in place, about 60 bytes a pixel and 0.65 ns (AVX-512).
- Planes are (H + 1, pitch) float32, each row starting on a cache line; p lies `LEFT` columns further right, so that
  only its left neighbour crosses lines. Rows are computed to a multiple of 16 columns; `inside` zeroes the rest.
- The second picture and its gradient lie interleaved in fours, so that a row of the 4 x 4 taps is one vector.
- `error_model="numpy"` lets divisions vectorise (otherwise each could raise); a plain 1.0 would promote to float64.
"""
# Kernels get their types when they are compiled:
# mypy: disable-error-code="call-overload, call-arg, assignment"

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from lexivid.media.tvl1 import GRADIENT_IS_ZERO, SCALE_STEP, TVL1Settings, pyramid_sizes

Array = np.ndarray[Any, np.dtype[Any]]

VECTOR = 16  # float32 in a cache line
LEFT = 16  # columns before the first of p, the last of which is its zero border
EDGE = 5  # zeros around the interleaved picture: taps outside count as nothing

f4 = np.float32
ZERO, HALF, ONE, TWO, THREE, FOUR = f4(0), f4(0.5), f4(1), f4(2), f4(3), f4(4)
CUBIC = f4(-0.75)
OUTSIDE = f4(-3)
NO_GRADIENT = f4(GRADIENT_IS_ZERO)
SHRINK = 1 / SCALE_STEP


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call, and keep the result on disk where a place for it can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder is writable
        return numba.njit(**options)(function)


@_kernel
def _iterate(u1, u2, p11, p12, p21, p22, gx, gy, inverse, rho_c, inside, height, width, theta, bound, taut):
    """One iteration over a whole level, in place (tvl1._iterate). Returns the squared change of u."""
    change = 0.0
    for y in range(height + 1):
        if y < height:
            row_change = ZERO
            for x in range(inside.size):
                a = u1[y, x]
                b = u2[y, x]
                g = gx[y, x]
                h = gy[y, x]
                step = min(max(-(rho_c[y, x] + g * a + h * b) * inverse[y, x], -bound), bound)
                div1 = p11[y + 1, x + LEFT] - p11[y + 1, x + LEFT - 1] + p12[y + 1, x + LEFT] - p12[y, x + LEFT]
                div2 = p21[y + 1, x + LEFT] - p21[y + 1, x + LEFT - 1] + p22[y + 1, x + LEFT] - p22[y, x + LEFT]
                da = inside[x] * (step * g + theta * div1)
                db = inside[x] * (step * h + theta * div2)
                row_change += da * da + db * db
                u1[y, x] = a + da
                u2[y, x] = b + db
            change += row_change
            u1[y, width] = u1[y, width - 1]  # so that the last column's difference is zero
            u2[y, width] = u2[y, width - 1]
        else:
            for x in range(width + 1):  # likewise the last row's
                u1[y, x] = u1[y - 1, x]
                u2[y, x] = u2[y - 1, x]
        if y > 0:
            for x in range(inside.size):
                a = u1[y - 1, x]
                b = u2[y - 1, x]
                ax = u1[y - 1, x + 1] - a
                ay = u1[y, x] - a
                bx = u2[y - 1, x + 1] - b
                by = u2[y, x] - b
                na = ONE + taut * np.sqrt(ax * ax + ay * ay)
                nb = ONE + taut * np.sqrt(bx * bx + by * by)
                both = ONE / (na * nb)  # one division for two
                na, nb = nb * both, na * both
                p11[y, x + LEFT] = (p11[y, x + LEFT] + taut * ax) * na
                p12[y, x + LEFT] = (p12[y, x + LEFT] + taut * ay) * na
                p21[y, x + LEFT] = (p21[y, x + LEFT] + taut * bx) * nb
                p22[y, x + LEFT] = (p22[y, x + LEFT] + taut * by) * nb
    return change


@_kernel
def _resize(source, height, width, target, new_height, new_width, step_y, step_x, gain):
    """Bilinear (tvl1._resize), times `gain`."""
    lefts = np.empty(new_width, np.int64)
    weights = np.empty(new_width, np.float32)
    for x in range(new_width):
        at = min(max((x + 0.5) * step_x - 0.5, 0.0), width - 1.0)
        lefts[x] = min(int(at), max(width - 2, 0))
        weights[x] = at - lefts[x]
    right = 1 if width > 1 else 0
    for y in range(new_height):
        at = min(max((y + 0.5) * step_y - 0.5, 0.0), height - 1.0)
        top = min(int(at), max(height - 2, 0))
        below = min(top + 1, height - 1)
        weight = f4(at - top)
        for x in range(new_width):
            left = lefts[x]
            w = weights[x]
            upper = source[top, left] * (ONE - w) + source[top, left + right] * w
            lower = source[below, left] * (ONE - w) + source[below, left + right] * w
            target[y, x] = gain * (upper * (ONE - weight) + lower * weight)


@_kernel
def _interleave(image, height, width, fours):
    """The picture and its central differences into `fours` (H + 2 EDGE, W + 2 EDGE, 4), zero around."""
    fours[:] = ZERO
    for y in range(height):
        above = max(y - 1, 0)
        below = min(y + 1, height - 1)
        for x in range(width):
            cell = fours[y + EDGE, x + EDGE]
            cell[0] = image[y, x]
            cell[1] = HALF * (image[y, min(x + 1, width - 1)] - image[y, max(x - 1, 0)])
            cell[2] = HALF * (image[below, x] - image[above, x])


@_kernel
def _tap_weights(t):
    """Cubic convolution (Keys 1981) with a = -0.75: the four taps' weights at fraction t."""
    s, r = t + ONE, ONE - t
    w0 = ((CUBIC * s - f4(5) * CUBIC) * s + f4(8) * CUBIC) * s - FOUR * CUBIC
    w1 = ((CUBIC + TWO) * t - (CUBIC + THREE)) * t * t + ONE
    w2 = ((CUBIC + TWO) * r - (CUBIC + THREE)) * r * r + ONE
    return w0, w1, w2, ONE - w0 - w1 - w2


@intrinsic
def _sample(typing, source, at, pitch, x0, x1, x2, x3, y0, y1, y2, y3, target, to):
    """target[to : to + 4] = the four planes' weighted sums over 4 x 4 taps, the first of them at source[at].

    In vectors of 16 (a row of taps) and of 4: LLVM does not find them by itself, and takes five times as long.
    """
    signature = types.void(source, types.intp, types.intp, *[types.float32] * 8, target, types.intp)
    lane = ir.IntType(32)

    def codegen(context, builder, _, arguments):
        from_array, at, pitch, *weights, to_array, to = arguments

        def lanes(indices):
            return ir.Constant(ir.VectorType(lane, len(indices)), indices)

        def pointer(array_type, array, index, count):
            data = context.make_array(array_type)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), ir.VectorType(ir.FloatType(), count).as_pointer())

        def weighted_sum(vectors, weights):
            total = None
            for vector, weight in zip(vectors, weights, strict=True):
                spread = builder.insert_element(ir.Constant(vector.type, ir.Undefined), weight, lane(0))
                spread = builder.shuffle_vector(spread, spread, lanes([0] * vector.type.count))
                product = builder.fmul(vector, spread, flags=("contract",))
                total = product if total is None else builder.fadd(total, product, flags=("contract",))
            return total

        rows = []
        for _row in range(4):
            rows.append(builder.load(pointer(source, from_array, at, 16), align=4))
            at = builder.add(at, pitch)
        row = weighted_sum(rows, weights[4:])
        cells = [builder.shuffle_vector(row, row, lanes([4 * k + plane for plane in range(4)])) for k in range(4)]
        builder.store(weighted_sum(cells, weights[:4]), pointer(target, to_array, to, 4), align=4)
        return context.get_dummy_value()

    return signature, codegen


@_kernel
def _warp(fours, image0, u1, u2, gx, gy, inverse, rho_c, height, width):
    """The warped gradient, 1 / |grad|^2 (zero where flat) and the residual's constant part (tvl1._warp)."""
    flat = fours.reshape(-1)
    pitch = fours.shape[1] * 4
    at = np.empty(width, np.int64)
    wx = np.empty((4, width), np.float32)
    wy = np.empty((4, width), np.float32)
    out = np.empty(4 * width, np.float32)
    for y in range(height):
        for x in range(width):
            px = f4(x) + u1[y, x]
            py = f4(y) + u2[y, x]
            px = (
                px if px >= OUTSIDE else OUTSIDE
            )  # beyond, all taps are zero anyway; written so that NaN goes there too
            py = py if py >= OUTSIDE else OUTSIDE
            px = px if px <= f4(width + 2) else f4(width + 2)
            py = py if py <= f4(height + 2) else f4(height + 2)
            ix = np.floor(px)
            iy = np.floor(py)
            wx[0, x], wx[1, x], wx[2, x], wx[3, x] = _tap_weights(px - ix)
            wy[0, x], wy[1, x], wy[2, x], wy[3, x] = _tap_weights(py - iy)
            at[x] = (np.int32(iy) + EDGE - 1) * pitch + (np.int32(ix) + EDGE - 1) * 4
        for x in range(width):
            w0, w1, w2, w3 = wx[0, x], wx[1, x], wx[2, x], wx[3, x]
            _sample(flat, at[x], pitch, w0, w1, w2, w3, wy[0, x], wy[1, x], wy[2, x], wy[3, x], out, 4 * x)
        for x in range(width):
            g = out[4 * x + 1]
            h = out[4 * x + 2]
            norm = g * g + h * h
            gx[y, x] = g
            gy[y, x] = h
            inverse[y, x] = ONE / norm if norm > NO_GRADIENT else ZERO
            rho_c[y, x] = out[4 * x] - g * u1[y, x] - h * u2[y, x] - image0[y, x]


@_kernel
def _median(source, target, height, width):
    """The exact 5 x 5 median (_median.median_5x5): columns are sorted once, then 58 comparisons select the 13th."""
    ranks = np.empty((5, width + 4), np.float32)
    last = height - 1
    for y in range(height):
        top, above, below, bottom = max(y - 2, 0), max(y - 1, 0), min(y + 1, last), min(y + 2, last)
        for x in range(width):
            a, b, c = source[top, x], source[above, x], source[y, x]
            d, e = source[below, x], source[bottom, x]
            a, d = min(a, d), max(a, d)
            b, e = min(b, e), max(b, e)
            a, c = min(a, c), max(a, c)
            b, d = min(b, d), max(b, d)
            a, b = min(a, b), max(a, b)
            c, e = min(c, e), max(c, e)
            b, c = min(b, c), max(b, c)
            d, e = min(d, e), max(d, e)
            c, d = min(c, d), max(c, d)
            ranks[0, x + 2] = a
            ranks[1, x + 2] = b
            ranks[2, x + 2] = c
            ranks[3, x + 2] = d
            ranks[4, x + 2] = e
        for r in range(5):
            ranks[r, 0] = ranks[r, 1] = ranks[r, 2]
            ranks[r, width + 2] = ranks[r, width + 3] = ranks[r, width + 1]
        for x in range(width):
            v0, v1, v2, v3, v4 = ranks[0, x], ranks[0, x + 1], ranks[0, x + 2], ranks[0, x + 3], ranks[0, x + 4]
            v5, v6, v7, v8, v9 = ranks[1, x], ranks[1, x + 1], ranks[1, x + 2], ranks[1, x + 3], ranks[1, x + 4]
            v10, v11, v12, v13, v14 = ranks[2, x], ranks[2, x + 1], ranks[2, x + 2], ranks[2, x + 3], ranks[2, x + 4]
            v15, v16, v17, v18, v19 = ranks[3, x], ranks[3, x + 1], ranks[3, x + 2], ranks[3, x + 3], ranks[3, x + 4]
            v20, v21, v22, v23, v24 = ranks[4, x], ranks[4, x + 1], ranks[4, x + 2], ranks[4, x + 3], ranks[4, x + 4]
            v0, v3 = min(v0, v3), max(v0, v3)
            v1, v4 = min(v1, v4), max(v1, v4)
            v2 = max(v0, v2)
            v3 = max(v1, v3)
            v2, v4 = min(v2, v4), max(v2, v4)
            v3 = max(v2, v3)
            v5, v8 = min(v5, v8), max(v5, v8)
            v5, v7 = min(v5, v7), max(v5, v7)
            v6, v8 = min(v6, v8), max(v6, v8)
            v6 = max(v5, v6)
            v7, v9 = min(v7, v9), max(v7, v9)
            v7 = max(v6, v7)
            v8, v9 = min(v8, v9), max(v8, v9)
            v7, v8 = min(v7, v8), max(v7, v8)
            v10, v13 = min(v10, v13), max(v10, v13)
            v11, v14 = min(v11, v14), max(v11, v14)
            v10, v12 = min(v10, v12), max(v10, v12)
            v11 = max(v10, v11)
            v12, v14 = min(v12, v14), max(v12, v14)
            v11, v12 = min(v11, v12), max(v11, v12)
            v13 = min(v13, v14)
            v15, v18 = min(v15, v18), max(v15, v18)
            v16, v19 = min(v16, v19), max(v16, v19)
            v15, v17 = min(v15, v17), max(v15, v17)
            v15, v16 = min(v15, v16), max(v15, v16)
            v17 = min(v17, v19)
            v16, v17 = min(v16, v17), max(v16, v17)
            v17 = min(v17, v18)
            v20, v23 = min(v20, v23), max(v20, v23)
            v21, v24 = min(v21, v24), max(v21, v24)
            v20, v22 = min(v20, v22), max(v20, v22)
            v21 = min(v21, v23)
            v20, v21 = min(v20, v21), max(v20, v21)
            v22 = min(v22, v24)
            v21 = min(v21, v22)
            v7 = max(v15, v7)
            v11, v3 = min(v11, v3), max(v11, v3)
            v12, v4 = min(v12, v4), max(v12, v4)
            v20, v13 = min(v20, v13), max(v20, v13)
            v16, v8 = min(v16, v8), max(v16, v8)
            v21 = min(v21, v9)
            v7, v3 = min(v7, v3), max(v7, v3)
            v12, v20 = min(v12, v20), max(v12, v20)
            v4 = min(v4, v13)
            v11 = max(v7, v11)
            v4, v20 = min(v4, v20), max(v4, v20)
            v11, v20 = min(v11, v20), max(v11, v20)
            v16, v17 = min(v16, v17), max(v16, v17)
            v12 = max(v11, v12)
            v3, v4 = min(v3, v4), max(v3, v4)
            v21 = min(v21, v17)
            v4, v20 = min(v4, v20), max(v4, v20)
            v8 = min(v8, v21)
            v16 = max(v12, v16)
            v4 = min(v4, v8)
            v4 = max(v3, v4)
            v20 = min(v20, v16)
            v20 = max(v4, v20)
            target[y, x] = v20


@_kernel
def _flow_of_pair(image0, image1, sizes, flow, pool, s):
    """One pair of pictures (H, W) float32 -> flow (2, H, W). `pool`: working memory, its first byte on a cache line."""
    warps, inner_iterations, outer_iterations, tau, lam, theta, epsilon = s
    taut, bound, coupling = f4(tau / theta), f4(lam * theta), f4(theta)
    num_levels = sizes.shape[0]
    pyramid0, pyramid1 = [image0], [image1]
    for level in range(1, num_levels):
        height, width = sizes[level]
        old_height, old_width = sizes[level - 1]
        pyramid0.append(np.empty((height, width), np.float32))
        pyramid1.append(np.empty((height, width), np.float32))
        _resize(pyramid0[level - 1], old_height, old_width, pyramid0[level], height, width, SHRINK, SHRINK, ONE)
        _resize(pyramid1[level - 1], old_height, old_width, pyramid1[level], height, width, SHRINK, SHRINK, ONE)
    coarse1, coarse2 = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
    for level in range(num_levels - 1, -1, -1):
        height, width = sizes[level]
        padded = (width + VECTOR - 1) // VECTOR * VECTOR
        pitch = padded + 2 * LEFT
        size = (height + 1) * pitch
        pool[: 12 * size] = ZERO
        planes = pool[: 12 * size].reshape(12, height + 1, pitch)
        u1, u2, p11, p12, p21, p22 = planes[0], planes[1], planes[2], planes[3], planes[4], planes[5]
        gx, gy, inverse, rho_c, other1, other2 = planes[6], planes[7], planes[8], planes[9], planes[10], planes[11]
        inside = np.zeros(padded, np.float32)
        inside[:width] = ONE
        fours = np.empty((height + 2 * EDGE, width + 2 * EDGE, 4), np.float32)
        _interleave(pyramid1[level], height, width, fours)
        if level < num_levels - 1:
            old_height, old_width = sizes[level + 1]
            step_y, step_x = old_height / height, old_width / width
            _resize(coarse1, old_height, old_width, u1, height, width, step_y, step_x, f4(SHRINK))
            _resize(coarse2, old_height, old_width, u2, height, width, step_y, step_x, f4(SHRINK))
        limit = epsilon * epsilon * height * width
        for _ in range(warps):
            _warp(fours, pyramid0[level], u1, u2, gx, gy, inverse, rho_c, height, width)
            change = np.inf
            for _ in range(outer_iterations):
                if change <= limit:
                    break
                _median(u1, other1, height, width)
                _median(u2, other2, height, width)
                u1, other1 = other1, u1
                u2, other2 = other2, u2
                for _ in range(inner_iterations):
                    change = _iterate(
                        u1, u2, p11, p12, p21, p22, gx, gy, inverse, rho_c, inside, height, width, coupling, bound, taut
                    )
                    if change <= limit:
                        break
        coarse1, coarse2 = u1[:height, :width].copy(), u2[:height, :width].copy()
    flow[0] = coarse1
    flow[1] = coarse2


def _working_memory(height: int, width: int) -> Array:
    """Twelve planes, starting on a cache line."""
    pitch = math.ceil(width / VECTOR) * VECTOR + 2 * LEFT
    size = 12 * (height + 1) * pitch
    pool = np.empty(size + VECTOR, np.float32)
    start = -(pool.ctypes.data // 4) % VECTOR
    return pool[start : start + size]


def tvl1_numba(first: Array, second: Array, settings: TVL1Settings, num_threads: int | None = None) -> Array:
    """Grey pairs (N, H, W) float32, 0..255 -> flow (N, 2, H, W) float32. See `tvl1.tvl1`."""
    num_pairs, height, width = first.shape
    flow = np.empty((num_pairs, 2, height, width), np.float32)
    s = settings
    sizes = np.array(pyramid_sizes(height, width, s.num_scales), dtype=np.int64)
    numbers = (s.warps, s.inner_iterations, s.outer_iterations, s.tau, s.lam, s.theta, s.epsilon)
    numbers = (*numbers[:3], *map(float, numbers[3:]))
    next_pair = count()  # shared by the threads: next() on it is atomic

    def work() -> None:
        pool = _working_memory(height, width)
        while (pair := next(next_pair)) < num_pairs:
            _flow_of_pair(first[pair], second[pair], sizes, flow[pair], pool, numbers)

    num_threads = min(num_threads or torch.get_num_threads(), num_pairs)
    if num_threads == 1:
        work()
    else:
        with ThreadPoolExecutor(num_threads) as threads:
            for done in [threads.submit(work) for _ in range(num_threads)]:
                done.result()
    return flow
