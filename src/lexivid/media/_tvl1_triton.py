"""TV-L1 on a CUDA GPU: the algorithm of `tvl1.py` as fused Triton kernels over a batch of pairs.

- An iteration is two kernels, `_primal` (u) and `_dual` (p), in place: about 84 bytes a pixel, where eager PyTorch
  moves 464 in 27 kernels. Every program handles BLOCK pixels of one pair.
- Each program of `_primal` leaves its part of the squared change; the next iteration's programs add the parts up, in
  fixed order, and do nothing where a pair has stopped. So each pair stops exactly when it should, whatever the batch.
- The host looks only every LOOK_EVERY iterations, and launches no more programs for pairs that have stopped.

Without a GPU, TRITON_INTERPRET=1 runs the same kernels on the CPU, slowly: that is how the tests check them.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from lexivid.errors import LexividError
from lexivid.media.tvl1 import GRADIENT_IS_ZERO, SCALE_STEP, TVL1Settings, _central_gradient, _resize, pyramid_sizes

BLOCK = 1024
WINDOW_BLOCK = (
    256  # where a pixel needs 25 or 16 neighbours at once: few pixels a thread, so that they stay in registers
)
LOOK_EVERY = 8
PAIRS_AT_ONCE = 1024
BYTES_PER_PIXEL = 160
"""Working memory of a pair: pyramids, planes, u, p, the warped gradient, with what PyTorch needs in passing."""

CUBIC = tl.constexpr(-0.75)
FLAT = tl.constexpr(GRADIENT_IS_ZERO)


@triton.jit
def _still_running(change, pair, num_tiles, limit, TILES: tl.constexpr):
    """Whether the pair's last squared change, in `num_tiles` parts, is above the limit."""
    tile = tl.arange(0, TILES)
    return tl.sum(tl.load(change + pair * num_tiles + tile, mask=tile < num_tiles, other=0.0), axis=0) > limit


@triton.jit
def _primal(
    u, p, grad, rho_c, live, before, now, running, height, width, limit, theta, bound,
    TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """u of one iteration, in place (formulas 2, 3, 4 of `tvl1.py`), and this tile's part of its squared change."""
    tile = tl.program_id(0)
    num_tiles = tl.num_programs(0)
    pair = tl.load(live + tl.program_id(1)).to(tl.int64)
    going = _still_running(before, pair, num_tiles, limit, TILES)
    if tile == 0:
        tl.store(running + pair, going.to(tl.int32))
    if going:
        size = height * width
        at = tile * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        left = inside & (at % width > 0)
        above = inside & (at >= width)
        u_at = u + pair * 2 * size + at
        p_at = p + pair * 4 * size + at
        grad_at = grad + pair * 2 * size + at
        a = tl.load(u_at, mask=inside, other=0.0)
        b = tl.load(u_at + size, mask=inside, other=0.0)
        g = tl.load(grad_at, mask=inside, other=0.0)
        h = tl.load(grad_at + size, mask=inside, other=0.0)
        rho = tl.load(rho_c + pair * size + at, mask=inside, other=0.0) + g * a + h * b
        norm = g * g + h * h
        step = tl.minimum(tl.maximum(-rho / tl.where(norm > FLAT, norm, 1.0), -bound), bound)
        step = tl.where(norm > FLAT, step, 0.0)
        div1 = tl.load(p_at, mask=inside, other=0.0) - tl.load(p_at - 1, mask=left, other=0.0)
        div1 += tl.load(p_at + size, mask=inside, other=0.0) - tl.load(p_at + size - width, mask=above, other=0.0)
        div2 = tl.load(p_at + 2 * size, mask=inside, other=0.0) - tl.load(p_at + 2 * size - 1, mask=left, other=0.0)
        div2 += tl.load(p_at + 3 * size, mask=inside, other=0.0) - tl.load(
            p_at + 3 * size - width, mask=above, other=0.0
        )
        da = step * g + theta * div1
        db = step * h + theta * div2
        tl.store(u_at, a + da, mask=inside)
        tl.store(u_at + size, b + db, mask=inside)
        part = tl.sum(tl.where(inside, da * da + db * db, 0.0), axis=0)
        tl.store(now + pair * num_tiles + tile, part)
    else:  # stopped: stays so
        tl.store(now + pair * num_tiles + tile, tl.load(before + pair * num_tiles + tile))


@triton.jit
def _dual(u, p, live, before, height, width, limit, taut, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """p of one iteration, in place (formula 5), from the new u."""
    tile = tl.program_id(0)
    pair = tl.load(live + tl.program_id(1)).to(tl.int64)
    if _still_running(before, pair, tl.num_programs(0), limit, TILES):
        size = height * width
        at = tile * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        right = inside & (at % width < width - 1)
        below = at + width < size
        for component in tl.static_range(2):
            here = u + (pair * 2 + component) * size + at
            px = p + (pair * 4 + component * 2) * size + at
            value = tl.load(here, mask=inside, other=0.0)
            gx = tl.where(right, tl.load(here + 1, mask=right, other=0.0) - value, 0.0)
            gy = tl.where(below, tl.load(here + width, mask=below, other=0.0) - value, 0.0)
            shrink = 1.0 / (1.0 + taut * tl.sqrt(gx * gx + gy * gy))
            tl.store(px, (tl.load(px, mask=inside, other=0.0) + taut * gx) * shrink, mask=inside)
            py = px + size
            tl.store(py, (tl.load(py, mask=inside, other=0.0) + taut * gy) * shrink, mask=inside)


@triton.jit
def _tap_weight(k: tl.constexpr, t):
    """Cubic convolution (Keys 1981) with a = -0.75: the weight of tap k of four at fraction t."""
    if k == 0 or k == 3:
        d = 1.0 + t if k == 0 else 2.0 - t
        weight = ((CUBIC * d - 5.0 * CUBIC) * d + 8.0 * CUBIC) * d - 4.0 * CUBIC
    else:
        d = t if k == 1 else 1.0 - t
        weight = ((CUBIC + 2.0) * d - (CUBIC + 3.0)) * d * d + 1.0
    return weight


@triton.jit
def _warp(planes, image0, u, grad, rho_c, height, width, BLOCK: tl.constexpr):
    """Picture and gradient at x + u, and the residual's constant part (tvl1._warp)."""
    pair = tl.program_id(1).to(tl.int64)
    size = height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    a = tl.load(u + pair * 2 * size + at, mask=inside, other=0.0)
    b = tl.load(u + pair * 2 * size + size + at, mask=inside, other=0.0)
    # Beyond, all taps are outside and count as zero.
    x = tl.minimum(tl.maximum((at % width).to(tl.float32) + a, -3.0), width + 2.0)
    y = tl.minimum(tl.maximum((at // width).to(tl.float32) + b, -3.0), height + 2.0)
    left = tl.floor(x)
    top = tl.floor(y)
    planes += pair * 3 * size
    value = tl.zeros([BLOCK], tl.float32)
    g = tl.zeros([BLOCK], tl.float32)
    h = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(4):
        row = top.to(tl.int32) + (j - 1)
        wy = _tap_weight(j, y - top)
        for i in tl.static_range(4):
            column = left.to(tl.int32) + (i - 1)
            weight = wy * _tap_weight(i, x - left)
            seen = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            tap = planes + row * width + column
            value += weight * tl.load(tap, mask=seen, other=0.0)
            g += weight * tl.load(tap + size, mask=seen, other=0.0)
            h += weight * tl.load(tap + 2 * size, mask=seen, other=0.0)
    tl.store(grad + pair * 2 * size + at, g, mask=inside)
    tl.store(grad + pair * 2 * size + size + at, h, mask=inside)
    constant = value - g * a - h * b - tl.load(image0 + pair * size + at, mask=inside, other=0.0)
    tl.store(rho_c + pair * size + at, constant, mask=inside)


@triton.jit
def _sorted_column(plane, row0, row1, row2, row3, row4, column, inside):
    a = tl.load(plane + row0 + column, mask=inside, other=0.0)
    b = tl.load(plane + row1 + column, mask=inside, other=0.0)
    c = tl.load(plane + row2 + column, mask=inside, other=0.0)
    d = tl.load(plane + row3 + column, mask=inside, other=0.0)
    e = tl.load(plane + row4 + column, mask=inside, other=0.0)
    a, d = tl.minimum(a, d), tl.maximum(a, d)
    b, e = tl.minimum(b, e), tl.maximum(b, e)
    a, c = tl.minimum(a, c), tl.maximum(a, c)
    b, d = tl.minimum(b, d), tl.maximum(b, d)
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    c, e = tl.minimum(c, e), tl.maximum(c, e)
    b, c = tl.minimum(b, c), tl.maximum(b, c)
    d, e = tl.minimum(d, e), tl.maximum(d, e)
    c, d = tl.minimum(c, d), tl.maximum(c, d)
    return a, b, c, d, e


@triton.jit
def _median(u, target, live, change, num_tiles, height, width, limit, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """The exact 5 x 5 median of both components, where a pair is running (_median.median_5x5)."""
    tile = tl.program_id(0)
    pair = tl.load(live + tl.program_id(1) // 2).to(tl.int64)
    if _still_running(change, pair, num_tiles, limit, TILES):
        size = height * width
        at = tile * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        plane = u + (pair * 2 + tl.program_id(1) % 2) * size
        x = at % width
        y = at // width
        row0 = tl.maximum(y - 2, 0) * width
        row1 = tl.maximum(y - 1, 0) * width
        row2 = y * width
        row3 = tl.minimum(y + 1, height - 1) * width
        row4 = tl.minimum(y + 2, height - 1) * width
        v0, v5, v10, v15, v20 = _sorted_column(plane, row0, row1, row2, row3, row4, tl.maximum(x - 2, 0), inside)
        v1, v6, v11, v16, v21 = _sorted_column(plane, row0, row1, row2, row3, row4, tl.maximum(x - 1, 0), inside)
        v2, v7, v12, v17, v22 = _sorted_column(plane, row0, row1, row2, row3, row4, x, inside)
        v3, v8, v13, v18, v23 = _sorted_column(
            plane, row0, row1, row2, row3, row4, tl.minimum(x + 1, width - 1), inside
        )
        v4, v9, v14, v19, v24 = _sorted_column(
            plane, row0, row1, row2, row3, row4, tl.minimum(x + 2, width - 1), inside
        )
        v0, v3 = tl.minimum(v0, v3), tl.maximum(v0, v3)
        v1, v4 = tl.minimum(v1, v4), tl.maximum(v1, v4)
        v2 = tl.maximum(v0, v2)
        v3 = tl.maximum(v1, v3)
        v2, v4 = tl.minimum(v2, v4), tl.maximum(v2, v4)
        v3 = tl.maximum(v2, v3)
        v5, v8 = tl.minimum(v5, v8), tl.maximum(v5, v8)
        v5, v7 = tl.minimum(v5, v7), tl.maximum(v5, v7)
        v6, v8 = tl.minimum(v6, v8), tl.maximum(v6, v8)
        v6 = tl.maximum(v5, v6)
        v7, v9 = tl.minimum(v7, v9), tl.maximum(v7, v9)
        v7 = tl.maximum(v6, v7)
        v8, v9 = tl.minimum(v8, v9), tl.maximum(v8, v9)
        v7, v8 = tl.minimum(v7, v8), tl.maximum(v7, v8)
        v10, v13 = tl.minimum(v10, v13), tl.maximum(v10, v13)
        v11, v14 = tl.minimum(v11, v14), tl.maximum(v11, v14)
        v10, v12 = tl.minimum(v10, v12), tl.maximum(v10, v12)
        v11 = tl.maximum(v10, v11)
        v12, v14 = tl.minimum(v12, v14), tl.maximum(v12, v14)
        v11, v12 = tl.minimum(v11, v12), tl.maximum(v11, v12)
        v13 = tl.minimum(v13, v14)
        v15, v18 = tl.minimum(v15, v18), tl.maximum(v15, v18)
        v16, v19 = tl.minimum(v16, v19), tl.maximum(v16, v19)
        v15, v17 = tl.minimum(v15, v17), tl.maximum(v15, v17)
        v15, v16 = tl.minimum(v15, v16), tl.maximum(v15, v16)
        v17 = tl.minimum(v17, v19)
        v16, v17 = tl.minimum(v16, v17), tl.maximum(v16, v17)
        v17 = tl.minimum(v17, v18)
        v20, v23 = tl.minimum(v20, v23), tl.maximum(v20, v23)
        v21, v24 = tl.minimum(v21, v24), tl.maximum(v21, v24)
        v20, v22 = tl.minimum(v20, v22), tl.maximum(v20, v22)
        v21 = tl.minimum(v21, v23)
        v20, v21 = tl.minimum(v20, v21), tl.maximum(v20, v21)
        v22 = tl.minimum(v22, v24)
        v21 = tl.minimum(v21, v22)
        v7 = tl.maximum(v15, v7)
        v11, v3 = tl.minimum(v11, v3), tl.maximum(v11, v3)
        v12, v4 = tl.minimum(v12, v4), tl.maximum(v12, v4)
        v20, v13 = tl.minimum(v20, v13), tl.maximum(v20, v13)
        v16, v8 = tl.minimum(v16, v8), tl.maximum(v16, v8)
        v21 = tl.minimum(v21, v9)
        v7, v3 = tl.minimum(v7, v3), tl.maximum(v7, v3)
        v12, v20 = tl.minimum(v12, v20), tl.maximum(v12, v20)
        v4 = tl.minimum(v4, v13)
        v11 = tl.maximum(v7, v11)
        v4, v20 = tl.minimum(v4, v20), tl.maximum(v4, v20)
        v11, v20 = tl.minimum(v11, v20), tl.maximum(v11, v20)
        v16, v17 = tl.minimum(v16, v17), tl.maximum(v16, v17)
        v12 = tl.maximum(v11, v12)
        v3, v4 = tl.minimum(v3, v4), tl.maximum(v3, v4)
        v21 = tl.minimum(v21, v17)
        v4, v20 = tl.minimum(v4, v20), tl.maximum(v4, v20)
        v8 = tl.minimum(v8, v21)
        v16 = tl.maximum(v12, v16)
        v4 = tl.minimum(v4, v8)
        v4 = tl.maximum(v3, v4)
        v20 = tl.minimum(v20, v16)
        v20 = tl.maximum(v4, v20)
        tl.store(target + (pair * 2 + tl.program_id(1) % 2) * size + at, v20, mask=inside)


@triton.jit
def _take(u, source, live, change, height, width, limit, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """u = source, where a pair is running."""
    tile = tl.program_id(0)
    pair = tl.load(live + tl.program_id(1)).to(tl.int64)
    if _still_running(change, pair, tl.num_programs(0), limit, TILES):
        size = height * width
        at = tile * BLOCK + tl.arange(0, BLOCK)
        for component in tl.static_range(2):
            here = (pair * 2 + component) * size + at
            tl.store(u + here, tl.load(source + here, mask=at < size, other=0.0), mask=at < size)


def _solve(u: Tensor, p: Tensor, scratch: Tensor, grad: Tensor, rho_c: Tensor, s: TVL1Settings) -> None:
    """Iterate between two warps until each pair's flow stands still (tvl1._solve); u and p in place."""
    num_pairs, _, height, width = u.shape
    num_tiles = triton.cdiv(height * width, BLOCK)
    shape = {"TILES": triton.next_power_of_2(num_tiles), "BLOCK": BLOCK}
    limit = s.epsilon**2 * height * width
    before, now = torch.full((2, num_pairs, num_tiles), float("inf"), device=u.device)
    running = torch.ones(num_pairs, dtype=torch.int32, device=u.device)
    live = torch.arange(num_pairs, dtype=torch.int32, device=u.device)
    steps = 0
    for _ in range(s.outer_iterations):
        grid = (triton.cdiv(height * width, WINDOW_BLOCK), 2 * len(live))
        _median[grid](
            u, scratch, live, before, num_tiles, height, width, limit, TILES=shape["TILES"], BLOCK=WINDOW_BLOCK
        )
        _take[(num_tiles, len(live))](u, scratch, live, before, height, width, limit, **shape)
        for _ in range(s.inner_iterations):
            grid = (num_tiles, len(live))
            _primal[grid](
                u, p, grad, rho_c, live, before, now, running, height, width, limit, s.theta, s.lam * s.theta, **shape
            )
            _dual[grid](u, p, live, before, height, width, limit, s.tau / s.theta, **shape)
            before, now = now, before
            steps += 1
            if steps % LOOK_EVERY == 0:
                live = live[running[live.long()] > 0]
                if not len(live):
                    return


def _flow_of_batch(first: Tensor, second: Tensor, s: TVL1Settings) -> Tensor:
    sizes = pyramid_sizes(first.shape[-2], first.shape[-1], s.num_scales)
    pyramid = [(first, second)]
    for size in sizes[1:]:
        shrink = (1 / SCALE_STEP, 1 / SCALE_STEP)
        pyramid.append((_resize(pyramid[-1][0], size, shrink), _resize(pyramid[-1][1], size, shrink)))
    u = first.new_zeros(len(first), 2, *sizes[-1])
    while pyramid:
        image0, image1 = (image.contiguous() for image in pyramid.pop())
        num_pairs, height, width = image0.shape
        if u.shape[-2:] != (height, width):
            u = _resize(u, (height, width), (u.shape[-2] / height, u.shape[-1] / width)) / SCALE_STEP
        u = u.contiguous()
        planes = torch.cat((image1[:, None], _central_gradient(image1)), dim=1)
        p = u.new_zeros(num_pairs, 4, height, width)
        scratch, grad, rho_c = torch.empty_like(u), torch.empty_like(u), torch.empty_like(image0)
        for _ in range(s.warps):
            grid = (triton.cdiv(height * width, WINDOW_BLOCK), num_pairs)
            _warp[grid](planes, image0, u, grad, rho_c, height, width, BLOCK=WINDOW_BLOCK)
            _solve(u, p, scratch, grad, rho_c, s)
    return u


def tvl1_triton(first: Tensor, second: Tensor, settings: TVL1Settings) -> Tensor:
    """Grey pairs (N, H, W) float32, 0..255, on a CUDA device -> flow (N, 2, H, W). See `tvl1.tvl1`.

    As many pairs at once as fit half the free memory, at most PAIRS_AT_ONCE; the flow does not depend on how many.

    Raises:
        LexividError: the pictures are not on a CUDA device (and Triton does not interpret).
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if first.device.type != "cuda" and not interpreted:
        raise LexividError(f'method="triton" needs a CUDA device, not {first.device}: pass device="cuda"')
    at_once = PAIRS_AT_ONCE
    if first.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(first.device)
        at_once = max(1, min(at_once, free // 2 // (BYTES_PER_PIXEL * first.shape[1] * first.shape[2])))
    flow = first.new_empty(len(first), 2, *first.shape[-2:])
    with torch.inference_mode(), torch.cuda.device(first.device if first.device.type == "cuda" else -1):
        for start in range(0, len(first), at_once):
            batch = slice(start, start + at_once)
            flow[batch] = _flow_of_batch(first[batch], second[batch], settings)
    return flow
