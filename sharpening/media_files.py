"""Pictures, read and written as they are. Nothing here knows a network.

    picture = read_picture("holiday.jpg")                 # upright, (H, W, 3) uint8 or uint16
    write_picture(picture, sharpen(picture.rgb), "out/holiday.jpg")

Read from top to bottom: errors and tables (also those of video_files.py), reading, writing.

Every failure that belongs to one file is a `MediaError`, so a caller can go on with the next
file. Everything is written under a hidden temporary name in the target's folder, flushed to disk
and renamed: a file that carries its final name is complete.
"""

import errno
import io
import os
import re
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

import av
import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from sharpening import SharpeningError

# ----------------------------------------------------------------------------------------------
# Errors and tables
# ----------------------------------------------------------------------------------------------

MAX_PIXELS = 200_000_000  # larger claims are refused as decompression bombs unless allowed
PARTIAL = ".partial-"  # begins the name of every unfinished file; hidden, so never read again

# Extension -> Pillow's name. PostScript, PDF and WMF are left out: reading them runs programs.
IMAGE_FORMATS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG",
    ".jfif": "JPEG", ".mpo": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".dib": "DIB", ".gif": "GIF", ".avif": "AVIF", ".jp2": "JPEG2000",
    ".j2k": "JPEG2000", ".jpx": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM",
    ".pnm": "PPM", ".tga": "TGA", ".pcx": "PCX", ".ico": "ICO", ".sgi": "SGI", ".qoi": "QOI",
    ".dds": "DDS", ".psd": "PSD", ".xpm": "XPM", ".ras": "SUN",
}  # fmt: skip
READABLE = tuple(dict.fromkeys(IMAGE_FORMATS.values()))

# Layouts that survive a round trip through each format which Pillow can write.
WRITABLE = {
    "PNG": ("L", "LA", "RGB", "RGBA"), "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"), "TIFF": ("L", "LA", "RGB", "RGBA", "CMYK"), "BMP": ("L", "RGB"),
    "DIB": ("L", "RGB"), "GIF": ("L", "RGB", "RGBA"), "AVIF": ("L", "RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "CMYK"), "PPM": ("L", "RGB"),
    "TGA": ("L", "LA", "RGB", "RGBA"), "PCX": ("L", "RGB"), "SGI": ("L", "RGB", "RGBA"),
    "QOI": ("RGB", "RGBA"), "DDS": ("L", "LA", "RGB", "RGBA"),
}  # fmt: skip
WRITABLE_16_BIT = {
    "PNG": ("L", "LA", "RGB", "RGBA"), "TIFF": ("L", "RGB", "RGBA"), "JPEG2000": ("L",),
    "PPM": ("L",),
}  # fmt: skip
NEXT_BEST = {"L": "RGB", "LA": "RGBA", "CMYK": "RGB"}  # a wider layout that loses nothing

# Pillow's modes -> the layout in which the pixels are held here; others are refused.
LAYOUTS = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB",
    "RGBX": "RGB", "RGBA": "RGBA", "RGBa": "RGBA", "YCbCr": "RGB", "CMYK": "CMYK",
}  # fmt: skip
ICC_SPACES = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK"}

ORIENTATION, EXIF, GPS = 0x0112, 0x8769, 0x8825  # a tag and two directories of EXIF

# What decoders raise on damaged files, besides the errors of the file system.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, struct.error, zlib.error, av.FFmpegError, ImageCms.PyCMSError,
)  # fmt: skip

FOREIGN_PICTURES = (
    ".heic", ".heif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2",
)  # fmt: skip
"""Pictures of phones and cameras that are not read: reported as failures, never passed over. Raw
files often begin with a small preview in TIFF, which must not be taken for the picture."""

# Containers that hold H.264 with exact frame times -> FFmpeg's name; others become .mkv.
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".3gp": "3gp",
    ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts", ".flv": "flv",
}  # fmt: skip
VIDEO_SUFFIXES = frozenset(CONTAINERS) | {
    ".webm", ".avi", ".wmv", ".mpg", ".mpeg", ".ogv", ".vob", ".asf", ".mxf", ".y4m", ".h264",
    ".hevc",
}  # fmt: skip
MEDIA_SUFFIXES = VIDEO_SUFFIXES | set(IMAGE_FORMATS) | set(FOREIGN_PICTURES)


class MediaError(SharpeningError):
    """One file cannot be read or written. The message says which, why, and what to do.

    `path` and `reason` are the two halves of the message. Bytes of a file name that are not
    UTF-8 are shown as question marks, so that the message can always be printed.
    """

    def __init__(self, path: str | Path, reason: str):
        shown = str(path).encode("utf-8", "replace").decode()
        super().__init__(f"{shown}: {reason}")
        self.path, self.reason = Path(path), reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)  # so that a process can hand it to another


def unreachable(path: str | Path, error: OSError) -> MediaError:
    """The error for a path in a locked folder, or for a name that is too long."""
    advice = "shorten the name" if error.errno == errno.ENAMETOOLONG else "change its permissions"
    return MediaError(path, f"cannot be reached ({error.strerror}): {advice}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it if the block succeeds, removed if not.

    The temporary name keeps the suffix but not the stem, which may already be as long as a file
    system allows. Errors of the file system become `MediaError`.
    """
    temporary = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists()  # raises for a name that is too long: now, not after hours of video
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, av.FFmpegError) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "the disk is full: free some space and run again"
            raise MediaError(path, f"cannot be written, {advice}") from error
        raise MediaError(path, f"cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # says less than the error that led here
            temporary.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------
# Pictures in
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image, upright, with what is needed to write it back as it was."""

    rgb: np.ndarray
    """(H, W, 3) uint8 or uint16, C-contiguous; grey is repeated three times."""
    alpha: np.ndarray | None
    """(H, W) in the type of `rgb`, or None: opacity, never touched."""
    black: np.ndarray | None
    """(H, W) uint8, the black plate of a CMYK image, or None."""
    layout: Literal["L", "LA", "RGB", "RGBA", "CMYK"]
    """How the file holds its pixels; palettes count as the colours they stand for."""
    mode: str
    """Pillow's name for the mode in the file: P, 1, I;16, ..., for information."""
    format: str
    """Pillow's name for the format, by content and not by extension."""
    exif: bytes = b""
    """EXIF with the orientation reset (the pixels are upright); camera thumbnails dropped then."""
    xmp: bytes = b""
    """XMP packet, its orientation reset."""
    icc: bytes = b""
    """ICC profile."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch."""
    n_frames: int = 1
    """Frames or pages in the file; only the first is here."""
    warnings: tuple[str, ...] = ()
    """What a person should know, such as pages left out."""
    options: dict = field(default_factory=dict)
    """Pillow's settings that write this format as the file had it (sampling, lossless, ...)."""


def read_picture(path: str | Path, *, allow_huge: bool = False) -> Picture:
    """The first frame of an image file, upright.

    EXIF orientation is applied. 16-bit grey and colour (PNG, TIFF; grey JPEG 2000 and PGM too)
    stay 16-bit; every other depth above 8 bits, float and Lab are refused. CMYK is shown to the
    caller as plain RGB and its black plate kept aside.

    Raises `MediaError` for anything that is not a whole, sound image, and for images of more
    than `MAX_PIXELS` pixels unless `allow_huge`.
    """
    path = Path(path)
    # Pillow's limit is a global that only warns at first; set alike by every call and thread.
    Image.MAX_IMAGE_PIXELS = None if allow_huge else MAX_PIXELS
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise MediaError(path, "the file is empty: copy or download it again")
            with Image.open(file, formats=READABLE) as image:
                if not allow_huge and image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
                return _decoded_picture(path, file, image)
    except Image.UnidentifiedImageError as error:
        raise MediaError(path, "not an image, or of a kind that cannot be read") from error
    except Image.DecompressionBombError as error:
        reason = f"claims more than {MAX_PIXELS / 1e6:.0f} megapixels ({error}): allow huge images"
        raise MediaError(path, f"{reason} if you trust it") from error
    except DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise MediaError(path, f"cannot be read ({error.strerror})") from error
        raise MediaError(path, f"damaged or truncated ({error}): get a sound copy") from error


def _decoded_picture(path: Path, file: BinaryIO, image: Image.Image) -> Picture:
    bits = _bits_per_channel(path, file, image)
    notes = []
    n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1:
        notes.append(f"holds {n_frames} frames or pages: only the first is used")
    options = _format_options(file, image)
    stored_orientation = image.tag_v2.get(ORIENTATION, 1) if image.format == "TIFF" else 1
    image.load()  # for 16-bit colour too: Pillow finds damage that FFmpeg passes over
    if bits == 16:
        *planes, layout = _planes_of_16_bits(path, file, image, stored_orientation)
    else:
        *planes, layout = _planes_of_8_bits(path, image)
    orientation, metadata = _metadata(image, notes)
    rgb, alpha, black = (p if p is None else _upright(p, orientation) for p in planes)
    return Picture(
        rgb=rgb,
        alpha=alpha,
        black=black,
        layout=layout,
        mode=image.mode,
        format=image.format.replace("MPO", "JPEG"),  # JPEG with further pictures after the first
        n_frames=n_frames,
        warnings=tuple(notes),
        options=options,
        **metadata,
    )


def _bits_per_channel(path: Path, file: BinaryIO, image: Image.Image) -> Literal[8, 16]:
    """8 or 16; refuses what neither can hold. Pillow cuts deep colour to 8 bits without a word."""
    head = _peek(file, 1 << 20)
    bits, kind = 8, "integer"
    if image.format == "PNG":
        bits = max(8, head[24])
    elif image.format == "TIFF":
        bits = max(8, *image.tag_v2.get(258, (8,)))
        kind = {1: "integer", 2: "signed", 3: "float"}.get(image.tag_v2.get(339, (1,))[0], "odd")
        if bits == 16:
            _refuse_odd_tiff_of_16_bits(path, image)
    elif image.format == "JPEG2000":
        size_marker = head.find(b"\xff\x4f\xff\x51")
        bits = max(8, (head[size_marker + 42] & 0x7F) + 1)
    elif image.format == "AVIF":
        bits = 10 if _av1_flags(head) & 0x40 else 8
    elif image.format == "SGI":
        bits = 8 * head[3]
    elif image.format == "PPM":
        bits = _bits_of_ppm(path, head)
    elif image.mode.startswith("I;16"):
        bits = 16
    if image.mode == "F":
        bits, kind = 32, "float"
    grey = image.mode.startswith("I") or image.format in ("PNG", "TIFF")
    if kind != "integer" or bits not in (8, 16) or (bits == 16 and not grey):
        name = f"{bits}-bit {kind if kind != 'integer' else 'channels'}"
        reason = f"{image.format} with {name} cannot be kept exactly: "
        raise MediaError(path, reason + "convert it to 8 or 16-bit PNG or TIFF first")
    return bits


def _refuse_odd_tiff_of_16_bits(path: Path, image: Image.Image) -> None:
    """Neither Pillow nor FFmpeg turns these 16-bit TIFFs into grey or RGB, and neither says so."""
    if 322 in image.tag_v2 and not image.mode.startswith("I;16"):
        raise MediaError(path, "a tiled 16-bit TIFF: save it in strips, or as PNG, first")
    colours = image.tag_v2.get(262, 0)
    if colours not in (1, 2):  # grey with black as zero, RGB
        known = {0: "grey with white as zero", 5: "CMYK"}
        what = known.get(colours, f"photometric interpretation {colours}")
        advice = "convert it to RGB, or to grey with black as zero, first"
        raise MediaError(path, f"a 16-bit TIFF in {what} cannot be kept exactly: {advice}")
    extra = tuple(image.tag_v2.get(338, ()))
    if extra not in ((), (2,)):  # 2: alpha by which the colours are not multiplied
        what = "alpha multiplied into its colours" if extra == (1,) else f"extra channels {extra}"
        advice = "save it with unassociated alpha, or without alpha, first"
        raise MediaError(path, f"a 16-bit TIFF with {what} cannot be kept exactly: {advice}")


def _bits_of_ppm(path: Path, head: bytes) -> int:
    """8 or 16 where the largest value is 255 or 65535, others are refused; 8 where there is none:
    bitmaps (P1, P4), and floats, whose mode tells."""
    kind, _, _, largest, *_ = re.sub(rb"#[^\n]*", b" ", head[:2000]).split(maxsplit=4)
    if kind not in (b"P2", b"P3", b"P5", b"P6"):
        return 8
    if largest not in (b"255", b"65535"):
        raise MediaError(
            path,
            f"its largest value is {largest.decode('ascii', 'replace')}, not 255 or 65535, and "
            "cannot be kept: convert it to 8 or 16-bit PNG first",
        )
    return 8 if largest == b"255" else 16


def _av1_flags(head: bytes) -> int:
    """The byte of an AVIF's first `av1C` box that tells depth and chroma sampling."""
    return head[head.find(b"av1C") + 6]


def _peek(file: BinaryIO, size: int) -> bytes:
    position = file.tell()
    file.seek(0)
    head = file.read(size)
    file.seek(position)
    return head


def _planes_of_8_bits(path: Path, image: Image.Image) -> tuple:
    """rgb, alpha or None, black or None, layout."""
    layout = LAYOUTS.get(image.mode)
    if layout is None:
        raise MediaError(path, f"colour mode {image.mode} cannot be kept: convert it to RGB first")
    if image.has_transparency_data and not layout.endswith("A"):
        layout += "A"
    held = image if image.mode == layout else image.convert(layout)
    if layout == "CMYK":
        return _pixels(image.convert("RGB")), None, _pixels(held, 3, 4)[..., 0], layout
    colours = 1 if layout in ("L", "LA") else 3
    rgb = _pixels(held, 0, colours)
    alpha = _pixels(held, colours, colours + 1)[..., 0] if layout.endswith("A") else None
    profile = image.info.get("icc_profile") or b""
    if image.mode == "P" and profile[16:20] != b"RGB " and (rgb == rgb[..., :1]).all():
        layout = layout.replace("RGB", "L")
    return (rgb.repeat(3, axis=2) if colours == 1 else rgb), alpha, None, layout


def _pixels(image: Image.Image, first: int = 0, last: int = 3) -> np.ndarray:
    """(H, W, last - first) uint8, copied by bands of rows: Pillow's own export needs it twice."""
    width, height = image.size
    pixels = np.empty((height, width, last - first), np.uint8)
    for top in range(0, height, 256):
        band = np.asarray(image.crop((0, top, width, min(top + 256, height))))
        pixels[top : top + 256] = band.reshape(*band.shape[:2], -1)[..., first:last]
    return pixels


def _planes_of_16_bits(
    path: Path, file: BinaryIO, image: Image.Image, stored_orientation: int
) -> tuple:
    """The same in uint16, always without black. Pillow holds 16-bit grey, FFmpeg also colour."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint16, copy=False)
        clear = image.info.get("transparency")
        alpha = None if clear is None else np.where(grey == clear, 0, 65535).astype(np.uint16)
        rgb = grey[..., None].repeat(3, axis=2)
        return rgb, alpha, None, "L" if alpha is None else "LA"
    file.seek(0)
    with av.open(file, format={"PNG": "png_pipe", "TIFF": "tiff_pipe"}[image.format]) as container:
        frame = next(container.decode(video=0))
    kind = frame.format.name
    if kind == "ya16be":
        rows = np.frombuffer(frame.planes[0], ">u2").reshape(frame.height, -1)
        pixels = rows[:, : frame.width * 2].reshape(frame.height, frame.width, 2)
    elif re.match("(rgb48|rgba64|gbrp16|gbrap16)[bl]e$", kind):
        pixels = frame.to_ndarray()
    else:
        raise MediaError(path, f"16-bit {image.format} of an odd kind ({kind}): save it as RGB")
    del frame  # as large as its pixels
    layout = {2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    pixels = _upright(pixels, stored_orientation).astype(np.uint16, copy=False)  # as Pillow did
    alpha = pixels[..., -1].copy() if layout.endswith("A") else None
    rgb = pixels[..., :1].repeat(3, axis=2) if layout == "LA" else pixels[..., :3]
    return rgb, alpha, None, layout


def _upright(plane: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) turned as EXIF orientation 1..8 asks; other values mean nothing."""
    if orientation in (5, 6, 7, 8):
        plane = plane.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        plane = plane[::-1]
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    return np.ascontiguousarray(plane)


def _metadata(image: Image.Image, notes: list[str]) -> tuple[int, dict]:
    """Orientation of the pixels as decoded, and exif, xmp, icc and dpi as `Picture` holds them."""
    orientation, exif_bytes = 1, image.info.get("exif", b"")
    try:
        exif = image.getexif()
        orientation = exif.get(ORIENTATION, 1)
        if image.format == "TIFF":
            exif_bytes = _descriptive(exif).tobytes()
        elif orientation != 1 or (exif and not exif_bytes):  # a PNG may hide it in text
            exif[ORIENTATION] = 1
            exif_bytes = exif.tobytes()
        elif exif_bytes and not exif_bytes.startswith(b"Exif\0\0"):
            exif_bytes = b"Exif\0\0" + exif_bytes  # WebP does without, JPEG does not
    except DECODER_ERRORS as error:
        exif_bytes = b""
        notes.append(f"its EXIF block is damaged and left out ({error})")
    xmp = image.info.get("xmp", b"")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    dpi = tuple(float(value) for value in image.info.get("dpi", ()))
    return orientation, {
        "exif": exif_bytes,
        "xmp": re.sub(rb'(tiff:Orientation(?:="|>))\d', rb"\g<1>1", xmp),
        "icc": image.info.get("icc_profile") or b"",
        "dpi": dpi if len(dpi) == 2 and all(1 < value < 1e6 for value in dpi) else None,
    }


def _descriptive(exif: Image.Exif) -> Image.Exif:
    """The entries that describe the picture, without those that describe how it is stored."""
    kept = Image.Exif()
    # description, make, model, software, date, artist, host, rating, copyright
    for tag in (270, 271, 272, 305, 306, 315, 316, 18246, 33432):
        if tag in exif:
            kept[tag] = exif[tag]
    for directory in (EXIF, GPS):
        if entries := exif.get_ifd(directory):
            kept.get_ifd(directory).update(entries)
            kept[directory] = 0  # its place in the file: set when it is written
    return kept


def _format_options(file: BinaryIO, image: Image.Image) -> dict:
    """Settings of Pillow's `save` that repeat how this file was written."""
    if image.format in ("JPEG", "MPO"):
        sampling = JpegImagePlugin.get_sampling(image)
        options = {"subsampling": sampling} if sampling >= 0 else {}
        iptc = [data for name, data in image.applist if name == "APP13"]  # captions, credits
        if markers := [b"\xff\xed" + struct.pack(">H", 2 + len(data)) + data for data in iptc]:
            options["extra"] = b"".join(markers)
        if comment := image.info.get("comment"):
            options["comment"] = comment
        return options | {"progressive": bool(image.info.get("progressive"))}
    if image.format == "AVIF":
        chroma = _av1_flags(_peek(file, 1 << 20)) >> 2 & 7  # none, halved across, halved down
        kinds = {0b000: "4:4:4", 0b010: "4:2:2", 0b011: "4:2:0"}
        return {"subsampling": kinds[chroma]} if chroma in kinds else {}
    if image.format == "JPEG2000":
        return {"no_jp2": _peek(file, 4) == b"\xff\x4f\xff\x51"}
    if image.format == "WEBP":
        lossless = any(name == b"VP8L" for name, _ in _chunks(file, 12, "<"))
        return {"lossless": True, "exact": True} if lossless else {}
    if image.format == "TIFF":
        exact = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd")
        used = image.info.get("compression")
        return {"compression": used if used in exact else "tiff_adobe_deflate"}
    if image.format == "PNG":
        kept = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tEXt", b"zTXt", b"iTXt")
        found = [chunk for chunk in _chunks(file, 8, ">") if chunk[0] in kept]
        # XMP travels by itself, and an old way of hiding EXIF in text would turn the image twice
        hidden = tuple(b"Raw profile type " + kind for kind in (b"exif", b"APP1", b"xmp"))
        private = (b"XML:com.adobe.xmp", *hidden)
        return {"chunks": [(name, data) for name, data in found if not data.startswith(private)]}
    return {}


def _chunks(file: BinaryIO, start: int, order: Literal["<", ">"]) -> list[tuple[bytes, bytes]]:
    """Names of the chunks of a PNG or RIFF; of a PNG with their contents, but for image data."""
    found = []
    position = file.tell()
    file.seek(start)
    while len(head := file.read(8)) == 8:
        if order == ">":
            (size, name), padding = struct.unpack(">I4s", head), 4  # a checksum follows
        else:
            name, size = struct.unpack("<4sI", head)
            padding = size % 2
        wanted = order == ">" and name not in (b"IDAT", b"fdAT")
        found.append((name, file.read(size) if wanted else b""))
        file.seek(padding if wanted else size + padding, os.SEEK_CUR)
    file.seek(position)
    return found


# ----------------------------------------------------------------------------------------------
# Pictures out
# ----------------------------------------------------------------------------------------------


def format_name(format: str) -> str:
    """Pillow's name for a format given as an extension ("jpg", ".tif", "PNG")."""
    name = IMAGE_FORMATS.get("." + format.lower().lstrip("."))
    if name not in WRITABLE:
        choices = ", ".join(
            suffix[1:] for suffix, each in IMAGE_FORMATS.items() if each in WRITABLE
        )
        raise ValueError(f"images cannot be written as {format!r}: choose one of {choices}")
    return name


def written_layout(picture: Picture, path: str | Path, *, format: str | None = None) -> str:
    """The layout in which `write_picture` would write, or `MediaError` if it would lose something.

    Worth asking before the computation: a 16-bit or transparent picture does not fit a JPEG.
    """
    name = format_name(format) if format else picture.format
    if name not in WRITABLE:
        raise MediaError(path, f"{name} can be read but not written: choose a format such as png")
    deep = picture.rgb.dtype == np.uint16
    held = (WRITABLE_16_BIT if deep else WRITABLE).get(name, ())
    layout = picture.layout
    if picture.alpha is not None and "RGBA" not in held:
        opaque = (picture.alpha == np.iinfo(picture.alpha.dtype).max).all()
        layout = layout[:-1] if opaque else layout
    while layout not in held and layout in NEXT_BEST:
        layout = NEXT_BEST[layout]
    if layout not in held:
        what = f"{16 if deep else 8}-bit {picture.layout}"
        raise MediaError(path, f"{name} cannot hold {what} as it is: choose png or tiff")
    return layout


def write_picture(
    picture: Picture,
    rgb: np.ndarray,
    path: str | Path,
    *,
    format: str | None = None,
    quality: int = 95,
) -> None:
    """Write `rgb` (shape and type of `picture.rgb`) with everything else as the source had it.

    `format` is an extension such as "png"; None writes the format that was read. Palettes become
    grey or RGB(A) (new colours do not fit the old palette; GIF is quantised again), 1-bit images
    become grey. WebP that was lossless stays so, other lossy formats get `quality`; a JPEG keeps
    its chroma sampling. EXIF, XMP, ICC profile and resolution go where the format has a place.

    Raises `MediaError` where something would be lost or cannot be written; nothing is left then.
    """
    if rgb.shape != picture.rgb.shape or rgb.dtype != picture.rgb.dtype:
        given = f"{rgb.shape} {rgb.dtype}"
        raise ValueError(f"rgb is {given}: expected {picture.rgb.shape} {picture.rgb.dtype}")
    path = Path(path)
    layout = written_layout(picture, path, format=format)
    name = format_name(format) if format else picture.format
    try:
        encoded = _encoded(picture, rgb, name, layout, quality)
    except DECODER_ERRORS as error:
        reason = f"cannot be written as {name} ({error}): choose another format"
        raise MediaError(path, reason) from error
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(encoded)


def _encoded(picture: Picture, rgb: np.ndarray, name: str, layout: str, quality: int) -> bytes:
    """The whole file, in memory: Pillow hides a full disk behind "encoder error -2"."""
    options = _save_options(picture, name, layout, quality)
    buffer = io.BytesIO()
    if rgb.dtype == np.uint16 and layout != "L":
        channels = _grey(rgb)[..., None] if layout == "LA" else rgb
        if layout.endswith("A"):
            channels = np.dstack([channels, picture.alpha])
        (_save_png_of_16_bits if name == "PNG" else _save_tiff_of_16_bits)(
            buffer, channels, options
        )
    else:
        _as_image(picture, rgb, layout).save(buffer, name, **options)
    return buffer.getvalue()  # no copy; getbuffer in a traceback ends Python 3.12


def _as_image(picture: Picture, rgb: np.ndarray, layout: str) -> Image.Image:
    if picture.layout == "CMYK":
        return _as_cmyk(picture, rgb, layout)
    if picture.layout in ("L", "LA"):
        image = Image.fromarray(_grey(rgb))
        image = image if layout in ("L", "LA") else image.convert("RGB")
    else:
        image = Image.fromarray(rgb)
    if layout.endswith("A"):
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _grey(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb.mean(axis=2, dtype=np.float32)).astype(rgb.dtype)


def _as_cmyk(picture: Picture, rgb: np.ndarray, layout: str) -> Image.Image:
    """CMYK with the old black plate (less where the image became lighter), or true RGB of it.

    Inks stay inks: no profile is applied, so untouched pixels keep their inks and an embedded
    profile stays valid. Only on the way to an RGB format does the profile decide the colours.
    """
    black = np.minimum(picture.black, 255 - rgb.max(axis=2))
    light = (255 - black.astype(np.uint16))[..., None]
    # RGB = (255 - CMY) * (255 - K) / 255, solved for CMY with rounding; all fits in 16 bits
    inks = 255 - (rgb * np.uint16(255) + light // 2) // np.maximum(light, 1)
    plates = np.dstack([np.where(light == 0, 0, inks).astype(np.uint8), black])
    image = Image.frombytes("CMYK", rgb.shape[1::-1], plates.tobytes())
    if layout == "CMYK":
        return image
    if picture.icc[16:20] != b"CMYK":
        return image.convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")


def _save_options(picture: Picture, name: str, layout: str, quality: int) -> dict:
    """Arguments of Pillow's `save`: quality, the source's own settings, and the metadata."""
    options = dict(picture.options) if name == picture.format else {}
    if name in ("JPEG", "WEBP", "AVIF"):
        exact = name == "AVIF" and layout.endswith("A")  # AVIF's alpha is exact at 100 only
        options |= {"quality": 100 if exact else quality, "xmp": picture.xmp}
    if name in ("JPEG", "AVIF") and not layout.startswith("L"):
        options.setdefault("subsampling", "4:4:4")  # unless the source had its chroma halved
    if picture.dpi:
        options["dpi"] = picture.dpi
    same_space = layout.rstrip("A") == picture.layout.rstrip("A")
    if picture.icc and (same_space or picture.icc[16:20] == ICC_SPACES[layout]):
        options["icc_profile"] = picture.icc
    if name == "TIFF":
        exif = Image.Exif()
        exif.load(picture.exif)
        options["exif"] = _descriptive(exif)
        options["exif"].update({0x02BC: picture.xmp} if picture.xmp else {})
    elif picture.exif:
        options["exif"] = picture.exif
    if name == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["compress_level"] = 2  # a fifth of the time of 6 for up to a tenth more bytes
        for chunk, data in options.pop("chunks", ()):
            options["pnginfo"].add(chunk, data)
        if picture.xmp:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    return options


def _save_png_of_16_bits(file: BinaryIO, pixels: np.ndarray, options: dict) -> None:
    """PNG from (H, W, 2 to 4) uint16. Pillow writes the metadata, its pixels stop at 8 bits."""
    height, width, channels = pixels.shape
    file.write(b"\x89PNG\r\n\x1a\n")
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0)
    PngImagePlugin.putchunk(file, b"IHDR", header)
    for name, data, _ in PngImagePlugin.getchunks(Image.new("RGB", (1, 1)), **options):
        if name not in (b"IHDR", b"IDAT", b"IEND"):
            PngImagePlugin.putchunk(file, name, data)
    deflate = zlib.compressobj()
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, 64):
        rows = pixels[top : top + 64].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        filtered = np.full((len(rows), 1 + rows.shape[1]), 2, np.uint8)  # 2: less the row above
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        PngImagePlugin.putchunk(file, b"IDAT", deflate.compress(filtered))
    PngImagePlugin.putchunk(file, b"IDAT", deflate.flush())
    PngImagePlugin.putchunk(file, b"IEND")


def _save_tiff_of_16_bits(file: BinaryIO, pixels: np.ndarray, options: dict) -> None:
    """TIFF from (H, W, 3 or 4) uint16, in deflated strips of 64 rows of differences."""
    height, width, channels = pixels.shape
    strips = []
    for top in range(0, height, 64):
        steps = np.diff(pixels[top : top + 64], axis=1, prepend=np.uint16(0))
        strips.append(zlib.compress(steps.astype("<u2").tobytes()))
    sizes = [len(strip) for strip in strips]
    tags = {256: width, 257: height, 258: (16,) * channels, 259: 8, 262: 2}
    tags |= {273: tuple(accumulate(sizes, initial=0))[:-1], 277: channels, 278: 64}
    tags |= {279: tuple(sizes), 284: 1, 317: 2}
    if channels == 4:
        tags[338] = 2  # the extra channel is alpha, not multiplied into the colours
    if "dpi" in options:
        tags |= {282: options["dpi"][0], 283: options["dpi"][1], 296: 2}
    if "icc_profile" in options:
        tags[34675] = options["icc_profile"]
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    exif = options["exif"]
    for tag in exif:
        directory[tag] = exif.get_ifd(tag) if tag in (EXIF, GPS) else exif[tag]
    for tag, value in tags.items():
        directory[tag] = value
    directory.save(file)  # makes the strips' offsets count from its own end
    file.writelines(strips)
