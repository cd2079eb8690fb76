"""Every container and codec that soundfile lists, and FFmpeg's: read by check and loading alike, or refused by both."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("av")

import audio_formats

PAGE = Path(__file__).parents[2] / "docs/pages/data.md"


@pytest.fixture(scope="module")
def verdicts():
    """Raises where check and loading disagree, or where what is read is not what was written."""
    return [audio_formats.verdict(form) for form in audio_formats.forms()]


def test_the_table_on_the_page_is_what_the_code_does(verdicts):
    assert audio_formats.on_page(PAGE) == audio_formats.table(verdicts)


def test_no_codec_is_refused_in_a_container_that_is_read(verdicts):
    read = {found.container for found in verdicts if found.reader}
    refused = {found.container for found in verdicts if found.reason not in ("", audio_formats.NOT_WRITTEN)}
    assert not read & refused
    assert {"WAV", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST", "M4A", "WebM", "AMR", "3GP", "AC-3"} <= read


def test_the_benchmark_of_reading_compares_the_same_samples():
    import audio_reading

    for file in audio_reading.files():
        audio_reading.require_same(file)
    measured = audio_reading.measure(audio_reading.files()[0], repeats=1)
    assert min(measured[way] for way in ("check", "load", "decoder")) > 0
    wrong = audio_reading.files()[0]._replace(decode=lambda content: 0.9 * audio_reading.with_soundfile(content))
    with pytest.raises(RuntimeError, match="or other values"):
        audio_reading.require_same(wrong)
