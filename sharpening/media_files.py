"""Pictures, read and written as they are. Nothing here knows a network.

    picture = read_picture("holiday.jpg")                 # upright, (H, W, 3) uint8 or uint16
    write_picture(picture, sharpen(picture.rgb), "out/holiday.jpg")

Read from top to bottom: errors and tables (also those of video_files.py), reading, writing. The
bytes of EXIF, XMP and colour profiles are the matter of metadata.py.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

import av
import numpy as np
import simplejpeg
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from sharpening import SharpeningError, metadata
from sharpening.metadata import UnknownColours

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# ----------------------------------------------------------------------------------------------
# Errors and tables
# ----------------------------------------------------------------------------------------------

MAX_PIXELS = 200_000_000  # larger claims are refused as decompression bombs unless allowed
PARTIAL = ".partial-"  # begins the name of every unfinished file; hidden, so never read again

# Extension -> Pillow's name. PostScript, PDF and WMF are left out: reading them runs programs.
IMAGE_FORMATS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG",
    ".jfif": "JPEG", ".mpo": "JPEG", ".jps": "JPEG", ".insp": "JPEG", ".webp": "WEBP",
    ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".dib": "DIB", ".gif": "GIF",
    ".avif": "AVIF", ".avifs": "AVIF", ".jp2": "JPEG2000", ".j2k": "JPEG2000",
    ".j2c": "JPEG2000", ".jpc": "JPEG2000", ".jpf": "JPEG2000", ".jpx": "JPEG2000",
    ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".tga": "TGA", ".pcx": "PCX",
    ".ico": "ICO", ".sgi": "SGI", ".rgb": "SGI", ".rgba": "SGI", ".bw": "SGI", ".qoi": "QOI",
    ".dds": "DDS", ".psd": "PSD", ".xpm": "XPM", ".ras": "SUN",
}  # fmt: skip
READABLE = tuple(dict.fromkeys(IMAGE_FORMATS.values()))
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PROFILES_IN_TEXT = (b"exif", b"APP1", b"xmp")  # hidden in texts of a PNG by older programs

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

# What decoders raise on damaged files, besides the errors of the file system.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, struct.error, zlib.error, av.FFmpegError, ImageCms.PyCMSError,
)  # fmt: skip

FOREIGN_PICTURES = (
    ".heic", ".heif", ".heics", ".heifs", ".hif", ".jxl", ".jxr", ".wdp", ".exr", ".hdr", ".pfm",
    ".psb", ".3fr", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".dng",
    ".drf", ".eip", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".ptx", ".pxn", ".raf", ".rw2", ".rwl", ".rwz", ".sr2",
    ".srf", ".srw", ".x3f",
)  # fmt: skip
"""Pictures of phones and cameras that are not read: reported as failures, never passed over. Raw
files often begin with a small preview in TIFF, which must not be taken for the picture."""

# Containers that hold H.264 with exact frame times -> FFmpeg's name; others become .mkv.
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".lrv": "mp4", ".insv": "mp4", ".mov": "mov", ".qt": "mov",
    ".mkv": "matroska", ".mk3d": "matroska", ".3gp": "3gp", ".3g2": "3g2", ".ts": "mpegts",
    ".mts": "mpegts", ".m2ts": "mpegts", ".m2t": "mpegts", ".flv": "flv",
}  # fmt: skip
VIDEO_SUFFIXES = frozenset(CONTAINERS) | {
    ".264", ".265", ".360", ".amv", ".asf", ".avc", ".avi", ".braw", ".divx", ".dv", ".dvr-ms",
    ".evo", ".f4v", ".flc", ".fli", ".gxf", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2p",
    ".m2v", ".m4p", ".mjpeg", ".mjpg", ".mod", ".mpe", ".mpeg", ".mpg", ".mpv", ".mxf", ".nsv",
    ".nut", ".obu", ".ogm", ".ogv", ".ogx", ".r3d", ".rm", ".rmvb", ".tod", ".tp", ".trp",
    ".vc1", ".vob", ".vro", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
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
        with temporary.open("wb") as file:
            _is_ours(file)  # for as long as it is open, `remove_abandoned` leaves it
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


def _is_ours(file: BinaryIO) -> bool:
    """Lock an unfinished file; False if a program holds it, or nobody can tell."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files in `folder` that programs left behind when they were killed."""
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError), path.open("rb+") as file:
            if _is_ours(file):
                path.unlink()


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
    """EXIF as in the file, but with the orientation reset (the pixels are upright)."""
    xmp: bytes = b""
    """XMP packet, its orientation reset."""
    icc: bytes = b""
    """ICC profile: the file's own, or one of the colours that it tells by other means."""
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
            found = _Found(path, file)
            with Image.open(found.sound, formats=READABLE) as image:
                if not allow_huge and image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
                return _decoded_picture(found, image)
    except UnknownColours as error:
        raise MediaError(path, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise MediaError(path, "not an image, or of a kind that cannot be read") from error
    except Image.DecompressionBombError as error:
        reason = f"claims more than {MAX_PIXELS / 1e6:.0f} megapixels ({error}): allow huge images"
        raise MediaError(path, f"{reason} if you trust it") from error
    except DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise MediaError(path, f"cannot be read ({error.strerror})") from error
        raise MediaError(path, f"damaged or truncated ({error}): get a sound copy") from error


class _Found:
    """What one file holds beside its pixels, and what is wrong with it."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.sound: BinaryIO = file  # what decoders get: the file, or what is sound of it
        self.notes: list[str] = []
        self.exif = self.xmp = self.icc = b""
        self.orientation: int | None = None  # where the format tells it otherwise than by EXIF
        self.dpi: tuple[float, ...] = ()
        self.options: dict = {}
        head = _peek(file, 8)
        if head.startswith(b"\xff\xd8\xff"):
            self.jpeg = _checked_jpeg(self)
        elif head == PNG_SIGNATURE:
            self.chunks = _checked_png(self)

    def take(self, what: str, read: Callable[..., bytes], *arguments: object) -> bytes:
        """read(*arguments), or nothing and a note where the block is damaged."""
        try:
            return read(*arguments)
        except DECODER_ERRORS as error:
            self.notes.append(f"its {what} is damaged and left out ({error})")
            return b""

    def damaged(self, reason: object) -> MediaError:
        return MediaError(self.path, f"damaged or truncated ({reason}): get a sound copy")


def _decoded_picture(found: _Found, image: Image.Image) -> Picture:
    bits = _bits_per_channel(found.path, found.file, image)
    n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1:
        found.notes.append(f"holds {n_frames} frames or pages: only the first is used")
    _take_metadata(found, image)
    turn = _make_upright(found)
    if bits == 16 and image.format == "TIFF":
        *planes, layout = _planes_of_deep_tiff(found)
    else:
        image.load()  # for 16-bit colour too: Pillow finds damage that FFmpeg passes over
        if bits == 16:
            *planes, layout = _planes_of_16_bits(found, image)
        else:
            *planes, layout = _planes_of_8_bits(found, image)
            turn = 1 if image.format == "TIFF" else turn  # Pillow has turned it
    rgb, alpha, black = (p if p is None else _upright(p, turn) for p in planes)
    return Picture(
        rgb=rgb,
        alpha=alpha,
        black=black,
        layout=layout,
        mode=image.mode,
        format=image.format.replace("MPO", "JPEG"),  # JPEG with further pictures after the first
        exif=found.exif,
        xmp=found.xmp,
        icc=found.icc,
        dpi=found.dpi if len(found.dpi) == 2 else None,
        n_frames=n_frames,
        warnings=tuple(found.notes),
        options=found.options,
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
        if bits == 16 and kind == "integer":
            _refuse_odd_tiff_of_16_bits(path, image)
    elif image.format == "JPEG2000":
        size_marker = head.find(b"\xff\x4f\xff\x51")
        bits = max(8, (head[size_marker + 42] & 0x7F) + 1)
    elif image.format == "AVIF":
        bits = {0x40: 10, 0x60: 12}.get(_av1_flags(head) & 0x60, 8)
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
    """What is neither grey nor RGB, and would not be the same after a way through either."""
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


def _planes_of_8_bits(found: _Found, image: Image.Image) -> tuple:
    """rgb, alpha or None, black or None, layout."""
    layout = LAYOUTS.get(image.mode)
    if layout is None:
        reason = f"colour mode {image.mode} cannot be kept: convert it to RGB first"
        raise MediaError(found.path, reason)
    if image.has_transparency_data and not layout.endswith("A"):
        layout += "A"
    if image.format in ("BMP", "DIB") and layout == "RGBA" and not image.getextrema()[3][1]:
        layout = "RGB"  # programs that leave the fourth byte empty do not mean transparency
    if image.format == "TIFF" and (extra := image.tag_v2.get(277, 1) - len(layout)) > 0:
        found.notes.append(f"left out: channels besides its colours, {extra}")
    held = image if image.mode == layout else image.convert(layout)
    if layout == "CMYK":
        return _pixels(image.convert("RGB")), None, _pixels(held, 3, 4)[..., 0], layout
    colours = 1 if layout in ("L", "LA") else 3
    rgb = _pixels(held, 0, colours)
    alpha = _pixels(held, colours, colours + 1)[..., 0] if layout.endswith("A") else None
    if image.mode == "P" and found.icc[16:20] != b"RGB " and (rgb == rgb[..., :1]).all():
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


def _planes_of_16_bits(found: _Found, image: Image.Image) -> tuple:
    """The same in uint16, always without black. Pillow holds 16-bit grey, FFmpeg also colour."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint16, copy=False)
        clear = image.info.get("transparency")
        alpha = None if clear is None else np.where(grey == clear, 0, 65535).astype(np.uint16)
        rgb = grey[..., None].repeat(3, axis=2)
        return rgb, alpha, None, "L" if alpha is None else "LA"
    found.sound.seek(0)
    with av.open(found.sound, format="png_pipe") as container:
        frame = next(container.decode(video=0))
    kind = frame.format.name
    if kind == "ya16be":
        rows = np.frombuffer(frame.planes[0], ">u2").reshape(frame.height, -1)
        pixels = rows[:, : frame.width * 2].reshape(frame.height, frame.width, 2)
    elif re.match("(rgb48|rgba64)[bl]e$", kind):
        pixels = frame.to_ndarray()
    else:
        reason = f"16-bit {image.format} of an odd kind ({kind}): save it as RGB"
        raise MediaError(found.path, reason)
    del frame  # as large as its pixels
    return _split(pixels)


def _planes_of_deep_tiff(found: _Found) -> tuple:
    """The same of a TIFF, in strips or tiles, whatever its compression."""
    import tifffile  # takes a third of a second, and few need it

    size = found.file.seek(0, os.SEEK_END)
    found.file.seek(0)
    with tifffile.TiffFile(found.file) as tiff:
        page = tiff.pages.first
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not length or start + length > size:
                raise found.damaged("a part of its pixels is missing")
        pixels = page.asarray()
        apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        if apart:
            pixels = np.moveaxis(pixels.reshape(-1, page.imagelength, page.imagewidth), 0, -1)
    return _split(pixels.reshape(page.imagelength, page.imagewidth, -1))


def _split(pixels: np.ndarray) -> tuple:
    """Planes and layout of (H, W, 1 to 4) 16-bit pixels in any byte order."""
    layout = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    pixels = pixels.astype(np.uint16, copy=False)
    alpha = pixels[..., -1].copy() if layout.endswith("A") else None
    rgb = pixels[..., :1].repeat(3, axis=2) if layout in ("L", "LA") else pixels[..., :3]
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


def _checked_jpeg(found: _Found) -> metadata.JpegParts:
    """The parts of a JPEG. Pillow's decoder mends damage in silence, and refuses a picture that
    is whole but for its end marker."""
    data = found.file.read()
    parts = metadata.jpeg_parts(data)
    end = parts.end
    if end is None:
        data, end = data + b"\xff\xd9", len(data) + 2
        found.notes.append("its end is missing: the last pixels may be lost")
    found.sound = io.BytesIO(data)
    found.trailer = data[end:]
    frames = [content for marker, content in parts.segments if marker in (0xC0, 0xC1, 0xC2)]
    if frames and frames[0][:1] == b"\x08":  # bits; other depths are refused elsewhere
        _refuse_damaged_jpeg(found, data[:end], channels=frames[0][5])
    return parts


def _refuse_damaged_jpeg(found: _Found, data: bytes, channels: int) -> None:
    """Raises `MediaError` if libjpeg warns that pixels are lost, notes what may be damage."""
    colours, body, end = "CMYK" if channels == 4 else "GRAY", data[:-2], data[-2:]

    def warning(data: bytes) -> str:
        try:  # to an eighth of its sides, in a tenth of the time that Pillow needs
            simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8)
        except ValueError as error:
            return str(error)
        return ""

    told = warning(data)
    if told and not told.startswith(("Corrupt JPEG data", "Premature end")):
        return  # no damage, but something that this decoder lacks
    surplus = re.search(r"(\d+) extraneous bytes before marker 0xd9", told)
    if told and not surplus:
        raise found.damaged(told)
    if _has_overlong_blocks(data):
        raise found.damaged("a block holds more than 64 values")
    tail = body[-int(surplus[1]) :] if surplus else body[-1:]
    if tail.count(tail[-1:]) == len(tail) and tail[-1:] in (b"\0", b"\xff"):
        return  # cameras fill their blocks with zeros
    if len(tail) > 16:
        raise found.damaged(told)
    # after damage the rest is shifted, and a few bytes remain that libjpeg does not miss
    if told or not warning(body.removesuffix(b"\0")[:-1] + end):
        found.notes.append("bytes remain before its end: it may be damaged, look at the result")


def _has_overlong_blocks(data: bytes) -> bool:
    """Whether FFmpeg finds damage in a JPEG. Unlike libjpeg it counts the values of each block."""

    def decodes(**options: str) -> bool:
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"lowres": "3"} | options  # an eighth of the sides
        try:
            return bool(decoder.decode(av.Packet(data)) or decoder.decode(None))
        except av.FFmpegError:
            return False

    return not decodes(err_detect="explode") and decodes()


def _checked_png(found: _Found) -> list[metadata.Chunk]:
    """The chunks of a PNG whose checksums are right. Pillow refuses a picture for a damaged or
    very long text, so it gets the file without such chunks."""
    chunks = metadata.read_png_chunks(found.file)
    essential = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
    wrong = [chunk for chunk in chunks if not chunk.sound]
    for chunk in wrong:
        name = chunk.name.decode("ascii", "replace")
        if chunk.name in essential:
            raise found.damaged(f"the checksum of {name} is wrong")
        found.notes.append(f"its chunk {name} is damaged and left out")
    long = [chunk for chunk in chunks if chunk.sound and metadata.inflates_beyond(chunk, 1 << 20)]
    if wrong or long:
        parts = [PNG_SIGNATURE]
        for chunk in chunks:
            if chunk not in wrong and chunk not in long:
                found.file.seek(chunk.place)
                parts.append(found.file.read(chunk.size))
        found.sound = io.BytesIO(b"".join(parts))
    found.file.seek(0)
    return [chunk for chunk in chunks if chunk.sound]


def _take_metadata(found: _Found, image: Image.Image) -> None:
    """Fill `found` with everything beside the pixels, as it is in the file."""
    info = image.info
    xmp = info.get("xmp", b"")
    found.xmp = xmp.encode() if isinstance(xmp, str) else xmp
    found.exif = info.get("exif", b"")
    found.icc = info.get("icc_profile") or b""
    dpi = tuple(float(value) for value in info.get("dpi", ()))
    found.dpi = dpi if all(1 < value < 1e6 for value in dpi) else ()
    take = {
        "JPEG": _take_from_jpeg, "MPO": _take_from_jpeg, "PNG": _take_from_png,
        "TIFF": _take_from_tiff, "AVIF": _take_from_avif, "JPEG2000": _take_from_jp2,
        "WEBP": _take_from_webp, "QOI": _take_from_qoi,
    }.get(image.format)  # fmt: skip
    if take:
        take(found, image)
    if found.exif and not found.exif.startswith(metadata.EXIF_HEADER):
        found.exif = metadata.EXIF_HEADER + found.exif  # JPEG has it, others do without


def _make_upright(found: _Found) -> int:
    """EXIF and XMP of `found` for upright pixels -> the orientation of the pixels in the file."""
    turn = found.orientation
    try:
        turn = turn or metadata.orientation(found.exif, found.xmp)
        found.exif = found.exif and metadata.upright_exif(found.exif, turn)
    except DECODER_ERRORS as error:
        turn, found.exif = turn or 1, b""
        found.notes.append(f"its EXIF block is damaged and left out ({error})")
    found.xmp = metadata.upright_xmp(found.xmp, turn)
    if turn in (5, 6, 7, 8):
        found.dpi = found.dpi[::-1]
        if "aspect" in found.options:
            found.options["aspect"] = found.options["aspect"][::-1]
    return turn


def _take_from_jpeg(found: _Found, image: Image.Image) -> None:
    segments = found.jpeg.segments
    found.xmp = found.take("XMP", metadata.xmp_of_jpeg, segments, found.notes)
    found.xmp, extras = metadata.without_extras(found.xmp)
    if b"ftyp" in found.trailer:
        extras = list(dict.fromkeys([*extras, metadata.MOTION_PHOTO]))
    elif not extras and found.trailer[:2] != b"\xff\xd8" and len(found.trailer.strip(b"\0")) > 1000:
        extras = [f"{len(found.trailer)} bytes that follow the picture"]
    if extras:
        found.notes.append(f"left out: {', '.join(extras)}")
    if image.format == "JPEG" and found.trailer[:2] == b"\xff\xd8":  # MPO is counted elsewhere
        found.notes.append("holds further pictures: only the first is used")
    sampling = JpegImagePlugin.get_sampling(image)
    found.options = {"subsampling": sampling} if sampling >= 0 else {}
    comments = [data for marker, data in segments if marker == 0xFE]
    kept = [(0xED, data) for marker, data in segments if marker == 0xED]  # captions, credits
    kept += [(0xFE, data) for data in comments[:-1]]
    if kept:
        found.options["extra"] = b"".join(metadata.jpeg_segment(*each) for each in kept)
    if comments:
        found.options["comment"] = comments[-1]
    found.options["progressive"] = bool(image.info.get("progressive"))
    unit, density = image.info.get("jfif_unit"), image.info.get("jfif_density", (1, 1))
    if unit == 0 and density[0] != density[1] and all(density):
        found.options["aspect"] = density
    if unit not in (1, 2) and found.dpi == (72, 72):  # Pillow's guess where EXIF tells nothing
        tags = found.take("EXIF", metadata.first_tags, found.exif) or ()
        found.dpi = found.dpi if {282, 296} <= set(tags) else ()


def _take_from_png(found: _Found, image: Image.Image) -> None:
    chunks = {chunk.name: chunk.data for chunk in found.chunks}
    texts = [each for each in found.chunks if each.name in (b"tEXt", b"zTXt", b"iTXt")]
    hidden, others = {}, set()
    for chunk in texts:
        keyword = chunk.data.split(b"\0", 1)[0]
        kind = keyword.removeprefix(b"Raw profile type ")
        if keyword == b"XML:com.adobe.xmp" or (kind != keyword and kind in PROFILES_IN_TEXT):
            hidden[kind] = found.take(kind.decode(), metadata.png_text, chunk)
            others.add(chunk)
    profiles = {
        kind: found.take(kind.decode(), metadata.raw_profile, text)
        for kind, text in hidden.items()
        if kind in PROFILES_IN_TEXT
    }
    app1 = profiles.get(b"APP1", b"")
    is_xmp = app1.startswith(metadata.XMP_HEADER)
    found.exif = chunks.get(b"eXIf") or profiles.get(b"exif") or (b"" if is_xmp else app1)
    found.xmp = hidden.get(b"XML:com.adobe.xmp") or profiles.get(b"xmp", b"")
    if is_xmp and not found.xmp:
        found.xmp = app1.removeprefix(metadata.XMP_HEADER)
    own = found.take("ICC profile", metadata.png_profile, chunks.get(b"iCCP", b""))
    told = metadata.png_colours(chunks, grey=image.mode in ("1", "L", "LA", "I;16", "I"))
    found.icc = told or own
    if told:
        found.options["icc_profile"] = own  # PNG tells its colours as it did
    found.options["chunks"] = [
        (chunk.name, metadata.widened(chunk, chunks))
        for chunk in found.chunks
        if chunk not in others
        and (metadata.may_be_copied(chunk.name) or (chunk.name == b"pHYs" and not found.dpi))
    ]


def _take_from_tiff(found: _Found, image: Image.Image) -> None:
    exact = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd")
    used = image.info.get("compression")
    found.options = {"compression": used if used in exact else "tiff_adobe_deflate"}
    tiff = metadata.Tiff(found.file)
    first, _ = tiff.directory(tiff.first)
    found.orientation = (*tiff.numbers(first.get(metadata.ORIENTATION)), None)[0]
    found.xmp = first[metadata.XMP_TAG].data if metadata.XMP_TAG in first else b""
    found.icc = first[metadata.ICC_TAG].data if metadata.ICC_TAG in first else b""
    found.exif = found.take("EXIF", metadata.exif_of_tiff, tiff, found.notes)
    if used in ("tiff_adobe_deflate", "tiff_deflate", "jpeg"):
        tables = first[metadata.JPEG_TABLES].data if metadata.JPEG_TABLES in first else b""
        for encoded in tiff.strips(first):
            if used == "jpeg":
                data = tables[:-2] + encoded[2:] if tables else encoded
                _refuse_damaged_jpeg(found, data, image.tag_v2.get(277, 1))
            else:
                _refuse_damaged_deflate(found, encoded)


def _refuse_damaged_deflate(found: _Found, data: bytes) -> None:
    """Raises for a strip whose checksum is wrong: Pillow's decoder may stop before it."""
    inflate = zlib.decompressobj()
    while data and not inflate.eof:
        inflate.decompress(data, 1 << 20)
        data = inflate.unconsumed_tail
    if not inflate.eof:
        raise found.damaged("a strip of its pixels is cut short")


def _take_from_avif(found: _Found, image: Image.Image) -> None:
    chroma = _av1_flags(_peek(found.file, 1 << 20)) >> 2 & 7  # none, halved across, halved down
    kinds = {0b000: "4:4:4", 0b010: "4:2:2", 0b011: "4:2:0"}
    found.options = {"subsampling": kinds[chroma]} if chroma in kinds else {}
    # as in the file: `info` has EXIF that Pillow rewrites where another box tells the orientation
    *_, found.exif, found.orientation, _ = image._decoder.get_info()
    found.exif = found.exif or b""
    size = found.file.seek(0, os.SEEK_END)
    colours = metadata.box_contents(found.file, (b"meta", b"iprp", b"ipco", b"colr"), 0, size)
    numbers = [struct.unpack(">HH", each[4:8]) for each in colours if each[:4] == b"nclx"]
    if numbers and not found.icc:
        found.icc = metadata.cicp_profile(*numbers[0], grey=image.mode == "L")
    if b"tmap" in _peek(found.file, 4096):
        found.notes.append("left out: an HDR gain map")


def _take_from_jp2(found: _Found, image: Image.Image) -> None:
    bare = _peek(found.file, 4) == b"\xff\x4f\xff\x51"
    found.options = {"no_jp2": bare}
    if bare:
        return
    size = found.file.seek(0, os.SEEK_END)
    colours = metadata.box_contents(found.file, (b"jp2h", b"colr"), 0, size)
    found.icc = metadata.jp2_profile(colours)
    for content in metadata.box_contents(found.file, (b"uuid",), 0, size):
        if content.startswith(metadata.UUID_XMP):
            found.xmp = content[16:]
        if content.startswith(metadata.UUID_EXIF):
            found.exif = content[16:]
    found.orientation = 1  # no program turns JPEG 2000


def _take_from_webp(found: _Found, image: Image.Image) -> None:
    if metadata.is_lossless_webp(found.file):
        found.options = {"lossless": True, "exact": True}


def _take_from_qoi(found: _Found, image: Image.Image) -> None:
    if _peek(found.file, 14)[13:] == b"\0":
        found.options = {"colorspace": "sRGB"}


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
        file.writelines(encoded)


def _encoded(
    picture: Picture, rgb: np.ndarray, name: str, layout: str, quality: int
) -> list[bytes]:
    """The parts of the file, in memory: Pillow hides a full disk behind "encoder error -2"."""
    options = _save_options(picture, name, layout, quality)
    order = metadata.exif_order(picture.exif)
    buffer = io.BytesIO()
    if rgb.dtype == np.uint16 and (layout != "L" or (name == "TIFF" and order == ">")):
        channels = _grey(rgb)[..., None] if layout in ("L", "LA") else rgb
        if layout.endswith("A"):
            channels = np.dstack([channels, picture.alpha])
        if name == "PNG":
            _save_png_of_16_bits(buffer, channels, options)
        else:
            _save_tiff_of_16_bits(buffer, channels, options, order)
    else:
        _as_image(picture, rgb, layout).save(buffer, name, **options)
    # getvalue makes no copy; getbuffer in a traceback ends Python 3.12
    return _with_metadata(picture, name, options, buffer.getvalue())


def _with_metadata(picture: Picture, name: str, options: dict, encoded: bytes) -> list[bytes]:
    """The parts of the file, with what Pillow does not write, or not as it was."""
    exif, xmp, icc = picture.exif, picture.xmp, options.get("icc_profile", b"")
    if name == "TIFF" and (exif or xmp):
        return metadata.tiff_with_metadata(encoded, exif, xmp)
    if name == "JPEG" and "aspect" in options and encoded[6:11] == b"JFIF\0":
        return [encoded[:13], struct.pack(">BHH", 0, *options["aspect"]), encoded[18:]]
    if name == "PNG" and options.get("before_pixels"):
        start = len(PNG_SIGNATURE) + 25  # past the first chunk
        return [encoded[:start], options["before_pixels"], encoded[start:]]
    if name == "AVIF" and exif:
        return [encoded.replace(_stand_in(exif), exif[len(metadata.EXIF_HEADER) :], 1)]
    if name == "JPEG2000" and not options.get("no_jp2") and (icc or exif or xmp):
        return [metadata.jp2_with_metadata(encoded, icc, exif, xmp)]
    return [encoded]


def _stand_in(exif: bytes) -> bytes:
    """An empty block as long as `exif`: Pillow would rewrite one that holds an orientation."""
    return b"II*\0\x08\0\0\0\0\0\0\0\0\0".ljust(len(exif) - len(metadata.EXIF_HEADER), b"\xa5")


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
    """Arguments of Pillow's `save`: quality, the source's own settings, and the metadata.

    EXIF and XMP of TIFF and JPEG 2000 follow later: `_with_metadata`.
    """
    options = dict(picture.options) if name == picture.format else {}
    if name in ("JPEG", "WEBP", "AVIF"):
        exact = name == "AVIF" and layout.endswith("A")  # AVIF's alpha is exact at 100 only
        options |= {"quality": 100 if exact else quality}
    if name in ("JPEG", "AVIF") and not layout.startswith("L"):
        options.setdefault("subsampling", "4:4:4")  # unless the source had its chroma halved
    if picture.dpi:
        options["dpi"] = picture.dpi
    same_space = layout.rstrip("A") == picture.layout.rstrip("A")
    if picture.icc and (same_space or picture.icc[16:20] == ICC_SPACES[layout]):
        options.setdefault("icc_profile", picture.icc)
    if name == "JPEG":
        exif, xmp = metadata.exif_segments(picture.exif), metadata.xmp_segments(picture.xmp)
        options["exif"] = exif[0] if len(exif) == 1 else b""  # which stands before `extra`
        segments = [metadata.jpeg_segment(0xE1, each) for each in (exif if len(exif) > 1 else [])]
        captions = options.get("extra", b"")
        segments += [captions, *(metadata.jpeg_segment(0xE1, each) for each in xmp)]
        options["extra"] = b"".join(segments)
    elif name in ("WEBP", "AVIF"):
        options["xmp"] = picture.xmp
    if name == "AVIF" and picture.exif:
        options["exif"] = _stand_in(picture.exif)
    elif name in ("PNG", "WEBP") and picture.exif:
        options["exif"] = picture.exif
    if name == "PNG":
        options["compress_level"] = 2  # a fifth of the time of 6 for up to a tenth more bytes
        _add_chunks(options, layout, picture.xmp)
    return options


def _add_chunks(options: dict, layout: str, xmp: bytes) -> None:
    """The chunks of a source in PNG that are still true, and XMP, as Pillow takes them."""
    info = options["pnginfo"] = PngImagePlugin.PngInfo()
    channels = len(layout)
    sizes = {b"sBIT": channels, b"bKGD": 2 if channels < 3 else 6}  # others are of other layouts
    early = []
    for name, data in options.pop("chunks", ()):
        if name in (b"pHYs", b"oFFs", b"pCAL", b"sCAL", b"sTER"):  # which Pillow passes over
            early.append((name, data))
        elif len(data) == sizes.get(name, len(data)):
            info.add(name, data)
    options["before_pixels"] = metadata.png_chunks(early)
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))


def _save_png_of_16_bits(file: BinaryIO, pixels: np.ndarray, options: dict) -> None:
    """PNG from (H, W, 2 to 4) uint16. Pillow writes the metadata, its pixels stop at 8 bits."""
    height, width, channels = pixels.shape
    file.write(PNG_SIGNATURE)
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


def _save_tiff_of_16_bits(
    file: BinaryIO, pixels: np.ndarray, options: dict, order: Literal["<", ">"]
) -> None:
    """TIFF from (H, W, 1, 3 or 4) uint16, in deflated strips of 64 rows of differences."""
    height, width, channels = pixels.shape
    strips = []
    for top in range(0, height, 64):
        steps = np.diff(pixels[top : top + 64], axis=1, prepend=np.uint16(0))
        strips.append(zlib.compress(steps.astype(order + "u2").tobytes()))
    sizes = [len(strip) for strip in strips]
    tags = {256: width, 257: height, 258: (16,) * channels, 259: 8, 262: min(channels, 2)}
    tags |= {273: tuple(accumulate(sizes, initial=0))[:-1], 277: channels, 278: 64}
    tags |= {279: tuple(sizes), 284: 1, 317: 2}
    if channels == 4:
        tags[338] = 2  # the extra channel is alpha, not multiplied into the colours
    if "dpi" in options:
        tags |= {282: options["dpi"][0], 283: options["dpi"][1], 296: 2}
    if "icc_profile" in options:
        tags[34675] = options["icc_profile"]
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix={"<": b"II", ">": b"MM"}[order])
    for tag, value in tags.items():
        directory[tag] = value
    directory.save(file)  # makes the strips' offsets count from its own end
    file.writelines(strips)
