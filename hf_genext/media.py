"""Pictures and recordings, opened from what people have: paths, data URLs, bytes, arrays.

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
    """A condition with its picture and its recording opened; what is open already, and all else, stays as it is.

    Args:
        condition: Named parts. `image` may be a path, a data URL, bytes, an array or a picture, `audio` likewise, or a
            dictionary with `array` (or `path` or `bytes`, as `datasets` has them) and `sampling_rate`; arrays of samples may
            have their rate beside them as `sampling_rate`.
        sampling_rate: Samples a second that recordings are resampled to; left out, they stay as they are.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for one that cannot be read.
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


def open_picture(source: Any) -> Any:
    """A picture in RGB, upright, from a path, a data URL or bytes; arrays and pictures are given back.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for what is no picture.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if not isinstance(source, (str, bytes, os.PathLike)):
        return source
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Pictures are opened with Pillow: pip install pillow") from error
    file, name = _find(source, "picture")
    with _naming(name, "no picture that can be read"), Image.open(file) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def open_recording(source: Any, sampling_rate: int | None = None) -> tuple[Any, int | None]:
    """A recording's samples between -1 and 1, (samples,), the mean of all channels, and how many there are a second.

    WAV files are read by SciPy, all others by soundfile.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for what is no recording, or one whose reader is not installed.
    """
    if isinstance(source, Mapping):
        if source.get("array") is None:
            return open_recording(source.get("bytes") or source.get("path"))
        return np.asarray(source["array"], dtype=np.float32), source.get("sampling_rate", sampling_rate)
    if not isinstance(source, (str, bytes, os.PathLike)):
        return source, sampling_rate
    file, name = _find(source, "recording")
    is_wave = _is_wave(file)
    if not is_wave:
        return _read_sound(file, name)
    with _naming(name, "no recording in WAV that can be read"):
        return _read_wave(file)


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
    divisor = math.gcd(sampling_rate, wanted)
    return resample_poly(np.asarray(waves, dtype=np.float32), wanted // divisor, sampling_rate // divisor).astype(np.float32)


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


def _read_wave(file: Any) -> tuple[np.ndarray, int]:
    try:
        from scipy.io import wavfile
    except ImportError as error:
        raise ImportError('WAV recordings are opened with SciPy: pip install "hf_genext[recipes]"') from error
    rate, samples = wavfile.read(file)
    if samples.dtype == np.uint8:
        waves = (samples.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(samples.dtype, np.integer):
        waves = samples.astype(np.float32) / float(2 ** (8 * samples.dtype.itemsize - 1))
    else:
        waves = samples.astype(np.float32)
    return waves.mean(axis=1) if waves.ndim == 2 else waves, int(rate)


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
    return samples.mean(axis=1), int(rate)


@contextmanager
def _naming(name: str, what_is_wrong: str) -> Iterator[None]:
    """Name the file in an error; readers of damaged files raise whatever they stumble over."""
    try:
        yield
    except (ImportError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(f"{name} is {what_is_wrong}: {error}") from error


__all__ = ["open_condition", "open_picture", "open_recording", "resample"]
