"""Version 1 of the wire: what is read is what was written, and refusals say why."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from streamasr.core import messages
from streamasr.core.audio_format import Encoding
from streamasr.core.errors import ProtocolError
from streamasr.core.refusal import RefusalError
from streamasr.core.transcript import Word
from streamasr.core.units import Samples, to_samples, to_seconds
from streamasr.protocols import v1
from streamasr.protocols.v1_dialect import CLOSE_CODES
from tests.support.errors import raises

YEAR = Samples(366 * 24 * 3600 * 16_000)

positions = st.integers(0, YEAR).map(Samples)
numbers = st.integers(0, v1.MAX_NUMBER)
texts = st.text(st.characters(codec="utf-8"), max_size=30)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
languages = st.none() | names
hotwords = st.lists(names, max_size=3).map(tuple)
ids = st.none() | texts | st.integers(-v1.MAX_NUMBER, v1.MAX_NUMBER)

starts = st.builds(
    v1.Start,
    encoding=st.sampled_from(get_args(Encoding)),
    sample_rate=st.integers(8000, 48_000),
    channels=st.just(8),
    channel=st.integers(0, 7) | st.just("mix"),
    language=languages,
    languages=hotwords,
    context=texts,
    hotwords=hotwords,
    partials=st.booleans(),
    words=st.booleans(),
    session=names,
    since=st.none() | numbers,
)
configures = st.builds(
    v1.Configure,
    channel=st.just(msgspec.UNSET) | st.integers(0, 7) | st.just("mix"),
    language=st.just(msgspec.UNSET) | languages,
    languages=st.just(msgspec.UNSET) | hotwords,
    context=st.just(msgspec.UNSET) | texts,
    hotwords=st.just(msgspec.UNSET) | hotwords,
    partials=st.just(msgspec.UNSET) | st.booleans(),
    words=st.just(msgspec.UNSET) | st.booleans(),
)
client_messages: SearchStrategy[v1.ClientMessage] = st.one_of(
    starts,
    configures,
    st.just(v1.Flush()),
    st.just(v1.Stop()),
    st.builds(v1.Ping, id=ids),
)

words = st.builds(
    Word, text=texts, start=positions, end=positions, confidence=st.none() | st.floats(0, 1)
)
published: SearchStrategy[messages.Message] = st.one_of(
    st.builds(messages.Speech, segment=numbers, start=positions),
    st.builds(
        messages.Partial,
        segment=numbers,
        text=texts,
        stable=numbers,
        language=languages,
        start=positions,
        end=positions,
    ),
    st.builds(
        messages.Final,
        segment=numbers,
        text=texts,
        language=languages,
        start=positions,
        end=positions,
        reason=st.sampled_from(get_args(messages.EndReason)),
    ),
    st.builds(
        messages.Words,
        segment=numbers,
        words=st.lists(words, max_size=4).map(tuple),
        method=st.sampled_from(get_args(messages.AlignmentMethod)),
    ),
    st.builds(messages.Gap, start=positions, end=positions, reason=texts),
    st.builds(messages.End, duration=positions, segments=numbers, words=numbers),
)
others: SearchStrategy[v1.ServerMessage] = st.one_of(
    st.builds(v1.Ready, session=texts, model=texts, seq=numbers, next_sample=positions),
    st.builds(v1.Warning, code=texts, message=texts, lag=positions.map(to_seconds)),
    st.builds(v1.Error, code=texts, message=texts),
    st.builds(v1.Pong, id=ids),
)
values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
objects = st.dictionaries(
    st.sampled_from(["type", *v1.Start.__struct_fields__, "id", "x"]),
    values | st.sampled_from(["start", "configure", "flush", "stop", "ping", "pcm_s16le"]),
)


def refusal(text: str | bytes) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        v1.decode_client(text)
    return caught.value


def refused(**fields: Any) -> tuple[str, str]:
    error = refusal(json.dumps(fields))
    return error.code, str(error)


@given(client_messages)
def test_a_clients_message_is_read_as_it_was_written(message: v1.ClientMessage) -> None:
    assert v1.decode_client(v1.encode(message)) == message
    assert v1.decode_client(v1.encode(message).encode()) == message


@given(published, numbers)
def test_what_a_session_publishes_is_read_as_it_was_written(
    message: messages.Message, seq: int
) -> None:
    sent = v1.from_event(message, seq)
    assert v1.decode_server(v1.encode(sent)) == sent
    assert (type(sent).__name__, getattr(sent, "seq", seq)) == (type(message).__name__, seq)
    assert isinstance(sent, v1.Durable) == isinstance(message, messages.Durable)


@given(others)
def test_the_other_messages_of_a_server_are_read_as_they_were_written(
    message: v1.ServerMessage,
) -> None:
    assert v1.decode_server(v1.encode(message)) == message


@given(positions)
def test_times_come_back_to_the_sample(position: Samples) -> None:
    text = v1.encode(v1.from_event(messages.Speech(1, position), None))
    read = v1.decode_server(text)
    assert isinstance(read, v1.Speech)
    assert to_samples(read.start) == position
    fraction = text.partition('"start":')[2].rstrip("}").partition(".")[2]
    assert len(fraction) <= 7  # 1 / 16000 has no more decimals


def test_messages_look_as_the_protocol_says() -> None:
    final = messages.Final(3, "你好", "Chinese", Samples(8000), Samples(24_001), "silence")
    assert v1.encode(v1.from_event(final, 7)) == (
        '{"type":"final","seq":7,"segment":3,"text":"你好","language":"Chinese",'
        '"start":0.5,"end":1.5000625,"reason":"silence"}'
    )
    ready = v1.Ready(session="s", model="tiny", seq=0, next_sample=0)
    assert v1.encode(ready) == (
        '{"type":"ready","session":"s","model":"tiny","seq":0,"next_sample":0,'
        '"sample_rate":16000,"protocol":1,"family":"","languages":[]}'
    )
    word = Word("hi", Samples(0), Samples(1600), 0.98765432, space_after=False)
    said = messages.Words(3, (word,), "aligned")
    assert v1.encode(v1.from_event(said, 8)) == (
        '{"type":"words","seq":8,"segment":3,'
        '"words":[{"text":"hi","start":0.0,"end":0.1,"score":0.9877}],"method":"aligned"}'
    )


def test_the_shortest_start_has_the_defaults() -> None:
    assert v1.decode_client('{"type":"start"}') == v1.Start()
    assert v1.encode(v1.Start()) == '{"type":"start"}'
    assert v1.Start().frame_bytes == 2
    assert v1.Start(encoding="pcm_f32le", channels=2).frame_bytes == 8


def test_null_and_absent_options_are_different() -> None:
    null = v1.decode_client('{"type":"configure","language":null}')
    absent = v1.decode_client('{"type":"configure"}')
    assert isinstance(null, v1.Configure)
    assert isinstance(absent, v1.Configure)
    assert (null.language, absent.language) == (None, msgspec.UNSET)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_garbage_is_refused_in_one_sentence(text: str | bytes) -> None:
    error = refusal(text)
    assert error.code in {"bad_json", "unknown_type"}
    assert "\n" not in str(error)


def read_as_server(text: str) -> v1.ClientMessage | RefusalError:
    try:
        return v1.decode_client(text)
    except RefusalError as error:
        return error


def read_as_client(text: str) -> v1.ServerMessage | ProtocolError | None:
    try:
        return v1.decode_server(text)
    except ProtocolError as error:
        return error


@given(objects | values)
def test_any_json_is_a_message_or_refused_in_one_sentence(value: Any) -> None:
    read = read_as_server(json.dumps(value))
    if isinstance(read, RefusalError):
        assert read.code in CLOSE_CODES
        assert len(str(read)) < 400
        assert "\n" not in str(read)
    else:
        assert v1.decode_client(v1.encode(read)) == read


@given(objects | values)
def test_any_json_of_a_server_is_a_message_or_unknown_or_an_error(value: Any) -> None:
    read = read_as_client(json.dumps(value))
    if isinstance(read, ProtocolError):
        assert "\n" not in str(read)
    else:
        assert read is None or isinstance(read, v1.ServerMessage)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nul",
        '{"type":"ping","id":NaN}',
        '{"type":"ping"} {}',
        '{"type":"ping","id":"\\ud800"}',
        '{"type":"ping","id":"\ud800"}',
        b'{"type":"ping","id":"\xff"}',
        '{"x":' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"type":' + '{"type":' * 5000,
    ],
)
def test_what_is_not_json_is_refused_as_such(text: str | bytes) -> None:
    error = refusal(text)
    assert error.code == "bad_json"


@pytest.mark.parametrize("text", ["[]", "{}", "1", '{"type":3}', "[" * 60_000])
def test_what_has_no_type_is_refused(text: str) -> None:
    error = refusal(text)
    assert error.code == "unknown_type"


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        (
            {"type": "begin"},
            "unknown_type",
            "unknown message type 'begin'; the types are configure, flush, ping, start, stop",
        ),
        ({"type": "ping", "x": 1}, "unknown_field", "'ping' has no field 'x'; its fields are id"),
        (
            {"type": "stop", "now": 1},
            "unknown_field",
            "'stop' has no field 'now'; it has no fields",
        ),
        (
            {"type": "start", "sample_rate": 7999},
            "bad_value",
            "'sample_rate' of 'start' is wrong: expected int >= 8000",
        ),
        (
            {"type": "start", "sample_rate": 44_100.5},
            "bad_value",
            "'sample_rate' of 'start' is wrong: expected int, got float",
        ),
        (
            {"type": "start", "channels": 9},
            "bad_value",
            "'channels' of 'start' is wrong: expected int <= 8",
        ),
        (
            {"type": "start", "encoding": "opus"},
            "bad_value",
            "'encoding' of 'start' is wrong: invalid enum value 'opus'; "
            "it must be one of pcm_f32le, pcm_s16le",
        ),
        (
            {"type": "start", "since": 1},
            "bad_value",
            "'since' of 'start' needs the 'session' that it counts in",
        ),
        (
            {"type": "start", "session": "s", "since": -1},
            "bad_value",
            "'since' of 'start' is wrong: expected int >= 0",
        ),
        (
            {"type": "start", "session": "s", "since": 10**400},
            "bad_value",
            "'since' of 'start' is wrong: expected int <= 9007199254740991",
        ),
        (
            {"type": "start", "hotwords": ["a", 1]},
            "bad_value",
            "'hotwords[1]' of 'start' is wrong: expected str, got int",
        ),
        (
            {"type": "configure", "hotwords": ["a" * 101]},
            "bad_value",
            "'hotwords[0]' of 'configure' is wrong: expected str of length <= 100",
        ),
        (
            {"type": "configure", "hotwords": ["a"] * 1001},
            "bad_value",
            "'hotwords' of 'configure' is wrong: expected array of length <= 1000",
        ),
        (
            {"type": "start", "channel": "left"},
            "bad_value",
            "'channel' of 'start' is wrong: invalid enum value 'left'; "
            "it must be one of 0 to 7, or 'mix'",
        ),
        (
            {"type": "configure", "languages": ["a"] * 101},
            "bad_value",
            "'languages' of 'configure' is wrong: expected array of length <= 100",
        ),
        (
            {"type": "configure", "partials": None},
            "bad_value",
            "'partials' of 'configure' is wrong: expected bool, got null",
        ),
    ],
)
def test_a_wrong_message_is_refused_with_what_and_why(
    fields: dict[str, Any], code: str, sentence: str
) -> None:
    assert refused(**fields) == (code, sentence)


def test_what_a_stranger_wrote_is_not_repeated_at_length() -> None:
    for name in ("a" * 60_000, "\n\x1b[2J" * 5000):
        for fields in ({"type": name}, {"type": "flush", name: 1}, {"type": "start", name: 1}):
            _, sentence = refused(**fields)
            assert len(sentence) < 300
            assert sentence.isprintable()


def test_an_unknown_field_that_cannot_be_read_is_refused_too() -> None:
    error = refusal('{"type":"flush","x":' + "[" * 20_000)
    assert (error.code, str(error)) == ("unknown_field", "a control message has no field 'x'")


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_control_messages_are_measured_in_bytes(letter: str) -> None:
    size = len(letter.encode())
    fits = "{" + letter * ((v1.MAX_CONTROL_BYTES - 1) // size)
    assert refusal(fits).code == "bad_json"
    too_big = refusal(fits + letter)
    assert too_big.code == "too_big"
    assert "65536 bytes" in str(too_big)


def test_audio_frames_have_a_largest_size() -> None:
    v1.check_audio(bytes(v1.MAX_AUDIO_BYTES))
    with raises(RefusalError, "too_big") as caught:
        v1.check_audio(bytes(v1.MAX_AUDIO_BYTES + 1))
    assert "1048577 bytes" in str(caught.value)


def test_a_text_that_is_not_unicode_is_not_sent() -> None:
    with raises(RefusalError, "bad_value"):
        v1.encode(v1.Start(context="\ud800"))


def test_clients_skip_what_a_newer_server_adds() -> None:
    assert v1.decode_server('{"type":"mood","happy":true}') is None
    assert v1.decode_server('{"type":"pong","id":1,"mood":{"happy":[true]}}') == v1.Pong(id=1)
    newer = v1.decode_server(
        '{"type":"final","seq":1,"segment":1,"text":"","language":null,"start":0,"end":1,'
        '"reason":"boredom"}'
    )
    assert isinstance(newer, v1.Final)
    assert newer.reason == "boredom"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"type":"pong"}', '{"type":1}', "{}", '{"type":"final","seq":"1"}']
)
def test_clients_refuse_text_that_is_not_a_message(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        v1.decode_server(text)
    assert caught.value.code in ("bad_server_message", "bad_server_json")
