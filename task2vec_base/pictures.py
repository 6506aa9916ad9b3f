"""Any picture becomes the RGB one that a person would see."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image

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


def to_rgb(image: Image.Image) -> Image.Image:
    """Grey, 16-bit, palette, CMYK and transparent images become RGB, upright; transparency is laid on white.

    Raises:
        ValueError: pixels of 16 or 32 bits are black, or of no known range.
        OSError, SyntaxError, struct.error: the file cannot be decoded.
    """
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
    if is_within(values, 1):
        return np.rint(255.0 * values.clip(0, 1)).astype(np.uint8)
    if is_within(values, 255):
        if high < DIM and are_floats(values):  # of 0 to 10, say
            raise ValueError(f"its pixels span {low:g} to {high:g}, which is neither 0 to 1 nor 0 to 255; rescale them")
        return values.clip(0, 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(f"its pixels span {low:g} to {high:g}, outside of 0 to 65535; rescale them to 0 to 1")
    _refuse_black(int(high))
    return (values / 257).astype(np.uint8)


def is_within(values: np.ndarray[Any, Any], top: float) -> bool:
    """Whether pixels are of the range from 0 to `top`; floats but for what resampling adds beyond to few of them."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= top:
        return True
    if not are_floats(values) or low < -OVERSHOOT * high or high > (1 + OVERSHOOT) * top:
        return False
    step = top / 255  # by less than which nothing is cut off, as where rounding makes a white ground 1.0000001
    return int(np.count_nonzero((values < -step) | (values > top + step))) <= FEW * values.size


def are_floats(values: np.ndarray[Any, Any]) -> bool:
    """Whether pixels are floats and not whole numbers."""
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
