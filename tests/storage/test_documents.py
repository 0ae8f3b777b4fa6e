"""Documents in the journal are read as they were written, by this version and earlier ones."""

import json
from dataclasses import fields, replace

import pytest

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Final, Gap, Words
from streamasr.core.options import SessionOptions
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.storage.database import JournalOrderError
from streamasr.storage.documents import (
    decode_message,
    decode_options,
    decode_stable_text,
    encode_message,
    encode_options,
    encode_stable_text,
)
from tests.support.errors import raises

OPTIONS = SessionOptions(
    language="French",
    context="Ada, 北京",
    partials=False,
    words=False,
    languages=("French", "English"),
    hotwords=("Ada Lovelace", "北京"),
    channel=1,
    endpoint_ms=450,
    endpoint_by_client=True,
    onset_padding_ms=120,
    itn=True,
    punctuation=False,
)
"""Every field differs from its default."""

MESSAGES: list[tuple[str, Durable, str]] = [
    (
        "final",
        Final(2, "你好", None, Samples(5), Samples(9), "flush"),
        '{"segment":2,"text":"你好","language":null,"start":5,"end":9,"reason":"flush"}',
    ),
    (
        "words",
        Words(2, (Word("good", Samples(5), Samples(9), 0.5, False),), "aligned"),
        '{"segment":2,"words":[{"text":"good","start":5,"end":9,"score":0.5,"space_after":false}],'
        '"method":"aligned"}',
    ),
    (
        "gap",
        Gap(Samples(5), Samples(9), "lost"),
        '{"start":5,"end":9,"reason":"lost"}',
    ),
    ("end", End(Samples(9), 3, 4), '{"duration":9,"segments":3,"words":4}'),
]

STABLE = StableText(1, Samples(100), "good mor", (7, 8))


def test_all_options_are_kept() -> None:
    default = SessionOptions()
    for field in fields(SessionOptions):
        assert getattr(OPTIONS, field.name) != getattr(default, field.name), field.name
        changed = replace(default, **{field.name: getattr(OPTIONS, field.name)})
        assert decode_options("a", encode_options(changed)) == changed
    assert decode_options("a", encode_options(OPTIONS)) == OPTIONS


def test_options_of_version_1_have_the_defaults_of_later_fields() -> None:
    document = '{"language":"French","context":"Ada","partials":true,"words":false}'
    assert decode_options("a", document) == SessionOptions("French", "Ada", words=False)


@pytest.mark.parametrize(("kind", "message", "document"), MESSAGES)
def test_the_documents_of_messages_are_those_of_version_1(
    kind: str, message: Durable, document: str
) -> None:
    assert encode_message(message) == document
    assert decode_message(kind, document) == message


def test_a_stable_text_is_kept() -> None:
    assert decode_stable_text("a", encode_stable_text(STABLE)) == STABLE


def test_a_stable_text_keeps_the_ends_and_times_of_its_tokens() -> None:
    times = ((Samples(0), Samples(9)), (Samples(9), Samples(20)))
    timed = replace(STABLE, ends=(4, 8), times=times)
    assert decode_stable_text("a", encode_stable_text(timed)) == timed


def test_a_stable_text_of_version_1_keeps_its_tokens() -> None:
    document = '{"segment":1,"start":100,"text":"good mor","forced":[7,8]}'
    assert decode_stable_text("a", document) == STABLE


def test_fields_of_later_versions_are_ignored() -> None:
    for document in (encode_options(OPTIONS), encode_stable_text(STABLE)):
        assert "later" not in document
    later = json.dumps(json.loads(encode_options(OPTIONS)) | {"later": 1})
    assert decode_options("a", later) == OPTIONS


@pytest.mark.parametrize("document", ["{", "[]", "null", '{"segment":"one"}'])
def test_a_damaged_document_is_reported(document: str) -> None:
    with raises(StorageError, "journal_damaged_message"):
        decode_message("final", document)
    with raises(StorageError, "journal_damaged_session") as caught:
        decode_stable_text("meeting", document)
    assert "meeting" in str(caught.value)


def test_damaged_options_are_reported() -> None:
    with raises(StorageError, "journal_damaged_session"):
        decode_options("meeting", '{"context":5}')


def test_a_message_of_an_unknown_kind_is_reported() -> None:
    with raises(StorageError, "journal_damaged_message"):
        decode_message("mystery", "{}")


def test_half_of_a_surrogate_pair_is_reported() -> None:
    with raises(JournalOrderError, "journal_invalid_text"):
        encode_options(SessionOptions(context="\ud800"))
