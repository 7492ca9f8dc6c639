"""Which moments are looked at: by hand, and as properties over all lengths and rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexivid.errors import LexividError
from lexivid.media.views import Views, ViewsAsked


def frames_of(times: np.ndarray, rate: float) -> list[list[int]]:
    """The frame on show at each time in a file of constant rate whose timestamps are exact."""
    return np.floor(times * rate).astype(int).tolist()


def test_spread_looks_at_the_middle_of_equal_parts() -> None:
    times = Views(num_frames=4).times_s(8.0, 25.0)
    assert times.shape == (1, 4)
    # 1, 3, 5, 7 s, each moved to the middle of the frame that begins there
    np.testing.assert_allclose(times, [[1.02, 3.02, 5.02, 7.02]])


def test_spread_over_as_many_frames_as_asked_takes_each_once() -> None:
    assert frames_of(Views(num_frames=16).times_s(16 / 30, 30.0), 30.0) == [list(range(16))]
    assert frames_of(Views(num_frames=16).times_s(32 / 30, 30.0), 30.0) == [list(range(1, 32, 2))]


def test_several_spread_clips_share_the_file_between_them() -> None:
    four, one = Views(num_frames=4, num_clips=4).times_s(80.0, 10.0), Views(num_frames=16).times_s(80.0, 10.0)
    np.testing.assert_allclose(four.ravel(), one.ravel())


def test_paper_views_begin_with_the_file_and_end_with_it() -> None:
    # 16 frames with stride 4 span 61 frames; 300 frames leave starts from 0 to 239.
    views = Views.parse("4x3", stride_rate="native")
    assert (views.num_clips, views.num_crops, views.stride, views.num_frames) == (4, 3, 4, 16)
    found = frames_of(views.times_s(10.0, 30.0), 30.0)
    assert [clip[0] for clip in found] == [0, 79, 159, 239]
    assert all(clip == list(range(clip[0], clip[0] + 61, 4)) for clip in found)
    assert found[-1][-1] == 299


def test_one_clip_is_centred() -> None:
    found = frames_of(Views(stride=4, stride_rate="native").times_s(10.0, 30.0), 30.0)
    assert (found[0][0], found[0][-1]) == (119, 179)


@pytest.mark.parametrize(("rate", "step"), [(30.0, 4), (30000 / 1001, 4), (60.0, 8), (120.0, 16)])
def test_stride_counts_at_30_whatever_the_rate_of_the_file(rate: float, step: int) -> None:
    found = frames_of(Views(stride=4).times_s(20.0, rate), rate)
    assert set(np.diff(found[0])) == {step}


def test_stride_at_a_rate_that_does_not_divide() -> None:
    times = Views(stride=4).times_s(20.0, 25.0)
    assert abs((times[0, -1] - times[0, 0]) - 60 / 30) <= 1 / 25
    assert set(np.diff(frames_of(times, 25.0)[0])) <= {3, 4}


def test_native_stride_counts_the_frames_of_the_file() -> None:
    found = frames_of(Views(stride=4, stride_rate="native").times_s(20.0, 60.0), 60.0)
    assert set(np.diff(found[0])) == {4}


def test_a_file_shorter_than_a_clip_is_seen_whole() -> None:
    found = frames_of(Views(num_clips=2, stride=4, stride_rate="native").times_s(8 / 30, 30.0), 30.0)
    assert found == [[k // 2 for k in range(16)]] * 2


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_a_length_that_is_not_known_gives_the_first_frame(duration: float) -> None:
    assert Views(num_clips=2, stride=4).times_s(duration, 30.0).tolist() == [[0.0] * 16] * 2


@pytest.mark.parametrize(
    "text", ["0x3", "3x0", "4", "axb", "", "4x", "x3", "-1x3", "4x3x2", "4.5x3", "4 x 3", "é", "9" * 99]
)
def test_views_that_cannot_be_read(text: str) -> None:
    with pytest.raises(LexividError, match=r"views '.*' cannot be read: give .spread., or CLIPSxCROPS") as error:
        Views.parse(text)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["999999x3", "4x100"])
def test_views_out_of_range(text: str) -> None:
    with pytest.raises(LexividError, match="must be a whole number from 1 to"):
        Views.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [{"num_frames": 0}, {"num_frames": 10**9}, {"num_clips": -1}, {"num_crops": True}, {"stride": 0}]
    + [{"stride_rate": rate} for rate in (0.0, float("nan"), float("inf"), -30.0, "naive")],
)
def test_numbers_out_of_range(wrong: dict) -> None:
    with pytest.raises(LexividError, match="views: "):
        Views(**wrong)


@pytest.mark.parametrize(
    ("name", "least", "most", "step"),
    [("num_frames", 1, 1024, 1), ("num_clips", 1, 1000, 1), ("num_crops", 1, 9, 1), ("stride", 1, 1000, 1),
     ("stride_rate", 0.01, 1000.0, 0.001)],
)  # fmt: skip
def test_the_limits_themselves_are_allowed(name: str, least: float, most: float, step: float) -> None:
    for value in (least, most):
        assert getattr(Views(**{name: value}), name) == value
    for value in (least - step, most + step):
        with pytest.raises(LexividError, match="views: "):
            Views(**{name: value})


@pytest.mark.parametrize("rate", [0.0, -25.0, float("nan"), float("inf")])
@pytest.mark.parametrize("views", [Views(num_frames=5), Views(num_frames=5, stride=4, stride_rate="native")])
def test_a_rate_that_is_not_known_counts_as_30(views: Views, rate: float) -> None:
    np.testing.assert_array_equal(views.times_s(10.0, rate), views.times_s(10.0, 30.0))


def test_a_file_as_long_as_a_clip_is_seen_in_strides_and_one_frame_less_spread() -> None:
    views = Views(num_frames=4, stride=4, stride_rate="native")  # 13 frames
    assert frames_of(views.times_s(13 / 25, 25.0), 25.0) == [[0, 4, 8, 12]]
    assert frames_of(views.times_s(12 / 25, 25.0), 25.0) == [[1, 4, 7, 10]]
    assert frames_of(views.times_s(14 / 25, 25.0), 25.0) == [[0, 4, 8, 12]]
    assert frames_of(views.times_s(15 / 25, 25.0), 25.0) == [[1, 5, 9, 13]]
    assert frames_of(Views(num_frames=1, stride=4, stride_rate="native").times_s(1 / 25, 25.0), 25.0) == [[0]]


@pytest.mark.parametrize(("rate", "own"), [(30.29, True), (30.31, False), (59.41, True), (59.39, False), (14.0, False)])
def test_a_rate_within_a_hundredth_of_a_multiple_is_counted_in_its_own_frames(rate: float, own: bool) -> None:
    times = Views(num_frames=8, stride=4).times_s(20.0, rate)
    steps = np.diff(times[0] * rate)  # in frames of the file
    whole = 4 * max(round(rate / 30), 1)
    assert bool((np.abs(steps - whole) < 1e-6).all()) == own
    assert times[0, -1] - times[0, 0] == pytest.approx(28 / 30, abs=2 / rate)


def test_a_rate_below_that_of_the_stride_is_not_counted_in_its_own_frames() -> None:
    """A multiple of 0 is none: 10 frames a second for 30, where a stride of 6 is every second frame."""
    assert set(np.diff(frames_of(Views(num_frames=8, stride=6).times_s(20.0, 10.0), 10.0)[0])) == {2}


def test_parse_accepts_capitals_and_spread_with_a_stride() -> None:
    assert Views.parse(" 4X3 ", num_frames=8, stride=2) == Views(8, 4, 3, 2)
    assert Views.parse("Spread") == Views()
    assert Views.parse("spread", stride=4) == Views(stride=4)


plans = st.builds(
    Views,
    num_frames=st.integers(1, 64),
    num_clips=st.integers(1, 12),
    stride=st.none() | st.integers(1, 32),
    stride_rate=st.sampled_from([30.0, 25.0, 8.0, "native"]),
)
rates = st.sampled_from([1.0, 5.0, 12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94, 60.0, 240.0]) | st.floats(
    0.5, 300
)


@settings(max_examples=300, deadline=None)
@given(plans, st.floats(1e-3, 2e4), rates)
def test_every_time_is_inside_the_file_and_in_order(views: Views, duration: float, rate: float) -> None:
    times = views.times_s(duration, rate)
    assert times.shape == (views.num_clips, views.num_frames)
    assert (times >= 0).all()
    assert (times < duration).all()
    assert (np.diff(times, axis=1) >= 0).all()
    assert (np.diff(times[:, 0]) >= 0).all()


@settings(max_examples=300, deadline=None)
@given(plans, st.integers(1, 20_000), rates)
def test_views_cover_the_file_and_rounded_timestamps_do_not_matter(views: Views, num: int, rate: float) -> None:
    duration = num / rate
    times = views.times_s(duration, rate)
    # A quarter of a frame either way shows the same frame.
    exact = np.floor(times * rate)
    assert (np.floor((times + 0.25 / rate) * rate) == exact).all()
    assert (np.floor((times - 0.25 / rate) * rate) == exact).all()
    assert exact.max() <= num - 1
    if views.stride is None:
        # no gap is longer than a segment and a frame
        most = duration / times.size + 1 / rate
        assert np.diff(times.ravel(), prepend=0, append=duration).max() <= most * (1 + 1e-9)
    elif views.num_clips > 1:
        # A clip's last frame is the file's, but for the steps that do not fit into a whole number of frames.
        step = 1.0 if views.stride_rate == "native" else max(rate / float(views.stride_rate), 1.0)
        span = (views.num_frames - 1) * views.stride + 1
        if num / step >= span + 1:
            assert exact[0, 0] <= step
            assert exact[-1, -1] >= num - 1 - 1.5 * step


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 16), st.integers(1, 32), st.integers(1, 12), st.integers(0, 3000), rates)
def test_a_native_stride_never_picks_a_neighbour(frames: int, stride: int, clips: int, more: int, rate: float) -> None:
    span = (frames - 1) * stride + 1
    views = Views(num_frames=frames, num_clips=clips, stride=stride, stride_rate="native")
    found = np.floor(views.times_s((span + more) / rate, rate) * rate).astype(int)
    assert (np.diff(found, axis=1) == stride).all()


def test_views_in_words() -> None:
    assert str(Views()) == "16 frames spread evenly over the file"
    assert str(Views.parse("4x3")) == ("4 clips in time x 3 crops, 16 frames, stride 4 in frames at 30 per second")
    assert str(Views(stride=2, stride_rate="native")) == "16 frames, stride 2 in the file's own frames"


@pytest.mark.parametrize(
    ("asked", "strided", "spread"),
    [
        (ViewsAsked(), Views(8, 4, 1, 2, "native"), Views(8)),
        (ViewsAsked("4x3"), Views(8, 4, 3, 2, "native"), Views(8, 4, 3)),
        (ViewsAsked("spread"), Views(8, stride_rate="native"), Views(8)),
        (ViewsAsked(num_frames=4), Views(4, 4, 1, 2, "native"), Views(4)),
        (ViewsAsked(stride=3), Views(8, 4, 1, 3, "native"), Views(8, stride=3)),
        (ViewsAsked(stride_rate=10.0), Views(8, 4, 1, 2, 10.0), Views(8, stride_rate=10.0)),
        (ViewsAsked(" 2X1 ", 3, 5, 12.5), Views(3, 2, 1, 5, 12.5), Views(3, 2, 1, 5, 12.5)),
    ],
)
def test_what_is_not_named_stays_as_usual(asked: ViewsAsked, strided: Views, spread: Views) -> None:
    assert asked.on(Views(8, 4, 1, 2, "native")) == strided
    assert asked.on(Views(8)) == spread


def test_clips_in_time_of_a_model_that_is_not_trained_have_the_papers_stride() -> None:
    assert ViewsAsked("4x3").on(Views(), clip_stride=4) == Views(16, 4, 3, 4)
    assert ViewsAsked("4x3").on(Views(stride=2), clip_stride=4) == Views(16, 4, 3, 2)
    assert ViewsAsked(num_frames=8).on(Views(), clip_stride=4) == Views(8)
