"""A served model over real HTTP on loopback: what is sent, what is tried again, what a message says."""

import io
import itertools
import json
import re
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile

from audiorl.audio import AudioFault
from audiorl.evaluation import (
    Endpoint,
    EndpointError,
    EvaluationSettings,
    NamedRows,
    endpoint,
    evaluate,
    read_document,
)
from audiorl.evaluation.endpoint import shown
from audiorl.evaluation.transcription import FailedRow
from tests.evaluation.server import serving

KEY = "sk-secret-123"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


def wav(samples):
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, 0.1), 1000, format="WAV")
    return file.getvalue()


def make_rows(count, **columns):
    return [
        {"id": f"clip{i}", "text": "", "audio": {"bytes": wav(100 + i), "path": None}, **columns} for i in range(count)
    ]


@contextmanager
def raw_server(pieces):
    """Answers each connection with what `pieces` yields, until it is closed: (address, bytes sent)."""
    sent, threads = [], []
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            connection.recv(2**20)
            try:
                for piece in pieces():
                    connection.sendall(piece)
                    sent.append(len(piece))
            except OSError:
                return

    def accept():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", sent
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
        for thread in threads:
            thread.join()


def seconds_heard(heard):
    return soundfile.info(io.BytesIO(heard.content)).frames / 1000


def says_the_length(heard, before):
    return 200, json.dumps({"text": f"{seconds_heard(heard):.3f}"}), {}


def ask(server, rows, **options):
    endpoint = Endpoint(server.url, "whisper", **options)
    return list(endpoint.transcribe(rows, "text", progress=False)), endpoint


def test_answers_come_in_the_order_of_the_rows_with_several_requests_in_flight():
    with serving(says_the_length, pause=0.02) as server:
        found, endpoint = ask(server, make_rows(12), requests_in_flight=3)
    assert [row.hypothesis for row in found] == [f"{(100 + i) / 1000:.3f}" for i in range(12)]
    assert [row.seconds for row in found] == [(100 + i) / 1000 for i in range(12)]
    assert server.most_in_flight == 3
    # four rounds of 0.02 s at least, and no sum over requests
    assert 0.08 <= endpoint.decoding_seconds < sum(row.decoding_seconds for row in found)
    assert "3 in flight" in endpoint.includes


def test_the_file_goes_as_it_is_with_model_and_language(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"")
    soundfile.write(tmp_path / "a.flac", np.full(50, 0.1), 1000)
    rows = make_rows(2)
    rows[1].update(audio=str(tmp_path / "a.flac"), language="hi")
    with serving(says_the_length) as server:
        _, endpoint = ask(server, rows, requests_in_flight=1)
        ask(server, rows, requests_in_flight=1, language="de")
    first, second, third, fourth = server.heard
    assert (first.form, first.file_name, first.content) == ({"model": "whisper"}, "audio.wav", wav(100))
    assert second.form == {"model": "whisper", "language": "hi"}
    assert (second.file_name, second.content) == ("a.flac", (tmp_path / "a.flac").read_bytes())
    assert [heard.form["language"] for heard in (third, fourth)] == ["de", "hi"]
    assert first.key is None
    assert endpoint.decoding() == {"endpoint": f"{server.url}/v1/audio/transcriptions", "requests_in_flight": 1}


def test_what_may_pass_is_tried_again():
    def fails_once(heard, before):
        return says_the_length(heard, before) if before else (503, "busy", {"Retry-After": "0"})

    with serving(fails_once) as server:
        found, _ = ask(server, make_rows(3), max_retries=1)
        assert len(found) == 3 and len(server.heard) == 6


def test_tries_have_a_limit_and_the_row_is_named():
    with serving(lambda heard, before: (500, "out of memory", {"Retry-After": "0"})) as server:
        with pytest.raises(EndpointError, match=r"row 0 \(id clip0\).*'whisper'.* 500 after 3 tries: 'out of memory'"):
            ask(server, make_rows(1), max_retries=2)
        assert len(server.heard) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "the answer was 400"), (401, "--api_key_variable"), (404, "--endpoint_model"), (302, "the answer was 302")],
)
def test_what_will_not_pass_is_not_tried_again(status, message):
    with serving(lambda heard, before: (status, "no", {"Location": "http://127.0.0.1:9/"})) as server:
        with pytest.raises(EndpointError, match=message):
            ask(server, make_rows(1))
        assert len(server.heard) == 1


@pytest.mark.parametrize("body", ["not JSON", "[]", '{"texts": "a"}', '{"text": null}'])
def test_an_answer_without_text_is_refused(body):
    with serving(lambda heard, before: (200, body, {})) as server:
        with pytest.raises(EndpointError, match=r'row 0 .*not a JSON object with "text"'):
            ask(server, make_rows(1))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"text": "a", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "JSON nested too deeply"),
        ("[" * 100_000, "JSON nested too deeply"),
        ('{"text": "a\\ud800b"}', r"half of a surrogate pair, \\ud800, which is no character"),
        ('{"text": "\\udfff"}', r"half of a surrogate pair, \\udfff"),
        (b'{"text": "caf\xe9"}', r"not UTF-8 at byte 13"),
        (b'{"text": "\xed\xa0\x80"}', r"not UTF-8 at byte 10"),
        ('{"text": ' + "1" * 5000 + "}", r'not a JSON object with "text"'),
    ],
    ids=["deep", "deep and open", "high surrogate", "low surrogate", "Latin-1", "surrogate in bytes", "5,000 digits"],
)
def test_an_answer_that_is_hostile_fails_its_row_alone(body, message):
    def odd_for_the_third(heard, before):
        return (200, body, {}) if seconds_heard(heard) == 0.102 else says_the_length(heard, before)

    with serving(odd_for_the_third) as server:
        done, _ = ask(server, make_rows(5))
    failed = done.pop(2)
    assert isinstance(failed, FailedRow) and failed.row["id"] == "clip2"
    assert re.match(rf"row 2 \(id clip2\): .*{message}", failed.problem) and len(failed.problem) < 1000
    failed.problem.encode()
    assert [found.hypothesis for found in done] == ["0.100", "0.101", "0.103", "0.104"]


def test_qwen3_asrs_own_format_is_read_in_answers():
    with serving(lambda heard, before: (200, '{"text": "language English<asr_text>the dog"}', {})) as server:
        found, _ = ask(server, make_rows(1))
    assert found[0].hypothesis == "the dog"


def test_whole_characters_beyond_the_basic_plane_are_text():
    with serving(lambda heard, before: (200, '{"text": "a\\ud83d\\ude00b"}', {})) as server:
        found, _ = ask(server, make_rows(1))
    assert found[0].hypothesis == "a\U0001f600b"


def test_an_answer_beyond_the_limit_is_not_read_on(monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST_ANSWER", 2**20)
    with raw_server(lambda: itertools.chain([HEAD], itertools.repeat(b"a" * 2**16))) as (url, sent):
        with pytest.raises(EndpointError, match=r"row 0 .*the answer has more than 1 MiB"):
            list(Endpoint(url, "whisper").transcribe(make_rows(1), "text", progress=False))
    # what lay in buffers of the system beside
    assert sum(sent) < 16 * 2**20


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nX-Long: ", HEAD], ids=["head", "body"])
def test_a_drip_is_given_up_as_a_whole(begun):
    def drip():
        yield begun
        while True:
            time.sleep(0.02)
            yield b"a"

    with raw_server(drip) as (url, _):
        with pytest.raises(
            EndpointError, match=r"row 0 .*no answer after 2 tries \(the answer was not whole after 0.3 s"
        ):
            slow = Endpoint(url, "whisper", timeout=0.3, max_retries=1)
            list(slow.transcribe(make_rows(1), "text", progress=False))


@pytest.mark.parametrize(
    ("asked", "pause"), [("86400", 60.0), ("7", 7.0), ("soon", 0.0), ("9" * 5000, 0.0), ("-5", 0.0), (None, 0.0)]
)
def test_a_server_does_not_decide_for_how_long_we_wait(monkeypatch, asked, pause):
    pauses = []
    monkeypatch.setattr(endpoint.time, "sleep", pauses.append)
    headers = {} if asked is None else {"Retry-After": asked}
    with serving(lambda heard, before: (429, "later", headers)) as server:
        with pytest.raises(EndpointError, match=r"the answer was 429 after 2 tries") as failure:
            ask(server, make_rows(1), max_retries=1)
    assert [waited for waited in pauses if waited not in (0.005,)] == [pause]
    if asked == "86400":
        assert "it asks for a pause of '86400' (Retry-After)" in str(failure.value)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("english", "en"),
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("<|de|>", "de"),
        ("Haitian Creole", "ht"),
        ("yue", "yue"),
        ("auto", None),
        ("", None),
        (None, None),
    ],
)
def test_languages_are_sent_as_iso_codes(language, code):
    with serving(says_the_length) as server:
        ask(server, make_rows(1, language=language))
        ask(server, make_rows(1), language=language)
    assert [heard.form.get("language") for heard in server.heard] == [code, code]


def test_a_language_that_is_none_is_refused_before_anything_is_sent():
    rows = make_rows(3, language="english")
    rows[2]["language"] = "englisch"
    with serving(says_the_length) as server:
        with pytest.raises(
            ValueError, match=r"row 2 \(id clip2\): no language is called 'englisch'. Did you mean 'english"
        ):
            ask(server, rows)
        assert server.heard == []
    with pytest.raises(ValueError, match=r"no language is called 'englisch'"):
        Endpoint("http://host", "m", language="englisch")


def test_rows_that_fail_do_so_alone_and_keep_their_places():
    def refuses_every_third(heard, before):
        bad = round(1000 * seconds_heard(heard)) % 3 == 0
        return (422, "too odd", {}) if bad else says_the_length(heard, before)

    with serving(refuses_every_third) as server:
        done, _ = ask(server, make_rows(20))
    failed = {place for place, found in enumerate(done) if isinstance(found, FailedRow)}
    assert failed == {place for place in range(20) if (100 + place) % 3 == 0}
    assert all(f"row {place} (id clip{place})" in done[place].problem for place in failed)
    assert all("the answer was 422: 'too odd'" in done[place].problem for place in failed)


@pytest.mark.parametrize("good", [0, 3])
def test_a_server_that_fails_on_every_row_is_not_asked_for_all_of_them(good):
    def fails_from_some_row_on(heard, before):
        bad = seconds_heard(heard) >= (100 + good) / 1000
        return (200, "<html>gateway</html>", {}) if bad else says_the_length(heard, before)

    with serving(fails_from_some_row_on) as server:
        done = []
        with pytest.raises(EndpointError, match=rf"^10 rows in succession failed, first row {good} \(id .*html"):
            done.extend(Endpoint(server.url, "whisper").transcribe(make_rows(100), "text", progress=False))
        assert len(server.heard) < 30
        assert [found.hypothesis for found in done[:good]] == ["0.100", "0.101", "0.102"][:good]
        # and with fewer rows than that
        if not good:
            with pytest.raises(EndpointError, match=r"^No row was answered \(4 failed\), first row 0 .*html"):
                ask(server, make_rows(4))


def test_a_connection_that_breaks_is_the_rows_and_one_that_never_was_is_everyones(monkeypatch):
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    with raw_server(lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"]) as (url, _):
        with pytest.raises(EndpointError, match=r"^No row was answered \(2 failed\), first row 0"):
            list(Endpoint(url, "whisper", max_retries=0).transcribe(make_rows(2), "text", progress=False))
    with pytest.raises(EndpointError, match=r"^row 0 .*no answer after 1 tries .*refused"):
        list(Endpoint(url, "whisper", max_retries=0).transcribe(make_rows(2), "text", progress=False))


def test_an_evaluation_goes_on_counts_what_failed_and_compares_what_both_have(tmp_path):
    def scripted(bad):
        def answer(heard, before):
            model, place = heard.form["model"], round(1000 * seconds_heard(heard)) - 100
            if place in bad[model]:
                return 200, '{"text": "caf\\ud800"}', {}
            return 200, json.dumps({"text": "a b" if model == "one" else "a c"}), {}

        return answer

    rows = [{**row, "text": "a b"} for row in make_rows(8)]
    settings = EvaluationSettings(resamples=20)
    with serving(scripted({"one": {1}, "two": {1, 4, 5}})) as server:
        systems = [Endpoint(server.url, name) for name in ("one", "two")]
        found = evaluate(systems, [NamedRows("rows", rows)], settings, progress=False)
    one, two = found.evaluated
    assert [(clip.place, clip.id, clip.where) for clip in two.failed] == [
        (place, f"clip{place}", f"row {place}") for place in (1, 4, 5)
    ]
    assert (one.clips, one.wer, two.clips, two.wer) == (7, 0.0, 5, 0.5)
    (pair,) = found.compared
    assert (len(pair.changes.before), pair.changes.difference) == (5, 0.5)
    assert [(c.id, c.clip, c.clip_after) for c in pair.changes.worse] == [
        *(("clip0", 0, 0), ("clip2", 1, 1), ("clip3", 2, 2), ("clip6", 5, 3), ("clip7", 6, 4))
    ]
    found.write(tmp_path / "found.json")
    document = read_document(tmp_path / "found.json")
    assert [failed["id"] for failed in document["measurements"][1]["failed"]] == ["clip1", "clip4", "clip5"]
    assert "half of a surrogate pair" in document["measurements"][0]["failed"][0]["problem"]
    assert document["comparisons"][0]["clips"] == 5
    told = str(found)
    for words in (
        "7 of 8",
        "3 of 8 rows failed; the numbers are those of the other 5:",
        "row 4 (id clip4)",
        "compared over the 5 clips that failed for neither",
        "worse: clip7, 0 -> 1 errors",
    ):
        assert words in told, told


def test_sounds_of_the_probe_that_fail_are_told():
    def refuses_silence(heard, before):
        samples, _ = soundfile.read(io.BytesIO(heard.content))
        return (400, "no speech", {}) if not samples.any() else (200, '{"text": "hm"}', {})

    with serving(refuses_silence) as server:
        settings = EvaluationSettings(resamples=20)
        data = [NamedRows("rows", [{**row, "text": "hm"} for row in make_rows(2)])]
        found = evaluate([Endpoint(server.url, "m")], data, settings, probe_seconds=0.2, progress=False)
    told = found.probes[0].to_dict()
    assert [clip["kind"] for clip in told["clips"]] == ["white", "white", "pink", "pink"] and told["with_output"] == 4
    assert [failed["id"] for failed in told["failed"]] == ["silence"]
    assert "the answer was 400: 'no speech'" in str(found)


def test_a_server_that_is_not_there_is_told_with_the_row():
    with serving(says_the_length) as server:
        pass
    with pytest.raises(EndpointError, match=r"row 0 .*no answer after 1 tries .*refused.*Check that the server runs"):
        ask(server, make_rows(1), max_retries=0)


def test_the_key_reaches_the_server_and_no_message():
    with serving(lambda heard, before: (401, f"unknown key {heard.key}", {})) as server:
        with pytest.raises(EndpointError) as failure:
            ask(server, make_rows(1), api_key=KEY)
    assert server.heard[0].key == f"Bearer {KEY}"
    assert KEY not in str(failure.value) and "***" in str(failure.value)
    assert failure.value.__cause__ is None
    assert KEY not in json.dumps(Endpoint(server.url, "whisper", api_key=KEY).decoding())


def test_no_key_is_taken_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(says_the_length) as server:
        ask(server, make_rows(1))
    assert server.heard[0].key is None


def test_a_clip_that_is_no_audio_stops_with_its_row():
    rows = make_rows(2)
    rows[1]["audio"] = {"bytes": b"not audio", "path": None}
    with serving(says_the_length) as server, pytest.raises(AudioFault, match=r"row 1 \(id clip1\)"):
        ask(server, rows)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/audio/transcriptions"])
def test_the_address_may_be_the_server_or_the_service(ending):
    assert Endpoint(f"https://host:8000/api{ending}", "m").url == "https://host:8000/api/v1/audio/transcriptions"


def test_an_address_is_shown_without_secrets():
    assert shown("https://me:pass@host:8/v1?key=abc") == "https://host:8/v1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "host:8000"}, "http or https"),
        ({"url": f"http://me:{KEY}@host"}, "http://host was given with a user or password"),
        ({"requests_in_flight": 0}, "requests_in_flight >= 1"),
        ({"max_retries": -1}, "max_retries >= 0"),
        ({"timeout": 0}, "timeout > 0"),
        ({"api_key": f"{KEY}\n"}, "API key"),
        ({"api_key": ""}, "API key"),
    ],
)
def test_settings_are_checked_when_made(options, message):
    with pytest.raises(ValueError, match=message) as failure:
        Endpoint(**{"url": "http://host", "model": "m", **options})
    assert KEY not in str(failure.value)
