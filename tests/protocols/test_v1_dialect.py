"""Version 1 as a dialect: frames to commands, events to frames, without any connection."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.audio_format import AudioFormat
from streamasr.core.messages import Speech
from streamasr.core.model_facts import ModelFacts
from streamasr.core.notices import Notice, NoticeCode
from streamasr.core.outgoing import Outgoing, Refused, Reply, SessionOpened
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.requested_options import RequestedOptions
from streamasr.core.units import Samples
from streamasr.protocols import v1
from streamasr.protocols.dialect import (
    Audio,
    Close,
    Codec,
    Command,
    Configure,
    FinishSession,
    FlushSegment,
    FollowSession,
    OpenSession,
    RequestHead,
    ResumeSession,
)
from streamasr.protocols.v1_dialect import CLOSE_CODES, V1Dialect
from tests.support.errors import raises

MODEL = ModelFacts("tiny", "qwen3", ("English", "Chinese"))
DIALECT = V1Dialect()


def stream_codec() -> Codec:
    return DIALECT.codec(RequestHead("GET", v1.STREAM_PATH), MODEL)


def events_codec(query: str = "?session=name") -> Codec:
    return DIALECT.codec(RequestHead("GET", v1.EVENTS_PATH + query), MODEL)


def control(codec: Codec, kind: str, **fields: Any) -> list[Command]:
    return list(codec.decode(json.dumps({"type": kind, **fields})))


def encoded(event: Outgoing, seq: int | None = None) -> list[Any]:
    frames = stream_codec().encode(event, seq)
    return [json.loads(frame) for frame in frames if isinstance(frame, str)]


def test_a_start_opens_a_session() -> None:
    codec = stream_codec()
    assert list(codec.begin()) == []
    [command] = control(
        codec,
        "start",
        encoding="pcm_f32le",
        sample_rate=8000,
        channels=2,
        channel=1,
        language="de",
        languages=["de", "en-US"],
        context="names",
        hotwords=["Mast"],
        partials=False,
        words=False,
    )
    assert command == OpenSession(
        AudioFormat("pcm_f32le", 8000, 2),
        RequestedOptions(
            language="de",
            languages=("de", "en-US"),
            context="names",
            hotwords=("Mast",),
            channel=1,
            partials=False,
            words=False,
        ),
    )


def test_the_shortest_start_has_the_defaults() -> None:
    assert control(stream_codec(), "start") == [OpenSession(AudioFormat(), RequestedOptions())]


def test_a_session_has_audio_orders_and_an_end() -> None:
    codec = stream_codec()
    control(codec, "start")
    assert list(codec.decode(b"\0\0\0")) == [Audio(b"\0\0\0")]
    assert control(codec, "flush") == [FlushSegment()]
    assert control(codec, "ping", id=7) == [Reply(v1.Ping(id=7))]
    assert control(codec, "configure", words=False) == [Configure({"words": False})]
    assert control(codec, "stop") == [FinishSession()]
    assert control(codec, "ping") == [Reply(v1.Ping())]


def test_a_configure_changes_what_it_names() -> None:
    codec = stream_codec()
    control(codec, "start", channels=2)
    given = {"language": None, "languages": [], "hotwords": ["x"], "channel": "mix"}
    [command] = control(codec, "configure", **given)
    assert command == Configure(
        {"language": None, "languages": (), "hotwords": ("x",), "channel": None}
    )
    assert control(codec, "configure") == [Configure({})]


options = st.fixed_dictionaries(
    {},
    optional={
        "language": st.none() | st.sampled_from(["en", "fr"]),
        "languages": st.lists(st.sampled_from(["en", "fr"]), max_size=2),
        "context": st.text("abc", max_size=3),
        "hotwords": st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
        "channel": st.sampled_from([0, 1, "mix"]),
        "partials": st.booleans(),
        "words": st.booleans(),
    },
)


@given(options, options)
def test_resuming_changes_the_options_that_are_given_and_no_others(
    before: dict[str, Any], given: dict[str, Any]
) -> None:
    [opened] = control(stream_codec(), "start", channels=2, **before)
    [resumed] = control(stream_codec(), "start", channels=2, session="s", **given)
    assert isinstance(opened, OpenSession)
    assert isinstance(resumed, ResumeSession)
    assert (resumed.session, resumed.since) == ("s", 0)
    options = opened.options.changed(resumed.change)
    for name in v1.Configure.__struct_fields__:
        default = getattr(RequestedOptions(), name)
        value = given.get(name, default)
        value = tuple(value) if isinstance(value, list) else None if value == "mix" else value
        is_open = value == default
        assert getattr(options, name) == (getattr(opened.options, name) if is_open else value)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\0\0"], "out_of_order"),
        (['{"type":"flush"}'], "out_of_order"),
        (['{"type":"ping"}'], "out_of_order"),
        (['{"type":"start"}', '{"type":"start"}'], "out_of_order"),
        (['{"type":"start"}', '{"type":"stop"}', '{"type":"flush"}'], "out_of_order"),
        (['{"type":"start"}', '{"type":"stop"}', b"\0"], "out_of_order"),
        (['{"type":"start"}', bytes(v1.MAX_AUDIO_BYTES + 1)], "too_big"),
        (['{"type":"start","channel":1}'], "bad_value"),
        (['{"type":"start","channels":2,"channel":2}'], "bad_value"),
        (['{"type":"start","channel":"left"}'], "bad_value"),
        (['{"type":"start","channel":-1}'], "bad_value"),
        (['{"type":"start","languages":"en"}'], "bad_value"),
    ],
)
def test_frames_that_are_not_allowed_are_refused(frames: list[str | bytes], code: str) -> None:
    codec = stream_codec()

    def decode(frames: Iterable[str | bytes]) -> None:
        for frame in frames:
            list(codec.decode(frame))

    decode(frames[:-1])
    with raises(RefusalError, code):
        decode(frames[-1:])


def test_a_reader_names_its_session_in_the_query() -> None:
    assert list(events_codec("?session=a&since=7").begin()) == [FollowSession("a", 7)]
    assert list(events_codec("?session=a").begin()) == [FollowSession("a", None)]
    assert list(events_codec().decode('{"type":"ping"}')) == [Reply(v1.Ping())]
    for frame in (b"\0\0", '{"type":"start"}'):
        with raises(RefusalError, "out_of_order"):
            list(events_codec().decode(frame))


def test_what_the_connection_adds_is_encoded() -> None:
    assert encoded(SessionOpened("name", 3, Samples(160))) == [
        {
            "type": "ready",
            "session": "name",
            "model": "tiny",
            "seq": 3,
            "next_sample": 160,
            "sample_rate": 16000,
            "protocol": 1,
            "family": "qwen3",
            "languages": ["English", "Chinese"],
        }
    ]
    notice = Notice(NoticeCode.LAGGING, "late", Samples(40_001))
    assert encoded(notice) == [
        {"type": "warning", "code": "lagging", "message": "late", "lag": 2.5}
    ]
    assert encoded(Reply(v1.Ping(id="x"))) == [{"type": "pong", "id": "x"}]
    refused = Refused(RefusalCode.BAD_JSON, "no")
    assert encoded(refused) == [{"type": "error", "code": "bad_json", "message": "no"}]
    assert encoded(Speech(1, Samples(8000))) == [{"type": "speech", "segment": 1, "start": 0.5}]


def test_every_refusal_closes_with_its_code() -> None:
    assert set(CLOSE_CODES) == set(RefusalCode)
    for code, close_code in CLOSE_CODES.items():
        refusal = RefusalError("no", code=code)
        assert stream_codec().close_after(refusal) == Close(close_code, code)
    assert stream_codec().close_after(RefusalError("no", code="newer")) == Close(1008, "newer")
    assert stream_codec().close_after_end() == Close(1000, "")


@pytest.mark.parametrize(
    ("path", "headers", "tokens"),
    [
        (v1.STREAM_PATH, [], []),
        (v1.STREAM_PATH, [("authorization", "Bearer  t ")], ["t"]),
        (v1.STREAM_PATH, [("authorization", "bearer t")], ["t"]),
        (v1.STREAM_PATH, [("authorization", "Basic t")], []),
        (v1.STREAM_PATH, [("sec-websocket-protocol", "streamasr.v1, bearer, t")], ["t"]),
        (v1.STREAM_PATH, [("sec-websocket-protocol", "bearer")], []),
        (v1.STREAM_PATH + "?token=t", [], []),
        (v1.EVENTS_PATH + "?token=t", [], ["t"]),
    ],
)
def test_tokens_are_found_where_clients_put_them(
    path: str, headers: list[tuple[str, str]], tokens: list[str]
) -> None:
    assert list(DIALECT.tokens(RequestHead("GET", path, tuple(headers)))) == tokens


def test_the_subprotocol_is_ours_or_none() -> None:
    assert DIALECT.select_subprotocol(["x", "streamasr.v1", "bearer", "t"]) == "streamasr.v1"
    assert DIALECT.select_subprotocol(["bearer", "t"]) is None
    assert DIALECT.select_subprotocol([]) is None
