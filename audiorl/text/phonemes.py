"""How words sound: espeak-ng's phonemes, from the `espeakng-loader` wheel, driven through ctypes.

espeak-ng keeps state in C statics that no call resets, so each use loads the library and unloads it; the demo's
synthesiser takes turns with it here.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from audiorl.text.languages import language_code

# One use at a time: the library is not reentrant. A fork waits for the one under way, so that the child inherits
# neither a held lock nor a half-used library.
ONE_AT_A_TIME = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=ONE_AT_A_TIME.acquire,
        after_in_parent=ONE_AT_A_TIME.release,
        after_in_child=ONE_AT_A_TIME.release,
    )

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_IPA = 2
# Where espeak-ng has another name for a language than Whisper's vocabulary.
_VOICES = {"en": "en-us", "zh": "cmn", "no": "nb", "tl": "fil", "jw": "jv", "pt": "pt-br"}
_STRESS = str.maketrans("", "", "\u02c8\u02cc_ \u200d\n")
_MOST_KNOWN = 2**17
_known: dict[tuple[str, str], str] = {}


def espeak_paths() -> tuple[str, str]:
    """The wheel's shared library and its data folder.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            'phonemes come from espeak-ng, and `import espeakng_loader` failed. Run: pip install "audiorl[demo]"'
        ) from error
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


@contextmanager
def loaded_library(path: str) -> Iterator[ctypes.CDLL]:
    """A freshly loaded library, unloaded afterwards: reloading is the only reset of its statics."""
    import _ctypes

    library = ctypes.CDLL(path)
    try:
        yield library
    finally:
        if sys.platform == "win32":
            _ctypes.FreeLibrary(library._handle)
        else:
            _ctypes.dlclose(library._handle)


def phonemes_of(words: Sequence[str], language: str | None = None) -> dict[str, str]:
    """word -> its phonemes in IPA, without stress; "" for what is not spoken.

    Args:
        words: each spoken by itself.
        language: code or English name, see `language_code`; None is English.

    Raises:
        ImportError: espeak-ng is not installed.
        ValueError: it has no voice of this language, or does not start.
    """
    code = language_code(language) if language else "en"
    voice = _VOICES.get(code, code)
    found = {word: _known[voice, word] for word in words if (voice, word) in _known}
    new = [word for word in dict.fromkeys(words) if word not in found]
    if new:
        found |= dict(zip(new, _spoken(new, voice), strict=True))
        if len(_known) > _MOST_KNOWN:
            _known.clear()
        _known.update({(voice, word): found[word] for word in new})
    return found


def _spoken(words: Sequence[str], voice: str) -> list[str]:
    path, data = espeak_paths()
    with ONE_AT_A_TIME, loaded_library(path) as library:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DO_NOT_EXIT) <= 0:
            raise ValueError(
                f"espeak-ng did not start from its data folder {data!r}. Its own limit is 160 characters of path: "
                "install espeakng-loader under a shorter one."
            )
        try:
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(
                    f"espeak-ng has no voice {voice!r}, so words of this language have no phonemes. Leave phonetic out "
                    "for these rows, or correct their `language`."
                )
            library.espeak_TextToPhonemes.restype = ctypes.c_char_p
            return [_phonemes(library, word) for word in words]
        finally:
            library.espeak_Terminate()


def _phonemes(library: ctypes.CDLL, word: str) -> str:
    text = ctypes.c_char_p(word.replace("\0", " ").encode())
    parts = []
    while text.value:  # it advances clause by clause and ends as a null pointer
        parts.append((library.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, _IPA) or b"").decode())
    return "".join(parts).translate(_STRESS)
