"""Odd and broken files for the tests of media_files.py and video_files.py, each with what must
become of it."""

import os
import re
import struct
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import tifffile
from PIL import Image

ENCODER_OPTIONS = {
    "libx264": {"crf": "1"},
    "libx265": {"x265-params": "log-level=none:hash=1"},  # checksums of frames
    "ffv1": {"level": "3"},  # checksums
}
CLOCK = Fraction(1, 9000)  # of the videos: divides into milliseconds and MPEG's 1/90000


def make_video(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    times: Iterable[int] = (0, 360, 720, 1080, 1440),
    audio: str | None = None,
    subtitles: str | None = None,
    rotation: int = 0,
    yuv: tuple[int, int, int] | None = None,
    matrix: int = 1,
    transfer: int = 1,
    full_range: bool = False,
    noise: bool = False,
) -> Path:
    """A short video; `times` in 1/9000 s, `yuv` a flat colour, else a moving gradient or noise."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "harbour"
        options = ENCODER_OPTIONS.get(codec, {})
        stream = container.add_stream(codec, rate=25, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        context = stream.codec_context
        context.time_base, context.bit_rate = CLOCK, 4_000_000
        if yuv:
            context.colorspace, context.color_range = matrix, 2 if full_range else 1
            context.color_primaries, context.color_trc = 1, transfer
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=48_000, layout="stereo") if audio else None
        text = _subtitle_stream(container, subtitles) if subtitles else None
        for time in times:
            frame = _frame(size, time, yuv, rng if noise else None)
            frame.pts, frame.time_base = time, CLOCK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            _add_sound(container, sound, rng)
        if text:
            for number in range(2):
                line = b"two words %d" % number
                packet = av.Packet(
                    struct.pack(">H", len(line)) + line if ".mp4" in path.name else line
                )
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = number * 60
                packet.duration = 50
                container.mux(packet)
    return path


def _frame(size, time, yuv, rng) -> av.VideoFrame:
    width, height = size
    if yuv:
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        return frame
    if rng is not None:
        return av.VideoFrame.from_ndarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    y, x = np.mgrid[:height, :width]
    planes = [(x * 2 + time // 90) % 200 + 20, (y * 3) % 200 + 20, (x + y) % 200 + 20]
    return av.VideoFrame.from_ndarray(np.dstack(planes).astype(np.uint8))


def _subtitle_stream(container, codec):
    stream = container.add_mux_stream(codec)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "fra"
    return stream


def _add_sound(container, stream, rng) -> None:
    size = stream.codec_context.frame_size or 1024
    kind = stream.codec_context.format.name
    for number in range(10):
        if kind == "fltp":
            samples = rng.normal(0, 0.1, (2, size)).astype(np.float32)
        else:
            samples = rng.integers(-3000, 3000, (1, 2 * size)).astype(np.int16)
            samples = samples.astype(np.float32) / 32768 if kind == "flt" else samples
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="stereo")
        frame.sample_rate, frame.pts = 48_000, number * size
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def make_talkie(
    path: Path,
    codec: str = "libx264",
    sound: str = "pcm_s16le",
    rate: int = 44_100,
    **options,
) -> Path:
    """Two seconds in which picture and sound are loud together in frames 20 and 35 of 50."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.bit_rate = 64, 48, 2_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        audio = container.add_stream(sound, rate=rate, layout="mono")
        audio.bit_rate = 64_000
        for number in range(50):
            loud = number in (20, 35)
            picture = np.full((48, 64, 3), 230 if loud else 30, np.uint8)
            picture[:, number : number + 5] = 120
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
            samples = np.sin(np.arange(rate // 25) / 5)[None] * (0.8 if loud else 0.001)
            whole = audio.codec_context.format.name.startswith("s16")
            samples = (samples * 32767).astype(np.int16) if whole else samples.astype(np.float32)
            kind = audio.codec_context.format.name
            part = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
            part.sample_rate, part.time_base = rate, Fraction(1, rate)
            part.pts = number * rate // 25
            container.mux(audio.encode(part))
        container.mux(stream.encode(None))
        container.mux(audio.encode(None))
    return path


def make_with_times(path: Path, times: Iterable[int], sound: bool = False) -> Path:
    """A video whose packets carry `times` in milliseconds, however odd: MJPEG in Matroska."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        audio = container.add_stream("aac", rate=48_000, layout="stereo") if sound else None
        for number, time in enumerate(times):
            for packet in stream.encode(_frame((64, 48), 90 * number, None, None)):
                packet.pts, packet.dts = time, number  # the latter has to grow; no file keeps it
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
        if audio:
            _add_sound(container, audio, np.random.default_rng(0))
    return path


def join(path: Path, *parts: Path, header: int = 0) -> Path:
    """Recordings one behind the other, as by `cat`; those after the first without their header."""
    first, *others = [part.read_bytes() for part in parts]
    path.write_bytes(first + b"".join(other[header:] for other in others))
    return path


def make_two_videos(path: Path) -> Path:
    """A second, longer video track, as of a rear camera."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height = 64, 48
        for stream, count in zip(streams, (25, 100), strict=True):
            for number in range(count):
                frame = _frame((64, 48), 90 * number, None, None)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def damage(path: Path, size: int = 400) -> Path:
    """Other bytes in the middle of a file, of an MP4's packets."""
    content = bytearray(path.read_bytes())
    begin, end = max(0, content.find(b"mdat")), content.find(b"moov")
    middle = begin + (end - begin) // 3 if end > begin else len(content) // 2
    content[middle : middle + size] = b"\xa7" * size
    path.write_bytes(content)
    return path


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def mark_as_sphere(path: Path) -> Path:
    """Google's mark of a 360-degree video in the track of an MP4 whose index comes last."""
    xml = b"".join(
        b"<GSpherical:%s>%s</GSpherical:%s>" % (tag, value, tag)
        for tag, value in (
            (b"Spherical", b"true"),
            (b"Stitched", b"true"),
            (b"StitchingSoftware", b"none"),
            (b"ProjectionType", b"equirectangular"),
        )
    )
    rdf = b'<?xml version="1.0"?><rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    rdf += b'syntax-ns#" xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/">%s' % xml
    uuid = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
    mark = _box(b"uuid", uuid + rdf + b"</rdf:SphericalVideo>")
    content = bytearray(path.read_bytes())
    for name in (b"moov", b"trak"):
        at = content.index(name) - 4
        size = struct.unpack_from(">I", content, at)[0]
        struct.pack_into(">I", content, at, size + len(mark))
    content[at + size : at + size] = mark
    path.write_bytes(content)
    return path


def make_with_captions(path: Path) -> Path:
    """H.264 whose frames 0, 1, 2, ... carry the CEA-608 bytes 0x80 + number, 0x81."""
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        packets = []
        for number in range(20):
            packets += stream.encode(_frame((64, 48), 90 * number, None, None))
        for packet in packets + stream.encode(None):
            content = bytes(packet)
            slice_of_picture = re.search(rb"\x00\x00\x00?\x01[\x65\x41\x01\x61\x21]", content)
            text = b"\xb5\x00\x31GA94\x03\x41\xff\xfc%c\x81\xff" % (0x80 + packet.pts)
            message = b"\x00\x00\x00\x01\x06\x04%c%s\x80" % (len(text), text)
            at = slice_of_picture.start()
            new = av.Packet(content[:at] + message + content[at:])
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.stream, new.is_keyframe = stream, packet.is_keyframe
            container.mux(new)
    return path


SPEEX = (  # 20 ms each of a tone
    "30549822d2000068e8e8e8e8e8e8e881f9f4747460488d9a7440f6d87d208e119c3d2ba4eba422c53d2c4f2b442bfb06"
    "ababababab0ababbdabab0ababababab0ababababab7",
    "30549822d0035d5a2d35dd79a48720d3f8b37ea83a7325358c65382ba1d7be76520e32329c17012060125627161b3860"
    "ababababab0ababababab0ababababab0ababababab7",
)


def make_with_speex(path: Path) -> Path:
    """FLV with Speex, as Flash recorded it; FFmpeg aborts the process when it writes one."""
    make_video(path)
    tags = b""
    for number in range(8):
        content = b"\xb6" + bytes.fromhex(SPEEX[number % 2])
        head = (
            b"\x08" + len(content).to_bytes(3, "big") + (20 * number).to_bytes(3, "big") + bytes(4)
        )
        tags += head + content + struct.pack(">I", len(head + content))
    video = bytearray(path.read_bytes())
    video[4] = 5  # the header says that there is sound, too
    path.write_bytes(video + tags)
    return path


def make_stress_corpus(folder: Path) -> dict[Path, str]:
    """Files below `folder` -> "ok", "fails", "ignored", or "unseen" (hidden ones, loops)."""
    corpus: dict[Path, str] = {}
    parts = (_sound_images, _deep_images, _odd_sizes_and_names, _broken_images, _from_elsewhere)
    for part in (*parts, _odd_places, _videos):
        part(folder, corpus)
    return corpus


def _noise(mode: str, size: tuple[int, int] = (31, 22)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(7).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def _sound_images(folder: Path, corpus: dict[Path, str]) -> None:
    formats = {
        "png": ("1", "L", "LA", "RGB", "RGBA", "P"),
        "jpg": ("L", "RGB", "CMYK"),
        "tif": ("1", "L", "LA", "RGB", "RGBA", "CMYK", "P"),
        "webp": ("RGB", "RGBA"),
        "bmp": ("L", "RGB", "P"),
        "gif": ("L", "P"),
        "tga": ("L", "RGB", "RGBA"),
        "jp2": ("L", "RGB", "RGBA"),
        "ppm": ("RGB",),
        "pcx": ("RGB",),
        "qoi": ("RGBA",),
        "avif": ("RGB", "RGBA"),
    }
    modes = folder / "modes"
    modes.mkdir(parents=True)
    for suffix, names in formats.items():
        for mode in names:
            image = _noise("L").convert("1") if mode == "1" else None
            image = image or (_noise("RGB").quantize(30) if mode == "P" else _noise(mode))
            image.save(modes / f"{suffix}_{mode}.{suffix}")
            corpus[modes / f"{suffix}_{mode}.{suffix}"] = "ok"
    _noise("RGB").quantize(30).save(modes / "clear.png", transparency=bytes(range(0, 240, 8)))
    _noise("RGB").quantize(30).save(modes / "clear.gif", transparency=4)
    corpus |= {modes / "clear.png": "ok", modes / "clear.gif": "ok"}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        corpus[modes / f"turned{orientation}.jpg"] = "ok"
        _noise("RGB").save(modes / f"turned{orientation}.jpg", exif=exif)
    frames = [_noise("RGB"), _noise("L").convert("RGB"), _noise("RGB")]
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tif"):
        frames[0].save(modes / name, save_all=True, append_images=frames[1:])
        corpus[modes / name] = "ok"


def _deep_images(folder: Path, corpus: dict[Path, str]) -> None:
    modes = folder / "modes"
    deep = np.random.default_rng(1).integers(0, 65536, (12, 17, 4), dtype=np.uint16)
    Image.fromarray(deep[..., 0].copy()).save(modes / "deep_grey.png")
    tifffile.imwrite(modes / "deep_grey.tif", deep[..., 0])
    tifffile.imwrite(modes / "deep_rgb.tif", deep[..., :3], photometric="rgb")
    tifffile.imwrite(modes / "deep_rgba.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    tifffile.imwrite(modes / "deep_tiled.tif", deep[..., :3], photometric="rgb", tile=(16, 16))
    tifffile.imwrite(modes / "deep_big.tif", deep[..., :3], photometric="rgb", bigtiff=True)
    for compression in ("zstd", "lzma"):
        path = modes / f"deep_{compression}.tif"
        tifffile.imwrite(path, deep[..., :3], photometric="rgb", compression=compression)
        corpus[path] = "ok"
    rows = np.pad(deep[..., :3].astype(">u2").reshape(12, -1).view(np.uint8), ((0, 0), (1, 0)))
    (modes / "deep_rgb.png").write_bytes(_png(17, 12, 16, 2, rows.tobytes()))
    names = ("deep_grey.png", "deep_grey.tif", "deep_rgb.tif", "deep_rgba.tif", "deep_rgb.png")
    names += ("deep_tiled.tif", "deep_big.tif")
    corpus |= {modes / name: "ok" for name in names}
    tifffile.imwrite(modes / "float.tif", deep[..., :3].astype(np.float32), photometric="rgb")
    tifffile.imwrite(modes / "integer32.tif", deep[..., 0].astype(np.uint32))
    tifffile.imwrite(modes / "deep_cmyk.tif", deep, photometric="separated")
    tifffile.imwrite(modes / "deep_negative.tif", deep[..., 0], photometric="miniswhite")
    tifffile.imwrite(modes / "deep_rgba1.tif", deep, photometric="rgb", extrasamples=["assocalpha"])
    _noise("LAB").save(modes / "lab.tif")
    (modes / "deep.ppm").write_bytes(b"P6 2 1 65535\n" + bytes(12))
    names = ("float.tif", "integer32.tif", "lab.tif", "deep.ppm")
    names += ("deep_cmyk.tif", "deep_negative.tif", "deep_rgba1.tif")
    corpus |= {modes / name: "fails" for name in names}


def _png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def _odd_sizes_and_names(folder: Path, corpus: dict[Path, str]) -> None:
    odd = folder / "odd sizes, odd names"
    odd.mkdir()
    for size in ((1, 1), (1, 5000), (3000, 1), (2, 3), (257, 255)):
        for suffix in ("png", "jpg"):
            path = odd / f"{size[0]}x{size[1]}.{suffix}"
            _noise("RGB", size).save(path)
            corpus[path] = "ok"
    stems = (
        "with space",
        "ünïcödé 画像",
        "-dash",
        "dots.in.name",
        "x" * 251,
        "100%d",
        "[a]*?",
        "quo'te\"",
    )
    for stem in (*stems, "line\nbreak", os.fsdecode(b"not\xffutf8")):
        path = odd / f"{stem}.png"
        _noise("RGB").save(path)
        corpus[path] = "ok"
    for name, format in (
        ("png_called.jpg", "PNG"),
        ("jpg_called.png", "JPEG"),
        ("UPPER.JPG", "JPEG"),
    ):
        _noise("RGB").save(odd / name, format)
        corpus[odd / name] = "ok"
    for name, format in (("no_extension", "PNG"), ("odd.extension", "PNG"), ("text.txt", None)):
        if format:
            _noise("RGB").save(odd / name, format)
        else:
            (odd / name).write_text("not media\n")
        corpus[odd / name] = "ignored"
    for suffix in ("heic", "JXL", "cr2", "pef", "hif", "srw"):  # pictures that are not read
        (odd / f"foreign.{suffix}").write_bytes(b"not looked into")
        corpus[odd / f"foreign.{suffix}"] = "fails"
    _noise("RGB").save(odd / "preview.dng", "TIFF")  # raw files begin with a small preview
    corpus[odd / "preview.dng"] = "fails"
    _noise("RGB").save(odd / "icon.ico")  # read, never written
    corpus[odd / "icon.ico"] = "fails"


def _broken_images(folder: Path, corpus: dict[Path, str]) -> None:
    broken = folder / "broken"
    broken.mkdir()
    for suffix in ("png", "jpg", "tif", "webp", "bmp", "gif"):
        path = broken / f"half.{suffix}"
        _noise("RGB", (64, 64)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        corpus[path] = "fails"
    sound = _png(4, 4, 8, 2, bytes(52))
    contents = {
        "empty.png": b"",
        "empty.jpg": b"",
        "text.png": b"these are words\n" * 20,
        "text.jpg": "Überraschung\n".encode() * 9,
        "zeros.tif": bytes(4000),
        "header_only.png": sound[:33],
        "signature_only.png": sound[:8],
        "no_pixels.png": _png(0, 0, 8, 2, b""),
        "bad_depth.png": _png(4, 4, 7, 2, bytes(52)),
        "bad_checksum.png": sound[:20] + b"\x01" + sound[21:],
        "bad_deflate.png": sound[:45] + b"\xff\x00\xff\x00\xff" + sound[50:],
        "bomb.png": _png(100_000, 100_000, 8, 0, bytes(100)),
        "noise.jpg": np.random.default_rng(3).bytes(3000),
        "start_only.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "no_size.gif": b"GIF89a\x00\x00\x00\x00\x00\x00\x00;",
        "web_page.webp": b"<!doctype html><title>404</title>",
        "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
    }
    for name, content in contents.items():
        (broken / name).write_bytes(content)
        corpus[broken / name] = "fails"


def _from_elsewhere(folder: Path, corpus: dict[Path, str]) -> None:
    """What phones, cameras and browsers write, and what became of it on the way."""
    there = folder / "elsewhere"
    there.mkdir()
    _noise("RGB", (64, 48)).save(there / "plain.jpg", quality=90)
    sound = (there / "plain.jpg").read_bytes()

    def put(name: str, content: bytes, fate: str = "ok") -> None:
        (there / name).write_bytes(content)
        corpus[there / name] = fate

    def jpeg(*segments: bytes, after: bytes = b"") -> bytes:
        new = [b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments]
        return sound[:20] + b"".join(new) + sound[20:] + after

    name = "Verein für Fotografie".encode() + b"\0"
    rows = struct.pack("<H", 2) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    rows += struct.pack("<HHII", 0x013B, 2, len(name), 38) + bytes(4)
    note = struct.pack("<HHHII", 1, 0x927C, 7, 90_000, 44) + bytes(4) + bytes(90_000)
    pointer = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    exif = b"Exif\0\0II*\0\x08\0\0\0"
    long = exif + pointer + note
    put("turned.jpg", jpeg(exif + rows + name))
    put("long note.jpg", jpeg(long[:65_000], b"Exif\0\0" + long[65_000:]))
    rdf = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-'
    rdf += b'rdf-syntax-ns#"><rdf:Description %s/></rdf:RDF></x:xmpmeta>'
    camera = b'xmlns:G="http://ns.google.com/photos/1.0/camera/" G:MotionPhoto="1"'
    xmp = b"http://ns.adobe.com/xap/1.0/\0"
    put("motion.jpg", jpeg(xmp + rdf % camera, after=b"\0\0\0\x18ftypmp42" + bytes(2000)))
    gain = b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    put("two pictures.jpg", jpeg(xmp + rdf % gain, after=sound))
    put("no end.jpg", sound[:-2])
    put(
        "zeroed.jpg",
        sound[: len(sound) // 2] + bytes(500) + sound[len(sound) // 2 + 500 :],
        "fails",
    )

    png = _png(4, 4, 8, 2, bytes(52))
    text = b"workflow\0\0" + zlib.compress(b"step " * 300_000)
    put("long text.png", png[:33] + _chunk(b"zTXt", text) + png[33:])
    put("bad text.png", png[:33] + _chunk(b"tEXt", b"Title\0harbour")[:-1] + b"?" + png[33:])
    put("linear.png", png[:33] + _chunk(b"gAMA", struct.pack(">I", 100_000)) + png[33:])
    put("hdr.png", png[:33] + _chunk(b"cICP", bytes([9, 16, 0, 1])) + png[33:], "fails")
    _noise("RGB").save(there / "wide.avif")
    avif = (there / "wide.avif").read_bytes()
    numbers = avif.index(b"colrnclx") + 8
    put("wide.avif", avif[:numbers] + struct.pack(">2H", 12, 13) + avif[numbers + 4 :])
    put("hdr.avif", avif[:numbers] + struct.pack(">2H", 9, 18) + avif[numbers + 4 :], "fails")
    five = np.random.default_rng(2).integers(0, 256, (12, 17, 5), dtype=np.uint8)
    extra = {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}
    tifffile.imwrite(there / "infrared.tif", five, **extra)
    corpus |= {there / "plain.jpg": "ok", there / "infrared.tif": "ok"}
    clip = make_video(there / "clip.avi", codec="mpeg4")
    corpus[clip.rename(there / "clip.divx")] = "ok"


def _odd_places(folder: Path, corpus: dict[Path, str]) -> None:
    deep = folder / "a" / "b" / "c"
    (deep / "empty folder.png").mkdir(parents=True)
    for path in (deep / "deep.png", folder / "same.png", folder / "same.jpg", folder / "same.bmp"):
        _noise("RGB").save(path)
        corpus[path] = "ok"
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".partial-0123.png").write_bytes(b"half")
    corpus |= {folder / ".hidden.png": "unseen", folder / ".partial-0123.png": "unseen"}
    (folder / "link.png").symlink_to(deep / "deep.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere")
    (folder / "self.png").symlink_to(folder / "self.png")
    (deep / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    corpus |= {folder / "link.png": "ok", deep / "loop": "unseen"}
    corpus |= {folder / name: "fails" for name in ("dangling.png", "self.png", "pipe.png")}
    locked = folder / "locked.png"
    _noise("RGB").save(locked)
    locked.chmod(0)  # root may read it all the same
    corpus[locked] = "ok" if os.access(locked, os.R_OK) else "fails"


def _videos(folder: Path, corpus: dict[Path, str]) -> None:
    videos = folder / "videos"
    for name, options in {
        "plain.mp4": {},
        "turned.mov": {"rotation": 90},
        "sound.mkv": {"audio": "aac"},
        "same.mkv": {},
        "same.webm": {"codec": "libvpx"},
        "old.avi": {"codec": "mpeg4"},
        "odd.mkv": {"codec": "ffv1", "pix_fmt": "bgr0", "size": (33, 35)},
        "one frame.mp4": {"times": (0,)},
    }.items():
        corpus[make_video(videos / name, **options)] = "ok"
    part = make_video(folder / ".part.ts", audio="aac")
    for path in (
        join(videos / "restarted.ts", part, part),
        make_with_times(videos / "repeated.mkv", (0, 40, 40, 40, 120, 100, 160), sound=True),
        make_with_speex(videos / "flash.flv"),
        make_talkie(videos / "windows.wmv", "wmv2", "wmav2"),
        make_talkie(videos / "telephone.avi", "mjpeg", "pcm_mulaw"),
        make_talkie(videos / "late.avi"),
        make_two_videos(videos / "rear camera.mp4"),
        damage(make_video(videos / "damaged.mp4", times=range(0, 9000, 360), noise=True)),
        damage(make_video(videos / "damaged.wmv", codec="wmv2", noise=True), 16),
        join(videos / "three parts.mkv", *[videos / "same.mkv"] * 3),
        mark_as_sphere(make_video(videos / "sphere.mp4")),
        make_with_captions(videos / "captions.h264"),
    ):
        corpus[path] = "ok"
    corpus[part] = "unseen"
    half = make_video(videos / "half.mp4", noise=True)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (videos / "text.mkv").write_bytes(b"not a video\n" * 30)
    (videos / "empty.mp4").write_bytes(b"")
    corpus |= {half: "fails", videos / "text.mkv": "fails", videos / "empty.mp4": "fails"}
