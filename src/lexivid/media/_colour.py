"""One decoded frame -> RGB (H, W, 3) uint8 as an ordinary screen shows it, whatever its colours are coded in.

Most frames are one call of FFmpeg's scaler. The others:

- Matrices that the scaler refuses (since FFmpeg 8). YCgCo is computed here (ITU-T H.273, equations 23 to 30 and, for
  YCgCo-R, 47 to 54); ICtCp, constant luminance and the like are read as their nearest relative, which `approximation`
  says.
- HDR (PQ and HLG: ITU-R BT.2100) becomes SDR: light in nits, primaries of BT.709, highlights above what a screen has
  rolled off by the EETF of ITU-R BT.2390 (section 5.4.1), from 1000 nits to a white of 203 (BT.2408), then the
  gamma of 2.4 of BT.1886.
- Primaries wider than those of BT.709 (BT.2020, P3) become those.
- Pictures with alpha are laid on a background: a colour that is hidden stays hidden.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from lexivid.errors import MediaError

# Numbers of ITU-T H.273. Matrices that FFmpeg's scaler converts:
_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
_YCGCO, _YCGCO_RE, _YCGCO_RO = 8, 16, 17
_DERIVED = {12, 13}  # the matrix follows from the primaries
_MATRIX_NAMES = {
    10: "BT.2020 with constant luminance",
    11: "Y'D'zD'x",
    13: "constant luminance after its primaries",
    14: "ICtCp",
    15: "IPT-C2",
}
_MATRIX_OF_PRIMARIES = {1: 1, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9}
_PQ, _HLG = 16, 18
_BT2020, _DCI_P3, _DISPLAY_P3 = 9, 11, 12

# Linear light of other primaries -> that of BT.709 (each from the primaries' coordinates, white D65).
_TO_BT709 = {
    _BT2020: [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    _DISPLAY_P3: [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]],
}
_TO_BT709[_DCI_P3] = _TO_BT709[_DISPLAY_P3]
_LUMA_BT2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)

_SOURCE_NITS = 1000.0  # what HDR is mastered for, and HLG's nominal peak
_WHITE_NITS = 203.0  # of a sheet of paper in an HDR picture (BT.2408): the white of SDR
_GAMMA = 2.4
_ROWS_AT_ONCE = 1 << 18  # pixels that stay in the processor's cache

# FFmpeg's scaler ends the program on these.
_UNSAFE = frozenset({"yaf32be", "yaf32le"})


@cache
def has_alpha(pixel_format: str) -> bool:
    """Whether pictures of this format may have parts that do not show."""
    described = VideoFormat(pixel_format)
    return described.has_palette or any(component.is_alpha for component in described.components)


def is_plain(frame: VideoFrame) -> bool:
    """Whether the frame's colours are those of an ordinary screen, and FFmpeg's scaler converts them."""
    return (
        frame.colorspace in _MATRICES
        and frame.color_trc not in (_PQ, _HLG)
        and frame.color_primaries not in _TO_BT709
        and frame.color_range < 3
        and not has_alpha(frame.format.name)
        and frame.format.name not in _UNSAFE
    )


def approximation(frame: VideoFrame) -> str | None:
    """What the user should be told about the frame's colours: one sentence, or None."""
    if frame.colorspace in _MATRICES or frame.format.is_rgb:
        return None
    name = _MATRIX_NAMES.get(frame.colorspace)
    if name is None or (frame.colorspace in _DERIVED and frame.colorspace != 13):
        return None
    return f"its colours are coded as {name}, and are shown by an approximation"


def rgb_of(frame: VideoFrame, width: int, height: int, *, background: int | None = 0) -> np.ndarray:
    """The frame scaled to a size, RGB (height, width, 3) uint8.

    Args:
        background: grey value behind a picture with alpha; None: it counts as opaque.

    Raises:
        MediaError: the format of its pixels cannot be converted.
    """
    if is_plain(frame):
        return _reformatted(frame, width, height, "rgb24")
    wide = frame.color_primaries in _TO_BT709 or frame.color_trc in (_PQ, _HLG)
    if wide:
        picture = _to_sdr(_deep(frame, width, height), frame.color_trc, frame.color_primaries)
    elif _is_ycgco(frame):
        picture = ((_deep(frame, width, height).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    else:
        picture = _scaled(frame, width, height, "rgb24")
    if background is None or not has_alpha(frame.format.name):
        return picture
    alpha = _scaled(frame, width, height, "rgba")[..., 3:].astype(np.uint16)
    if int(alpha.min()) == 255:
        return picture
    return ((picture * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)


def _reformatted(frame: VideoFrame, width: int, height: int, pixel_format: str, **matrices: int) -> np.ndarray:
    """The frame through FFmpeg's scaler."""
    try:
        made = frame.reformat(width=width, height=height, format=pixel_format, interpolation="BICUBIC", **matrices)
    except (OSError, ValueError):
        raise MediaError(_cannot_convert(frame.format.name)) from None
    return made.to_ndarray()


def _scaled(frame: VideoFrame, width: int, height: int, pixel_format: str, *, matrix: int | None = None) -> np.ndarray:
    """The same, after tags that the scaler refuses were replaced by their nearest relatives."""
    name = frame.format.name
    if name in _UNSAFE:
        raise MediaError(_cannot_convert(name))
    tagged = frame.colorspace, frame.color_range
    try:
        frame.colorspace = _nearest_matrix(frame) if matrix is None else matrix
        if frame.color_range > 2:
            frame.color_range = 0
        same = {} if matrix is None else {"src_colorspace": matrix, "dst_colorspace": matrix}
        return _reformatted(frame, width, height, pixel_format, **same)
    finally:
        frame.colorspace, frame.color_range = tagged


def _cannot_convert(pixel_format: str) -> str:
    return (
        f"its pixels are stored as {pixel_format}, which FFmpeg cannot convert; "
        "convert it first: ffmpeg -i FILE -pix_fmt yuv420p OUT.mp4"
    )


def _nearest_matrix(frame: VideoFrame) -> int:
    matrix = frame.colorspace
    if matrix in _MATRICES:
        return matrix
    if frame.format.is_rgb:
        return 0
    if matrix in _DERIVED:
        return _MATRIX_OF_PRIMARIES.get(frame.color_primaries, 2)
    return 9 if matrix in _MATRIX_NAMES else 2


def _is_ycgco(frame: VideoFrame) -> bool:
    coded = frame.colorspace in (_YCGCO, _YCGCO_RE, _YCGCO_RO)
    return coded and not frame.format.is_rgb and len(frame.format.components) >= 3


def _deep(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    """RGB as coded, (height, width, 3) uint16."""
    if not _is_ycgco(frame):
        return _scaled(frame, width, height, "rgb48le")
    planes = _scaled(frame, width, height, "yuv444p16le", matrix=1).astype(np.float32)
    coded: list[np.ndarray] = [planes[..., channel] for channel in range(3)]
    y, cg, co = coded
    if frame.color_range == 2:
        y, cg, co = y / 65535, (cg - 32768) / 65535, (co - 32768) / 65535
    else:
        y, cg, co = (y - 4096) / 56064, (cg - 32768) / 57344, (co - 32768) / 57344
    if frame.colorspace == _YCGCO:
        base = y - cg
        red, green, blue = base + co, y + cg, base - co
    else:  # two bits more than the picture that it stands for, or one
        base = y - cg / 2
        green, blue = cg + base, base - co / 2
        red = co + blue
        scale = 4 if frame.colorspace == _YCGCO_RE else 2
        red, green, blue = red * scale, green * scale, blue * scale
    rgb = np.stack((red, green, blue), axis=-1)
    return (np.clip(rgb, 0, 1) * 65535 + 0.5).astype(np.uint16)


# ---- light


def _pq_nits(code: np.ndarray) -> np.ndarray:
    """BT.2100's EOTF of PQ: 0..1 -> nits."""
    root = np.power(code, 32 / 2523)
    return 10000 * np.power(np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root), 16384 / 2610)


def _pq_code(nits: np.ndarray) -> np.ndarray:
    """Its inverse."""
    root = np.power(nits / 10000, 2610 / 16384)
    return np.power((107 / 128 + 2413 / 128 * root) / (1 + 2392 / 128 * root), 2523 / 32)


def _rolled_off(nits: np.ndarray) -> np.ndarray:
    """BT.2390's EETF: what stands for this much light on a screen whose white is `_WHITE_NITS`."""
    top = _pq_code(np.array(_SOURCE_NITS))
    given = np.minimum(_pq_code(nits) / top, 1)
    most = _pq_code(np.array(_WHITE_NITS)) / top
    knee = 1.5 * most - 0.5
    t = np.maximum((given - knee) / (1 - knee), 0)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return _pq_nits(np.where(given < knee, given, curve) * top)


@cache
def _light_table(transfer: int) -> np.ndarray:
    """A code of 16 bits -> light, 1 = the white of SDR; of HLG the scene's, 0..1."""
    code = np.arange(65536) / 65535
    if transfer == _PQ:
        light = _pq_nits(code) / _WHITE_NITS
    elif transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:
        light = code**_GAMMA
    return light.astype(np.float32)


_STEPS = 4095


@cache
def _gain_table() -> np.ndarray:
    """By the fourth root of a pixel's strongest light, 0..10000 nits: by how much all of its light is multiplied."""
    nits = 10000 * (np.arange(1, _STEPS + 2) / (_STEPS + 1)) ** 4
    gain = _rolled_off(nits) / nits
    return gain.astype(np.float32)


@cache
def _code_table() -> np.ndarray:
    """By the square root of light, 0..1: the code of 8 bits."""
    return np.round(255 * (np.arange(65536) / 65535) ** (2 / _GAMMA)).astype(np.uint8)


def _to_sdr(picture: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """RGB (H, W, 3) uint16 as coded -> uint8 for a screen with the primaries of BT.709."""
    height, width, _ = picture.shape
    out = np.empty((height, width, 3), np.uint8)
    light_of, codes, gains = _light_table(transfer), _code_table(), _gain_table()
    hdr = transfer in (_PQ, _HLG)
    matrix = _TO_BT709.get(primaries, _TO_BT709[_BT2020] if hdr and primaries == 2 else None)
    to_bt709 = np.array(matrix, np.float32).T if matrix is not None else None
    rows = max(_ROWS_AT_ONCE // width, 1)
    for start in range(0, height, rows):
        light = light_of.take(picture[start : start + rows])  # (rows, W, 3)
        if transfer == _HLG:  # the scene's light -> the screen's (BT.2100's OOTF at 1000 nits)
            light *= np.power(light @ _LUMA_BT2020, 0.2)[..., None] * (_SOURCE_NITS / _WHITE_NITS)
        if to_bt709 is not None:
            light = np.maximum(light @ to_bt709, 0)
        if hdr:
            strongest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
            place = np.sqrt(np.sqrt(strongest * (_WHITE_NITS / 10000)))
            light *= gains.take(np.minimum(place * _STEPS, _STEPS).astype(np.int32))[..., None]
        np.minimum(light, 1, out=light)
        out[start : start + rows] = codes.take((np.sqrt(light) * 65535).astype(np.int32))
    return out
