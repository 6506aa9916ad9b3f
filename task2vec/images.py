"""Image files and arrays of any kind become RGB pictures."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from task2vec.errors import TaskError, UnreadableImageError
from task2vec_base.pictures import are_floats, is_within, to_rgb

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
    is_float = are_floats(array)
    if not (is_float or np.issubdtype(array.dtype, np.integer)):
        raise TaskError(f"images have dtype {array.dtype}; give uint8, or floats in [0, 1]")
    flat = array.reshape(len(array), -1)
    not_finite = ~np.isfinite(flat).all(axis=1)
    if not_finite.any():
        raise TaskError(f"image {int(not_finite.argmax())} has NaN or infinite pixels; clean or drop it")
    top = 1 if is_float else 255
    if not is_within(flat, top):
        raise TaskError(
            f"{array.dtype} images must lie in [0, {top}] and yours span [{flat.min():g}, {flat.max():g}]; rescale them"
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8) if is_float else array.astype(np.uint8)
