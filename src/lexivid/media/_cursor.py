"""A place in a video stream: which decoded frame is on show at a time. In ticks of the stream's clock.

Packets are read ahead of the decoder up to the wanted time. That shows, before anything is decoded, at which key
frame decoding may start (packets before it are dropped) and which packet holds the frame on show, so that frames
that nothing refers to are skipped on the way. Over long gaps the file is sought instead of read.
"""

from __future__ import annotations

import os
from bisect import bisect_right, insort
from collections import deque
from contextlib import ExitStack

import av
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lexivid.errors import MediaError
from lexivid.media._container import LATE_DEMUXERS, MAX_PIXELS, RAW_FORMATS, check_declared_sizes, open_container
from lexivid.media._extent import Extent, extent_of
from lexivid.media._gaps import Gaps
from lexivid.media._parts import MAX_TIME_S, PartClock, Point, Reach
from lexivid.media._refusal import has_no_frames, is_locked, shown
from lexivid.media._streams import (
    codec_name,
    frame_rate_of,
    has_alpha_beside,
    is_encrypted,
    is_turned,
    pick_audio,
    pick_video,
)

_SEEK_GAP_S = 5.0  # below this, reading on costs less than seeking
_MAX_AHEAD_BYTES = 64 << 20  # of packets held before they are decoded
_LARGE = 4096 * 2304  # pixels
_JUMP_S = 10.0  # a clock that goes back by more than this was set anew
_COUNTED_S = 0.5  # by which times that FFmpeg counted may be too late
_BESIDE_S = 0.1  # how far from a change of codec packets may be that belong to neither side
_NUM_FIRST = 64  # packets in which fields are looked for
_MAX_READ_ERRORS = 50  # in a row, after which the file counts as ended
# Codecs whose key frames stand alone wherever the container marks them. Others (GIF, ...) are decoded in order.
_KEYED = frozenset(
    "h264 hevc vvc av1 vp6 vp6f vp8 vp9 mpeg1video mpeg2video mpeg4 h263 h261 flv1 mjpeg prores dnxhd theora wmv1 "
    "wmv2 wmv3 vc1 msmpeg4v1 msmpeg4v2 msmpeg4v3 dvvideo ffv1 huffyuv ffvhuff utvideo rawvideo jpeg2000 cfhd rv10 rv20 "
    "rv30 rv40".split()
)
# Codecs whose frames may be shown in another order than they are stored, which AVI has no times for.
_REORDERED = frozenset({"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "vc1"})
# Codecs whose disposable frames nothing refers to (in HEVC a higher temporal layer may).
_SKIPPABLE = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})

_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class Cursor:
    """Decodes one video stream of one file, towards a time or frame by frame.

    Attributes:
        first: the first frame that decodes.
        last: the last one, once the end of the stream was reached; None before.
        lost: pts of packets and frames that did not decode, or not cleanly.
        frame_rate: frames per second, 0 where unknown; step: ticks of one frame, roughly.
        extent, reach: how far the file and its stream reach; track: what an MP4 says about the stream.
        has_fields: whether packets carry half a picture each.
    """

    def __init__(self, path: str, *, num_threads: int | None = None) -> None:
        self.path = path
        self.last: VideoFrame | None = None
        self.lost: set[int] = set()
        self._num_threads = num_threads
        self.frame_rate = 0.0
        self.step = 1
        self._extent: Extent | None = None
        self.has_fields = False
        self._began: int | None = None  # time of the first packet
        self._first_times: list[int] = []  # of the first packets
        self._gaps = Gaps()
        self._seek_gap_s = _SEEK_GAP_S
        self._stack = ExitStack()
        try:
            self._open()
            first = self.next()
            if first is None:
                if self._read_to is None and self._no_more:
                    raise MediaError(has_no_frames(path, codec_name(self.stream)))
                check_declared_sizes(path)  # the likely reason, where it can be told
                raise MediaError(
                    f"{shown(path)} declares video ({codec_name(self.stream)}) of which no frame can be decoded; "
                    "it seems cut off or damaged, so copy or download it again"
                )
            self.first: VideoFrame = first
            self._look_for_fields()
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        self._stack.close()

    @property
    def lead(self) -> int:
        """Ticks of frames before the first one, which refer to what was cut off; of streams of MPEG-1 and MPEG-2."""
        if not self.by_dts or self._indexed or self._began is None:
            return 0
        lead = pts_of(self.first) - self._began - self.step  # their decoder gives each frame one packet late
        return lead if lead > self.step / 2 else 0

    def _look_for_fields(self) -> None:
        """See whether a picture comes in two packets, its fields: decode one more, and keep it for later."""
        if self.counts or codec_name(self.stream) != "h264" or not self.first.interlaced_frame:
            return
        second = self.next()
        if second is not None:
            lasts = pts_of(second) - pts_of(self.first)
            times = [at for at in self._first_times if pts_of(self.first) <= at < pts_of(second)]
            self.has_fields = len(times) == 2
            if self.has_fields and abs(self.frame_rate * lasts * self.base / 2 - 1) < 0.1:
                self.frame_rate, self.step = self.frame_rate / 2, lasts  # packets were counted for frames
            self._ready.insert(0, second)
        self._on_show: VideoFrame | None = self.first

    # ---- opening, moving

    def _open(self) -> None:
        """Open the file, or open it again to stand at its start."""
        self._stack.close()
        self.container = self._stack.enter_context(open_container(self.path))
        stream = pick_video(self.container)
        if stream is None:
            what = "has sound but no pictures" if pick_audio(self.container) else "has no video stream"
            raise MediaError(f"{shown(self.path)} {what}; give a file with a video stream")
        if is_encrypted(stream):
            raise MediaError(is_locked(self.path))
        context = stream.codec_context
        if not context:
            raise MediaError(
                f"{shown(self.path)} uses a video codec ({codec_name(stream)}) that this FFmpeg cannot decode; "
                "convert it to H.264 first"
            )
        self.stream: VideoStream = stream
        alpha_decoder = _decoder_of_alpha(self.container, stream)
        context = self._decoder = alpha_decoder or context
        self.base = float(stream.time_base or 0) or 1.0  # seconds per tick
        for other in self.container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        codec = codec_name(stream)
        formats = set(self.container.format.name.split(","))
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.flags |= av.codec.context.Flags.unaligned  # or what is cropped on the left would be so by halves
        if codec == "h264" and formats & set(LATE_DEMUXERS):
            context.options["strict"] = "strict"  # no guess of the reordering was made: take what the standard allows
        context.thread_count = self._num_threads or min(os.cpu_count() or 1, 4)
        if not self.has_fields:
            self.frame_rate = frame_rate_of(stream, is_raw=bool(formats & RAW_FORMATS))
            self.step = max(round(1 / (self.frame_rate or 25.0) / self.base), 1)
        self.counts: bool = bool(formats & RAW_FORMATS)  # no clock in the file: frames are counted instead
        # Where presentation times are missing or guessed, the order of decoding is the clock. With frame threads it is
        # not: then a frame would carry another's time.
        self.by_dts = ("avi" in formats and codec in _REORDERED) or (
            bool(formats & set(LATE_DEMUXERS)) and codec in ("mpeg1video", "mpeg2video")
        )
        large = stream.width * stream.height > _LARGE  # each thread of its own keeps a few pictures
        context.thread_type = "SLICE" if self.by_dts or large else "AUTO"
        if self._extent is None:
            self._extent = extent_of(self.container, self.path, stream)
        self.extent = self._extent
        self.reach = self.extent.streams.get(stream.index, Reach(0.0))
        if "gif" in formats and self.reach.length_s:  # the delays are not always those that FFmpeg knows
            self.frame_rate = self.reach.num_packets / self.reach.length_s
            self.step = max(round(1 / self.frame_rate / self.base), 1)
        self.track = self.extent.structure.track_of(stream)
        self._clock = PartClock(self.container, stream, self.reach)
        self._gaps.formats, self._gaps.has_parts = formats, not self._clock.is_one
        # The second picture of alpha need not have its key frames where the first one has.
        self._keyed = codec in _KEYED and alpha_decoder is None and not self.counts and self.track.num_edits < 2
        if not self._clock.is_one and not self.reach.points:
            self._keyed = False  # no way to a later part but through those before it
        self._indexed = bool(formats & {"mov", "avi"})  # the index of all key frames is at hand
        self._can_skip = codec in _SKIPPABLE and not self.by_dts
        self._newest: int | None = None  # pts of the last frame that came out
        self._restart(at_start=True)

    def _restart(self, *, at_start: bool) -> None:
        """Forget everything read so far: the file stands at another place."""
        self._packets = self.container.demux(self.stream)
        self._queue: deque[av.Packet] = deque()  # read, not yet given to the decoder
        self._queue_bytes = 0
        self._coming: list[int] = []  # sorted pts that packets announce, of frames not yet out
        self._untimed = self.counts or self.by_dts  # a packet came without pts: what is coming is not known
        self._ready: list[VideoFrame] = []  # out of the decoder, after the one on show
        self._on_show = None
        self._floor: int | None = None  # frames before it miss what they refer to
        self._read_to: int | None = None  # how far the file was read
        self._must_flush = False
        self._no_more = False  # the file has no further packet
        self._drained = False  # and the decoder no further frame
        self._last_dts: int | None = None
        self._gaps.start_anew()
        self._at_start = at_start

    def _go_to(self, target: int) -> int | None:
        """Stand at a key frame at or before the target and give its time, or at the start of the file: None."""
        back = 0
        second = max(round(1 / self.base), 1)
        while self._keyed and target - back > pts_of(self.first):
            if not self._seek(target - back):
                break
            while (packet := self._read()) is not None and not self._is_key(packet):
                pass
            at = self._time_of(packet) if packet is not None else None
            if packet is not None and at is not None and at <= target:
                self._enqueue(packet)
                self._floor = None if self.by_dts else at
                return at
            back = max(2 * back, second)
        self._open()
        return None

    def _seek(self, target: int) -> bool:
        """Stand at a place where decoding may begin, at or before the target if the container knows one."""
        point: Point | None = None
        try:
            if self.reach.points:
                at = bisect_right(self.reach.points, target * self.base + 1e-6, key=lambda point: point.at_s) - 1
                if at < 0:
                    return False
                point = self.reach.points[at]
                self.container.seek(point.position, unsupported_byte_offset=True)
            else:
                self.container.seek(target, stream=self.stream, backward=True)
        except av.error.FFmpegError:
            return False
        self._restart(at_start=False)
        if point is not None:
            self._clock.begin_at(point)
        self._newest = None
        return True

    def _gap_pays(self, target: int) -> bool:
        """Whether to seek forward to the target rather than read on."""
        if not self._keyed or self._read_to is None or (target - self._read_to) * self.base < self._seek_gap_s:
            return False
        entries = self.stream.index_entries
        if self._indexed and len(entries):
            at = entries.search_timestamp(target, backward=True)
            return at >= 0 and entries[at].timestamp > self._read_to
        return True

    # ---- reading, decoding

    def _is_key(self, packet: av.Packet) -> bool:
        if self.has_fields and packet.pts is not None:
            # Decoding that begins with the second half of a picture would join each half to another picture's.
            phase = (packet.pts - pts_of(self.first)) % self.step / self.step
            if 0.25 < phase < 0.75:
                return False
        # The empty frames that MPEG-4 in AVI is padded with may be marked as key frames too.
        return packet.is_keyframe and not (self.by_dts and packet.size < 16)

    def _is_hidden(self, packet: av.Packet) -> bool:
        """Whether what is in the packet is not shown, as edits have it."""
        return packet.is_discard or (packet.pts is not None and self.track.is_pause(packet.pts * self.base))

    def _time_of(self, packet: av.Packet) -> int | None:
        return packet.dts if self.by_dts else packet.pts

    def _read(self) -> av.Packet | None:
        """The next packet of the stream, or None at the end of what can be read."""
        num_errors = 0
        while num_errors < _MAX_READ_ERRORS and not self._no_more:
            try:
                packet = next(self._packets)
            except (StopIteration, IndexError, av.error.EOFError):  # IndexError: a stream appeared on the way
                break
            except (av.error.FFmpegError, OSError):
                self._packets = self.container.demux(self.stream)
                num_errors += 1
                continue
            if packet.size == 0:  # the end, in PyAV's way
                num_errors += 1
                continue
            if self._read_to is None and packet.has_sidedata("encryption_info"):
                raise MediaError(is_locked(self.path))
            self._clock.shifted(packet)
            if self._clock.is_foreign:
                self._gaps.start_anew()
                if packet.pts is not None or packet.dts is not None:
                    continue
                # After a change of codec FFmpeg gives the first packets no times.
                packet.pts = packet.dts = round(self._clock.foreign_end_s / self.base)
            if self.by_dts and packet.dts is not None:
                self._part_from_last(packet)
                if self._began is None:
                    self._began = packet.dts
            at = packet.dts if packet.dts is not None else packet.pts
            if at is not None and not self._is_hidden(packet) and abs(at * self.base) < MAX_TIME_S:
                self._gaps.watch(packet, at, step=self.step, base=self.base)
                self._read_to = at if self._read_to is None else max(at, self._read_to)
            return packet
        self._no_more = True
        return None

    def _part_from_last(self, packet: av.Packet) -> None:
        """A packet whose time is not after that of the one before it comes a little later than that one.

        In program streams a time stands for a pack, and FFmpeg counts the frames in it: it may count too many.
        """
        assert packet.dts is not None
        last = self._last_dts
        if last is not None and last - _COUNTED_S / self.base < packet.dts <= last:
            packet.dts = last + max(self.step // 8, 1)
        self._last_dts = packet.dts

    def is_beside_foreign(self, at: int) -> bool:
        """Whether a tick is one of a part with another codec."""
        at_s = at * self.base
        return any(part.start_s - _BESIDE_S <= at_s <= part.end_s + _BESIDE_S for part in self.reach.foreign)

    def shown_until_s(self, at_s: float) -> float:
        """When the frame that ends at a time goes off, on the stream's clock: nothing follows it for a while."""
        for part in self.reach.foreign:
            if part.start_s - _BESIDE_S <= at_s < part.end_s:
                return part.end_s
        return self.track.shown_until_s(at_s)

    @property
    def holes(self) -> dict[int, int]:
        """Where packets are missing: {tick at which they go on: ticks without}."""
        return {} if self.counts else self._gaps.holes(self.path, self.stream.index, self.base)

    def _enqueue(self, packet: av.Packet) -> None:
        self._queue.append(packet)
        self._queue_bytes += packet.size
        at = packet.pts if packet.pts is not None else packet.dts
        if at is not None and len(self._first_times) < _NUM_FIRST:
            self._first_times.append(at)
        if packet.pts is None:
            self._untimed = True
        elif not self._is_hidden(packet):
            insort(self._coming, packet.pts)

    def _read_ahead(self, target: int, *, drop: bool) -> None:
        """Read until no packet of a frame up to the target is missing; drop what a later key frame makes needless."""
        while self._read_to is None or self._read_to <= target:
            if self._queue_bytes > _MAX_AHEAD_BYTES or (packet := self._read()) is None:
                return
            at = self._time_of(packet) if self._is_key(packet) and not self._is_hidden(packet) else None
            if drop and self._keyed and self._queue and at is not None and at <= target:
                self._queue.clear()
                self._queue_bytes = 0
                self._coming.clear()
                self._ready.clear()
                self._on_show = None
                self._untimed = self.by_dts
                self._floor = None if self.by_dts else at
                self._must_flush = True
                self._at_start = False
            self._enqueue(packet)
            if packet.pts is None and packet.dts is None:
                return

    def _feed(self, wanted: int | None = None) -> bool:
        """Give the decoder one packet; false when file and decoder are at their end.

        Frames before `wanted` (pts) are not needed themselves.
        """
        if self._drained:
            return False
        packet = self._queue.popleft() if self._queue else None
        if packet is not None:
            self._queue_bytes -= packet.size
        elif (packet := self._read()) is not None:
            self._enqueue(packet)
            packet = self._queue.popleft()
            self._queue_bytes -= packet.size
        context = self._decoder
        if self._must_flush:
            context.flush_buffers()
            self._must_flush = False
            self._newest = None
        try:
            if packet is None:
                self._drained = True
                frames = context.decode(None)
            else:
                if self._can_skip:
                    needless = wanted is not None and packet.pts is not None and packet.pts < wanted
                    context.skip_frame = "NONREF" if needless else "DEFAULT"
                frames = context.decode(packet)
        except av.error.FFmpegError as error:
            self._give_up_on(error)
            if packet is not None and packet.pts is not None:
                self.lost.add(packet.pts)
            return True
        for frame in frames:
            self._take(frame)
        return True

    def _give_up_on(self, error: av.error.FFmpegError) -> None:
        """Errors that going on does not mend."""
        if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError | MemoryError):
            raise MediaError(
                f"{shown(self.path)} cannot be decoded ({codec_name(self.stream)}: {error.strerror}); "
                "convert it to H.264 first"
            ) from None

    def _take(self, frame: VideoFrame) -> None:
        """A frame that came out of the decoder."""
        pts = frame.dts if self.by_dts or frame.pts is None else frame.pts
        if self.counts or pts is None:
            pts = 0 if self._newest is None else self._newest + self.step
            if self.by_dts and self._read_to is not None:
                pts = max(pts, self._read_to + self.step)  # from the decoder's store after the last packet
        elif self._newest is not None and self._newest - _JUMP_S / self.base < pts <= self._newest:
            return  # out of order, as damage leaves them
        frame.pts = pts
        self._newest = pts
        if self.track.is_pause(pts * self.base):
            return
        if self._floor is None or pts >= self._floor:
            self._ready.append(frame)
            if frame.is_corrupt:
                self.lost.add(pts)

    def _put_on_show(self) -> VideoFrame:
        self._on_show = self._ready.pop(0)
        del self._coming[: bisect_right(self._coming, pts_of(self._on_show))]
        return self._on_show

    def _decode_to(self, target: int, *, drop: bool = True) -> VideoFrame | None:
        """Go forward to the frame on show at the target; None where all that comes is later."""
        self._read_ahead(target, drop=drop)
        while True:
            while self._ready and pts_of(self._ready[0]) <= target:
                self._put_on_show()
            if self._ready:
                return self._on_show
            at = bisect_right(self._coming, target)
            if self._on_show is not None and at == 0 and not self._untimed and self._read_past(target):
                return self._on_show
            wanted = self._coming[at - 1] if at and not self._untimed else None
            if self._on_show is not None and wanted is not None and pts_of(self._on_show) >= wanted:
                return self._on_show
            if not self._feed(wanted):
                if self._on_show is not None:
                    self.last = self._on_show
                return self._on_show

    def _read_past(self, target: int) -> bool:
        return self._read_to is not None and self._read_to > target

    # ---- for the reader

    def show(self, target: int) -> VideoFrame:
        """The frame on show at the target: the last one with pts <= target; the first one before that."""
        target = max(target, pts_of(self.first))
        if self.last is not None and target >= pts_of(self.last):
            return self.last
        read_to = self._read_to
        if self._on_show is None or target < pts_of(self._on_show):
            self._go_to(target)
        elif self._gap_pays(target):
            key = self._go_to(target)
            if key is None or (read_to is not None and key <= read_to):
                self._seek_gap_s *= 2  # the key frames are further apart than that: seeking was of no use
        frame = self._decode_to(target)
        back = max(round(1 / self.base), 1)
        while frame is None and not self._at_start:
            # What the file marks as a key frame gave nothing: start further back, and keep all.
            self._go_to(target - back)
            back *= 2
            frame = self._decode_to(target, drop=False)
        return frame if frame is not None else self.first

    def next(self) -> VideoFrame | None:
        """The frame after the one on show, or None after the last."""
        while not self._ready:
            if not self._feed():
                if self._on_show is not None:
                    self.last = self._on_show
                return None
        return self._put_on_show()


def _decoder_of_alpha(container: InputContainer, stream: VideoStream) -> VideoCodecContext | None:
    """A decoder of VP8 and VP9 that reads the alpha that WebM keeps beside each picture, as FFmpeg's own two do not;
    None: there is no alpha, or no such decoder here.

    (A decoder that is made so does not know how the container says to turn the pictures: those are left to FFmpeg's.)
    """
    name = _WITH_ALPHA.get(codec_name(stream))
    if name is None or not has_alpha_beside(stream) or is_turned(container, stream):
        return None
    try:
        context = av.codec.CodecContext.create(name, "r")
    except (av.error.FFmpegError, ValueError):
        return None
    assert isinstance(context, VideoCodecContext)
    known = stream.codec_context
    context.color_range, context.colorspace = known.color_range, known.colorspace
    context.color_trc, context.color_primaries = known.color_trc, known.color_primaries
    return context


def pts_of(frame: VideoFrame) -> int:
    """The frame's time in ticks; `Cursor` gives every frame one."""
    assert frame.pts is not None
    return frame.pts
