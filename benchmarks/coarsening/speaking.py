"""Speech of eSpeak NG, whose library and voices ship in the package espeakng-loader."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SYNCHRONOUS, UTF8 = 2, 1


def list_voices() -> list[str]:
    """Return the names of English voices, one for each variant."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return [f"en-us+{path.name}" for path in sorted(folder.iterdir())]


def speak(text: str, voice: str) -> tuple[np.ndarray, int]:
    """Return the samples of a text spoken by a voice, between -1 and 1, and their rate."""
    library, rate, chunks, _ = _open_library()
    chunks.clear()
    language, _, variant = voice.partition("+")
    if library.espeak_SetVoiceByName(f"{language}+{variant}".encode()) != 0:
        raise ValueError(f"eSpeak NG has no voice {voice!r}")
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, UTF8, None, None)
    return np.concatenate(chunks).astype(np.float32) / 2**15, rate


@cache
def _open_library() -> tuple[Any, int, list[np.ndarray], Any]:
    """Return the library, its rate, the list that takes its samples, and the function that it calls with them."""
    import espeakng_loader

    library, chunks = ctypes.CDLL(espeakng_loader.get_library_path()), list[np.ndarray]()

    def take(samples: Any, n: int, _: Any) -> int:
        if samples and n > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(take)
    folder = str(Path(espeakng_loader.get_data_path()).parent).encode()
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, folder, 0)
    library.espeak_SetSynthCallback(callback)
    return library, rate, chunks, callback
