"""Settings of a running daemon: those that hold at once, those that do not, and wrong ones."""

import socket
from pathlib import Path

import msgspec
import pytest

from streamasr.config.sections import (
    LiveConfig,
    MicrophoneConfig,
    ModelConfig,
    ServerConfig,
    Settings,
)
from streamasr.core.errors import ConfigError
from streamasr.core.options import SessionOptions
from streamasr.core.requested_options import RequestedOptions
from streamasr.core.units import to_samples
from streamasr.daemon.reload import LiveSettings, host_settings, stream_settings
from streamasr.service.activation import Inherited
from streamasr.service.supervision import Supervision
from streamasr.session.stable_prefix import CommitLag
from tests.host.test_local_host import local_host
from tests.support.errors import raises
from tests.support.supervisors import listening


class Operator:
    """A file of settings that its operator changes."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.wanted: Settings | ConfigError = settings or Settings()
        self.n_read = 0

    def load(self) -> Settings:
        self.n_read += 1
        if isinstance(self.wanted, ConfigError):
            raise self.wanted
        return self.wanted

    def live_settings(self, supervision: Supervision | None = None) -> LiveSettings:
        return LiveSettings(self.load(), self.load, supervision or Supervision())


def changed(**sections: dict[str, object]) -> Settings:
    """Return settings with some values changed, by section."""
    settings = Settings()
    values = {
        name: msgspec.structs.replace(getattr(settings, name), **section)
        for name, section in sections.items()
    }
    return msgspec.structs.replace(settings, **values)


async def test_new_settings_are_applied_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    operator = Operator()
    live_settings = operator.live_settings()
    async with local_host(tmp_path, host_settings(live_settings.current)) as host:
        host.is_ready.set()
        session = host.begin(RequestedOptions())
        operator.wanted = changed(
            model={"language": "de"},
            server={"max_lag_s": 5.0, "port": 1, "allow_origin": ("https://notes.example",)},
        )
        live_settings.reload(host)
        assert session.options == SessionOptions("German")
        assert host.max_lag == to_samples(5.0)
        assert live_settings.current.server.max_lag_s == 5.0
        assert live_settings.current.server.port == ServerConfig().port
        assert live_settings.access.origins == {"https://notes.example"}
        assert "restart the daemon to apply: server.port" in caplog.text
        for path in ("model.language", "server.max_lag_s", "server.allow_origin"):
            assert path in caplog.text
        caplog.clear()
        live_settings.reload(host)
        assert "server.port" in caplog.text, "it still differs"
        operator.wanted = live_settings.current
        live_settings.reload(host)
        assert "no setting of the daemon has changed" in caplog.text


@pytest.mark.parametrize(
    "wanted",
    [
        ConfigError("port is 'none'.", code="wrong_type"),
        changed(model={"language": "xx"}, server={"max_lag_s": 5.0}),
        changed(server={"token_file": Path("/nonexistent/token"), "max_lag_s": 5.0}),
    ],
)
async def test_wrong_settings_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: Settings | ConfigError
) -> None:
    operator = Operator()
    live_settings = operator.live_settings()
    before, access = live_settings.current, live_settings.access
    async with local_host(tmp_path, host_settings(before)) as host:
        host.is_ready.set()
        session = host.begin(RequestedOptions())
        operator.wanted = wanted
        live_settings.reload(host)
        assert (live_settings.current, live_settings.access) == (before, access)
        assert host.max_lag == to_samples(before.server.max_lag_s)
        assert session.options == SessionOptions()
    assert "the configuration stays as it was" in caplog.text


async def test_settings_are_not_read_again_before_the_models_are_loaded(tmp_path: Path) -> None:
    operator = Operator()
    live_settings = operator.live_settings()
    async with local_host(tmp_path) as host:
        live_settings.reload(host)
    assert operator.n_read == 1


@pytest.mark.process
def test_an_inherited_socket_for_other_machines_needs_a_token(tmp_path: Path) -> None:
    with listening("0.0.0.0") as opened:
        supervision = Supervision(inherited=Inherited(opened))
        with raises(ConfigError, "socket_needs_token"):
            Operator().live_settings(supervision)
        token = tmp_path / "token"
        token.write_text("12345678")
        token.chmod(0o600)
        with_token = Operator(changed(server={"token_file": token}))
        assert with_token.live_settings(supervision).access.token == "12345678"
        assert opened.family == socket.AF_INET


def test_a_host_has_the_values_of_the_settings() -> None:
    settings = Settings(
        model=ModelConfig(language="de", languages=("de", "fr"), context="Ada", hotwords=("Zoë",)),
        server=ServerConfig(max_sessions=3, resume_s=7.0, max_lag_s=9.0),
        live=LiveConfig(partials=False, words=False),
        microphone=MicrophoneConfig(enabled=False),
    )
    found = host_settings(settings)
    assert (found.max_sessions, found.resume_s, found.max_lag) == (3, 7.0, to_samples(9.0))
    assert found.history_days == settings.storage.history_days
    defaults = found.defaults
    assert (defaults.language, defaults.languages) == ("de", ("de", "fr"))
    assert (defaults.context, defaults.hotwords) == ("Ada", ("Zoë",))
    assert (defaults.partials, defaults.words) == (False, False)


def test_the_operator_chooses_when_text_becomes_stable() -> None:
    late = Settings(live=LiveConfig(commit="endpoint"))
    assert stream_settings(late).session.commit is None
    soon = Settings(live=LiveConfig(commit_lag_tokens=2, commit_lag_s=0.5))
    assert stream_settings(soon).session.commit == CommitLag(2, to_samples(0.5))
