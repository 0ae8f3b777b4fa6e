"""Sessions of one process: their options, changes of settings, and how they are kept."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError
from streamasr.core.events import Recognised
from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.messages import Final
from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Order, Recognise
from streamasr.core.requested_options import OperatorDefaults, RequestedOptions
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import Samples
from streamasr.engine.ports import Deliver
from streamasr.host.local_host import HostSettings, LocalSessionHost
from streamasr.host.recovery import recover
from streamasr.storage.reader import JournalReader
from streamasr.storage.records import SessionRecord
from streamasr.storage.store import Store
from tests.support.errors import raises
from tests.support.fake_daemon import Unmeasured
from tests.support.fakes import FakeEngine, talk
from tests.support.waiting import eventually

LANGUAGES = {"de": "German", "fr": "French"}


def language_name(code: str) -> str:
    name = LANGUAGES.get(code, code)
    if name not in LANGUAGES.values():
        raise ConfigError(f"{code} is unknown", code="unknown_language")
    return name


def resolve(requested: RequestedOptions, defaults: OperatorDefaults) -> SessionOptions:
    return requested.resolve(defaults, language_name)


@asynccontextmanager
async def local_host(
    directory: Path,
    settings: HostSettings | None = None,
    engine: FakeEngine | None = None,
) -> AsyncIterator[LocalSessionHost]:
    """Open a host with a journal and a spool in a directory."""
    store = Store(directory / "journal.sqlite3", directory / "spool", lambda *_: None)
    host = LocalSessionHost(
        settings or HostSettings(),
        model=ModelFacts("fake", "fakes", tuple(LANGUAGES.values())),
        recogniser=engine or FakeEngine(),
        resolve=resolve,
        store=store,
        observer=Unmeasured(),
    )
    with store:
        yield host
        await host.sessions.close()


def german(**changes: int) -> HostSettings:
    settings = HostSettings(defaults=OperatorDefaults(language="de", context="Ada"))
    return replace(settings, **changes)  # type: ignore[arg-type]


async def test_a_session_has_the_operators_options_where_its_client_names_none(
    tmp_path: Path,
) -> None:
    async with local_host(tmp_path, german()) as host:
        plain = host.begin(RequestedOptions(partials=False))
        assert plain.options == SessionOptions("German", "Ada", partials=False)
        french = host.begin(RequestedOptions(language="fr", hotwords=("Zoë",)))
        assert french.options == SessionOptions("French", "Ada", hotwords=("Zoë",))
        assert host.begin_own().options == SessionOptions("German", "Ada")


async def test_a_session_that_cannot_be_opened_leaves_no_trace(tmp_path: Path) -> None:
    async with local_host(tmp_path) as host:
        with raises(ConfigError, "unknown_language"):
            host.begin(RequestedOptions(language="xx"))
        assert len(host.sessions) == 0


async def test_changed_options_are_kept_in_the_journal(tmp_path: Path) -> None:
    async with local_host(tmp_path) as host:
        live = host.begin(RequestedOptions(language="de"))
        host.configure(live, {"context": "Ada", "words": False})
        expected = SessionOptions("German", "Ada", words=False)
        assert live.options == expected
        with raises(ConfigError, "unknown_language"):
            host.configure(live, {"language": "xx", "context": "lost"})
        host.configure(live, {"words": False})
        assert live.options == expected
    with JournalReader(tmp_path / "journal.sqlite3") as reader:
        [record] = reader.unfinished()
    assert (record.name, record.source, record.options) == (live.name, "client", expected)


async def test_new_settings_hold_for_sessions_that_left_the_option_open(tmp_path: Path) -> None:
    async with local_host(tmp_path) as host:
        plain = host.begin(RequestedOptions())
        french = host.begin(RequestedOptions(language="fr"))
        finishing = host.begin(RequestedOptions())
        finishing.intake.finish()
        host.check(german(max_lag=5, max_sessions=1))
        host.apply(german(max_lag=5, max_sessions=1))
        assert plain.options.language == "German"
        assert french.options.language == "French"
        assert finishing.options.language is None
        assert (host.max_lag, host.sessions.max_sessions) == (5, 1)


async def test_settings_that_a_session_cannot_have_are_refused(tmp_path: Path) -> None:
    async with local_host(tmp_path, german()) as host:
        live = host.begin(RequestedOptions())
        with raises(ConfigError, "unknown_language"):
            host.check(HostSettings(defaults=OperatorDefaults(language="xx")))
        assert live.options.language == "German"


async def test_a_notice_reaches_the_readers_of_all_sessions(tmp_path: Path) -> None:
    async with local_host(tmp_path) as host:
        readers = [host.begin(RequestedOptions()).publisher.subscribe() for _ in range(2)]
        host.notify_all("disk", "The disk is full.")
        for reader in readers:
            entry = reader.take()
            assert entry is not None
            assert getattr(entry.event, "code", None) == "disk"


async def test_sessions_are_resumed_with_their_own_options(tmp_path: Path) -> None:
    async with local_host(tmp_path, german()) as host:
        french = host.begin(RequestedOptions(language="fr"))
        french.intake.feed(talk(1.0)[: Samples(20_000)])
        host.begin_own()
    async with local_host(tmp_path) as host:
        lives = [await host.resume(one) for one in recover(tmp_path / "journal.sqlite3", None)]
        assert {live.name: live.options.language for live in lives} == {
            french.name: "French",
            MICROPHONE: None,
        }
        host.apply(german())
        assert {live.options.language for live in lives} == {"French", "German"}


class Repeater(FakeEngine):
    """Engine that answers with a text that another model began otherwise."""

    def perform(self, order: Order, deliver: Deliver) -> None:
        self.orders.append(order)
        if isinstance(order, Recognise):
            text = "stable text" if order.forced else "stale text"
            deliver(Recognised(order.of, Hypothesis(f"{text} and more", "English", (7, 8, 9))))


@pytest.mark.parametrize(("model", "forced"), [("fake", (7, 8)), ("another", ())])
async def test_stable_text_is_forced_upon_the_model_that_wrote_it(
    tmp_path: Path, model: str, forced: tuple[int, ...]
) -> None:
    """Tokens of another model mean nothing; its text is kept all the same."""
    samples, engine = talk(2.0), Repeater()
    with Store(tmp_path / "journal.sqlite3", tmp_path / "spool", lambda *_: None) as store:
        options = SessionOptions(partials=False, words=False)
        store.begin(SessionRecord("live", "client", time.time(), model, options))
        store.keep_stable_text("live", StableText(1, Samples(12_000), "stable text", (7, 8)))
        store.append_audio("live", Samples(0), samples)
    async with local_host(tmp_path, engine=engine) as host:
        [found] = recover(tmp_path / "journal.sqlite3", tmp_path / "spool")
        live = await host.resume(found)
        live.intake.finish()
        await live.is_over.wait()
        messages = [message async for _, message in live.publisher.messages_since(0)]
    assert {order.forced for order in engine.orders if isinstance(order, Recognise)} == {forced}
    assert [m.text for m in messages if isinstance(m, Final)] == ["stable text and more"]


async def test_a_session_that_is_over_is_resumed_for_its_readers_alone(tmp_path: Path) -> None:
    async with local_host(tmp_path) as host:
        live = host.begin(RequestedOptions())
        live.intake.finish()
        await live.is_over.wait()
    async with local_host(tmp_path) as host:
        [found] = recover(tmp_path / "journal.sqlite3", tmp_path / "spool")
        again = await host.resume(found)
        assert again.is_over.is_set()
        assert again.intake.is_finishing
        assert [seq async for seq, _ in again.publisher.messages_since(0)] == [1]


async def test_without_history_an_ended_session_is_forgotten(tmp_path: Path) -> None:
    async with local_host(tmp_path, german(history_days=0)) as host:
        host.apply(german(history_days=0))
        live = host.begin_own()
        live.intake.finish()
        await eventually(lambda: len(host.sessions) == 0)
    with JournalReader(tmp_path / "journal.sqlite3") as reader:
        assert not reader.has_session(MICROPHONE)
