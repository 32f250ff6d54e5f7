"""Pictures and recordings, opened from what people have: paths, data URLs, bytes, arrays, what `datasets` stores.

Training and inference open them here, so that a model is asked what it learned from.

Legend: samples (of a recording), channels, height, width.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,")


def open_condition(condition: Mapping[str, Any], sampling_rate: int | None = None) -> dict[str, Any]:
    """A condition with its picture and its recording opened; all else stays as it is.

    Args:
        condition: Named parts. `image` may be a path, a data URL, bytes, an array or a picture, `audio` likewise, or a
            dictionary with `array` (or `path` or `bytes`, as `datasets` has them) and `sampling_rate`; arrays of samples may
            have their rate beside them as `sampling_rate`.
        sampling_rate: Samples a second that recordings are resampled to; left out, they stay as they are.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for what cannot be read.
    """
    opened = dict(condition)
    if opened.get("image") is not None:
        opened["image"] = open_picture(opened["image"])
    if opened.get("audio") is not None:
        waves, rate = open_recording(opened["audio"], opened.get("sampling_rate"))
        if sampling_rate is not None and rate is not None and rate != sampling_rate:
            waves, rate = resample(waves, rate, sampling_rate), sampling_rate
        opened["audio"] = waves
        if rate is not None:
            opened["sampling_rate"] = rate
    return opened


def get_sampling_rate(processor: Any) -> int | None:
    """The samples a second that a processor takes recordings at; `None` if it takes none, or any."""
    return getattr(getattr(processor, "feature_extractor", None), "sampling_rate", None)


def open_picture(source: Any) -> Any:
    """A picture in RGB, upright, from anything that holds one.

    Args:
        source: A path, a data URL, bytes, a dictionary with `bytes` or `path`, a picture of Pillow, or an array of grey, RGB or
            RGBA (height, width), (height, width, channels) or (channels, height, width): whole numbers up to 255, or truth
            values. An array of fractions stays one, (height, width, 3), for the image processor to read as it does.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for what is no picture.
    """
    images, operations = _import_pillow()
    images.init()  # Every format from the start: of threads that find them out one by one, some would miss one.
    source = _take_content(source)
    if hasattr(source, "getbands"):
        with _naming("the picture", "none that can be read"):
            return _to_rgb(operations.exif_transpose(source))
    if not isinstance(source, (str, bytes, os.PathLike)):
        pixels = _read_pixels(source)
        return images.fromarray(pixels).convert("RGB") if pixels.dtype == np.uint8 else pixels
    file, name = _find(source, "picture")
    with _naming(name, "no picture that can be read"), images.open(file) as picture:
        return _to_rgb(operations.exif_transpose(picture))


def _import_pillow() -> tuple[Any, Any]:
    """`Image` and `ImageOps`. Only imports in a `try` are no requirements of a model that carries this code to the Hub."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Pictures are opened with Pillow: pip install pillow") from error
    return Image, ImageOps


def _to_rgb(picture: Any) -> Any:
    """Three channels of 8 bits; Pillow would cut a grey of 16 bits at 255, and not scale it."""
    images, _ = _import_pillow()
    if picture.mode.startswith("I;16"):
        picture = images.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are numbers of 32 bits (mode {picture.mode}) of no known range; save it with 8 or 16 bits"
        )
    return picture.convert("RGB")


def open_recording(source: Any, sampling_rate: int | None = None) -> tuple[np.ndarray, int | None]:
    """A recording's samples between -1 and 1, (samples,), the mean of all channels, and how many there are a second.

    WAV files are read by SciPy, all others by soundfile.

    Args:
        source: A path, a data URL, bytes, a dictionary with `bytes` or `path`, or with `array` and `sampling_rate`, one of
            torchcodec's decoders, as columns of `datasets` give them, or an array (samples,), or with an axis for the channels,
            which is the shorter one. Whole numbers of 8, 16 and 32 bits are samples as WAV files have them.
        sampling_rate: Samples a second of an array.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for what is no recording, or one whose reader is not installed.
    """
    if isinstance(source, Mapping) and source.get("array") is not None:
        source, sampling_rate = source["array"], source.get("sampling_rate") or sampling_rate
    if hasattr(source, "get_all_samples"):
        decoded = source.get_all_samples()
        return _read_samples(np.asarray(decoded.data), 0, "The recording"), int(decoded.sample_rate)
    source = _take_content(source)
    if not isinstance(source, (str, bytes, os.PathLike)):
        samples = _read_numbers(source, "A recording")
        if samples.dtype in (np.int64, np.uint16, np.uint32, np.uint64):
            raise ValueError(
                f"Samples of {samples.dtype} have no known range. Give fractions, or whole numbers as WAV files have them: "
                "uint8, int16, int32."
            )
        if samples.dtype.kind not in "iuf" or samples.ndim not in (1, 2):
            raise ValueError(
                f"A recording as an array must have the shape (samples,) or (samples, channels), got {samples.dtype} of the "
                f"shape {samples.shape}."
            )
        channels = 0 if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else 1
        return _read_samples(samples, channels, "The recording"), None if sampling_rate is None else int(sampling_rate)
    file, name = _find(source, "recording")
    samples, rate = _read_wave(file, name) if _is_wave(file) else _read_sound(file, name)
    return _read_samples(samples, 1, name), rate


def resample(waves: np.ndarray, sampling_rate: int, wanted: int) -> np.ndarray:
    """A recording at another rate, by a polyphase filter that lets nothing through which the new rate cannot hold.

    Args:
        waves: (samples,).
        sampling_rate: Its samples a second.
        wanted: Those of the result.
    """
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError(
            f"The recording has {sampling_rate} samples a second, the model takes {wanted}. SciPy resamples it: "
            "pip install scipy"
        ) from error
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate must be 1 or more samples a second, got {sampling_rate}.")
    divisor = math.gcd(sampling_rate, wanted)
    return resample_poly(np.asarray(waves, dtype=np.float32), wanted // divisor, sampling_rate // divisor).astype(np.float32)


def _take_content(source: Any) -> Any:
    """What holds a picture or a recording; of a dictionary as `datasets` stores them what is in it."""
    if isinstance(source, Mapping):
        content = source.get("bytes") or source.get("path")
        if content is None:
            raise ValueError(f"Pictures and recordings in a dictionary need bytes or path, got {sorted(map(str, source))}.")
        source = content
    return bytes(source) if isinstance(source, (bytearray, memoryview)) else source


def _read_numbers(source: Any, what: str) -> np.ndarray:
    """An array of what is one already, or lists."""
    try:
        numbers = np.asarray(source)
        while numbers.dtype == object and any(isinstance(part, (np.ndarray, list)) for part in numbers.flat):
            numbers = np.stack([np.asarray(part) for part in numbers.tolist()])  # Arrays of arrays, as pandas has them.
    except ValueError as error:
        raise ValueError(f"{what} in lists must have lists of one length: {error}") from error
    if numbers.dtype == object and any(number is None for number in numbers.flat):
        raise ValueError(f"{what} must have all of its numbers; some of the {numbers.size:,} are missing.")
    return numbers


def _read_pixels(source: Any) -> np.ndarray:
    """An array as pixels: (height, width) or (height, width, 3 or 4) of whole numbers, (height, width, 3) of fractions."""
    pixels = _read_numbers(source, "A picture")
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype.kind not in "biuf" or not pixels.size or pixels.shape[2:] not in ((), (1,), (3,), (4,)) or pixels.ndim < 2:
        raise ValueError(
            "A picture as an array must have the shape (height, width), (height, width, channels) or (channels, height, width) "
            f"with 1, 3 or 4 channels, got {pixels.dtype} of the shape {pixels.shape}."
        )
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise ValueError("A picture as an array must have finite numbers; some are missing, or infinite.")
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    if pixels.dtype.kind == "b":
        pixels = pixels * np.uint8(255)
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"Whole numbers of a picture must be 0 to 255, got {pixels.min()} to {pixels.max()}.")
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _find(source: str | bytes | os.PathLike[str], what: str) -> tuple[Any, str]:
    """Where to read from, and what to call it in errors."""
    if isinstance(source, bytes):
        return io.BytesIO(source), f"the {what} of {len(source):,} bytes"
    if isinstance(source, str) and (match := _DATA_URL.match(source)):
        try:
            return io.BytesIO(base64.b64decode(source[match.end() :], validate=True)), f"the data URL {source[:40]}..."
        except binascii.Error as error:
            raise ValueError(f"The data URL {source[:40]!r}... is not base64: {error}.") from error
    if isinstance(source, str) and re.match(r"[a-z]+://", source):
        raise ValueError(f"{source!r} is on the network, which is not asked. Download it, and give its path.")
    if not os.path.isfile(source):
        raise FileNotFoundError(f"There is no {what} {str(source)!r}; looked from {os.getcwd()!r}.")
    return os.fspath(source), repr(str(source))


def _is_wave(file: Any) -> bool:
    if isinstance(file, io.BytesIO):
        start = file.read(4)
        file.seek(0)
    else:
        with open(file, "rb") as opened:
            start = opened.read(4)
    return start in (b"RIFF", b"RIFX")


def _read_wave(file: Any, name: str) -> tuple[np.ndarray, int]:
    try:
        from scipy.io import wavfile
    except ImportError as error:
        raise ImportError('WAV recordings are opened with SciPy: pip install "hf_genext[recipes]"') from error
    with _naming(name, "no recording in WAV that can be read"):
        rate, samples = wavfile.read(file)
    return samples, int(rate)


def _read_sound(file: Any, name: str) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ValueError(
            f"{name} is no recording in WAV that can be read. Others are read by soundfile, which is not installed: "
            "pip install soundfile"
        ) from error
    with _naming(name, "no recording that can be read"):
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return samples, int(rate)


def _read_samples(samples: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Samples of any kind as fractions, (samples,), the mean over an axis of channels."""
    if samples.dtype == np.uint8:
        waves = (samples.astype(np.float32) - 128.0) / 128.0
    elif samples.dtype in (np.int8, np.int16, np.int32):
        waves = samples.astype(np.float32) / float(2 ** (8 * samples.dtype.itemsize - 1))
    else:
        waves = samples.astype(np.float32)
    waves = waves.mean(axis=channels) if waves.ndim == 2 else waves
    if not waves.size:
        raise ValueError(f"{name} holds no samples.")
    if not np.isfinite(waves).all():
        raise ValueError(f"{name} holds samples that are no finite numbers.")
    return waves


@contextmanager
def _naming(name: str, what_is_wrong: str) -> Iterator[None]:
    """Name the file in an error; readers of damaged files raise whatever they stumble over."""
    try:
        yield
    except (ImportError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(f"{name} is {what_is_wrong}: {error}") from error


__all__ = ["get_sampling_rate", "open_condition", "open_picture", "open_recording", "resample"]
