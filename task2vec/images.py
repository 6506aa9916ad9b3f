"""Any image becomes the RGB picture that a person would see."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from task2vec.errors import TaskError, UnreadableImageError

# What Pillow, the zip reader and the file system raise for bytes that are not a whole image.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
)

# Formats that Pillow knows by name, but decodes not at all or only with another program's help.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
OVERSHOOT = 0.3  # of a range: bicubic resampling adds at most 0.28 of it beyond each of its ends
FEW = 0.05  # of all pixels, those beside sharp edges: where more lie beyond a range, it is another range
DIM = 16  # of 255: nothing is seen of a picture whose brightest pixel is darker
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation in EXIF."""
ORIENTATION_NOTES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow finds that
PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}  # what opens others


def image_extensions() -> frozenset[str]:
    """Lower-case endings of the files that Pillow opens, those of registered plugins included."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(e for e, kind in known if kind in Image.OPEN and kind not in NOT_DECODED)


def open_image(read: Callable[[], bytes], name: str) -> Image.Image:
    """Read and decode one image file to RGB, with its EXIF rotation applied.

    Raises:
        UnreadableImageError: the file is not an image, is truncated, or is implausibly large; names `name`.
    """
    try:
        image = Image.open(BytesIO(read()))
        image.load()
        return to_rgb(image)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"{name} is not an image; replace or remove it") from error
    except UNREADABLE as error:
        raise UnreadableImageError(f"cannot read image {name} ({error}); replace or remove it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Grey, 16-bit, palette, CMYK and transparent images become RGB; transparency is laid on white."""
    image = _upright(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.uint16)
        _refuse_black(int(values.max()))
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_stretch(np.asarray(image)))
    has_transparency = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_transparency:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF says that it was held. Nothing else of the EXIF is looked at, which may be damaged."""
    image.load()  # Pillow turns a TIFF when it is decoded
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for note in ORIENTATION_NOTES:  # or the next who looks would turn it again
        turned.info.pop(note, None)
    return turned


def _stretch(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """32-bit pixels have no agreed range: 0 to 1, 0 to 255 and 0 to 65535 are kept as such, others are an error.

    What resampling adds to floats beyond the ends of the first two ranges is cut off.
    """
    if not np.isfinite(values).all():
        raise ValueError("it has NaN or infinite pixels")
    low, high = float(values.min()), float(values.max())
    if _is_within(values, 1):
        return np.rint(255.0 * values.clip(0, 1)).astype(np.uint8)
    if _is_within(values, 255):
        if high < DIM and _are_floats(values):  # of 0 to 10, say
            raise ValueError(f"its pixels span {low:g} to {high:g}, which is neither 0 to 1 nor 0 to 255; rescale them")
        return values.clip(0, 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(f"its pixels span {low:g} to {high:g}, outside of 0 to 65535; rescale them to 0 to 1")
    _refuse_black(int(high))
    return (values / 257).astype(np.uint8)


def _is_within(values: np.ndarray[Any, Any], top: float) -> bool:
    """Whether pixels are of the range from 0 to `top`; floats but for what resampling adds beyond to few of them."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= top:
        return True
    if not _are_floats(values) or low < -OVERSHOOT * high or high > (1 + OVERSHOOT) * top:
        return False
    step = top / 255  # by less than which nothing is cut off, as where rounding makes a white ground 1.0000001
    return int(np.count_nonzero((values < -step) | (values > top + step))) <= FEW * values.size


def _are_floats(values: np.ndarray[Any, Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def _refuse_black(brightest: int) -> None:
    """Refuse pixels of 8, 10 or 12 bits in 16: nothing would be seen of them.

    14 bits in 16 are seen, with a quarter of the brightness, and pictures of 16 bits that are as dark cannot be told
    from them.
    """
    if 0 < brightest < 256 * DIM:
        raise ValueError(
            f"its 16-bit pixels are at most {brightest} of 65535, which is black; save it with 8 bits, or stretched"
        )


def arrays_to_uint8(images: np.ndarray[Any, Any] | torch.Tensor) -> np.ndarray[Any, Any]:
    """Image arrays of any layout to uint8 `(N, H, W, 3)`.

    Takes `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with C of 1, 3 or 4, as uint8 (other integers and booleans if
    they fit) or as floats in [0, 1], from which what resampling adds beyond to few is cut off. Where both layouts
    would fit, numpy arrays are read as channels last and tensors as channels first.

    Raises:
        TaskError: the shape or the values do not fit; names the first offending image.
    """
    channels_first_wins = isinstance(images, torch.Tensor)
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape[1:]:
        raise TaskError(f"images have shape {tuple(array.shape)}; give (N, H, W), (N, H, W, C) or (N, C, H, W)")
    last, first = array.shape[-1] in (1, 3, 4), array.shape[1] in (1, 3, 4)
    if not (last or first):
        raise TaskError(f"images of shape {tuple(array.shape)} have no axis of 1, 3 or 4 channels")
    if first and (channels_first_wins or not last):
        array = array.transpose(0, 2, 3, 1)
    array = _to_uint8(array)
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    if array.shape[-1] == 4:
        return np.stack([np.asarray(to_rgb(Image.fromarray(image, "RGBA"))) for image in array])
    return np.ascontiguousarray(array)


def _to_uint8(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8 or not len(array):
        return array.astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    is_float = _are_floats(array)
    if not (is_float or np.issubdtype(array.dtype, np.integer)):
        raise TaskError(f"images have dtype {array.dtype}; give uint8, or floats in [0, 1]")
    flat = array.reshape(len(array), -1)
    not_finite = ~np.isfinite(flat).all(axis=1)
    if not_finite.any():
        raise TaskError(f"image {int(not_finite.argmax())} has NaN or infinite pixels; clean or drop it")
    top = 1 if is_float else 255
    if not _is_within(flat, top):
        raise TaskError(
            f"{array.dtype} images must lie in [0, {top}] and yours span [{flat.min():g}, {flat.max():g}]; rescale them"
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8) if is_float else array.astype(np.uint8)
