"""The units as systemd reads them; where systemd is installed, its own tool checks them."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.cli.main import parse
from streamasr.config.sections import ServerConfig
from streamasr.core.errors import ConfigError
from streamasr.service import activation
from streamasr.service.units import (
    DICTATE,
    SERVICE,
    SOCKET,
    UNITS,
    WITHOUT_NAMESPACES,
    Setting,
    UnitState,
    is_sealed,
    look,
    quote,
    render,
    seal,
    template,
)
from tests.support.errors import raises

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)

PLAIN = Setting(("/bin/true",))


class Unit(configparser.RawConfigParser):
    """Parser of systemd's syntax as far as our units use it; the last value of a key wins."""

    def __init__(self, text: str) -> None:
        super().__init__(strict=False, delimiters=["="], comment_prefixes=["#"])
        self.read_string(text)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def analyze(tmp_path: Path) -> Path:
    """Directory of all units, rendered."""
    directory = tmp_path / "units"
    directory.mkdir()
    for name in UNITS:
        (directory / name).write_text(render(name, PLAIN), "utf-8")
    return directory


def run_analyze(*arguments: str, runtime: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--user", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime), "LC_ALL": "C.UTF-8"},
    )


@needs_systemd
def test_systemd_finds_no_fault(analyze: Path, tmp_path: Path) -> None:
    result = run_analyze("verify", *(str(analyze / name) for name in UNITS), runtime=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
def test_systemd_finds_no_fault_with_strange_paths(tmp_path: Path) -> None:
    strange = tmp_path / 'a "strange" $HOME 100% \\path'
    program = tmp_path / "a $HOME of 100%" / "python"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    setting = Setting(
        (str(program), "-m", "streamasr"),
        options=("--config", str(strange)),
        written=(strange / "state", strange / "models"),
        place=str(Path("/run", strange.name, "socket")),  # of a socket only so many characters
    )
    for name in UNITS:
        (tmp_path / name).write_text(render(name, setting), "utf-8")
    result = run_analyze("verify", *(str(tmp_path / name) for name in UNITS), runtime=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("name", [SERVICE, DICTATE])
def test_the_exposure_of_a_service_is_small(name: str, analyze: Path, tmp_path: Path) -> None:
    """systemd measures exposure from 0 to 10."""
    options = ["--offline=true", "--no-pager", "--threshold=30"]
    result = run_analyze("security", *options, str(analyze / name), runtime=tmp_path)
    assert result.returncode == 0, result.stdout


def test_the_templates_are_valid_units() -> None:
    assert Unit(template(SERVICE))["Service"]["ExecStart"] == "%h/.local/bin/streamasr run"
    for name in UNITS:
        Unit(template(name))


@pytest.mark.parametrize("name", [SERVICE, DICTATE])
def test_the_command_of_a_service_has_valid_arguments(name: str) -> None:
    _, *arguments = Unit(template(name))["Service"]["ExecStart"].split()
    parse(arguments)


@pytest.mark.parametrize("name", [SERVICE, DICTATE])
def test_settings_that_silence_the_microphone_are_absent(name: str) -> None:
    """UnitState out under systemd 252, with a sound server."""
    service = Unit(template(name))["Service"]
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateIPC"} & service.keys()


def test_a_wrong_configuration_is_not_tried_again() -> None:
    assert Unit(template(SERVICE))["Service"]["RestartPreventExitStatus"] == "78"


@pytest.mark.parametrize("name", [SERVICE, DICTATE])
def test_a_stopped_service_has_not_failed(name: str) -> None:
    """A daemon that has started ends with 0, dictation with the exit code of SIGTERM."""
    assert Unit(template(name))["Service"]["SuccessExitStatus"] == "143"


def test_the_daemon_has_time_to_finish_its_audio() -> None:
    stop_s = float(Unit(template(SERVICE))["Service"]["TimeoutStopSec"])
    assert stop_s > ServerConfig().stop_timeout_s + 10


def test_the_socket_has_the_name_and_the_address_that_the_daemon_expects() -> None:
    unit = Unit(template(SOCKET))["Socket"]
    assert unit["FileDescriptorName"] == activation.NAME
    assert unit["ListenStream"] == f"{ServerConfig().host}:{ServerConfig().port}"


def test_a_rendered_unit_has_the_values_of_this_machine() -> None:
    setting = Setting(
        ("/usr/bin/python3", "-m", "streamasr"),
        options=("--config", "/etc/one.toml"),
        written=(Path("/data/100%"), Path("/models")),
        place="[::1]:9",
        by_socket=True,
    )
    service, dictate = Unit(render(SERVICE, setting)), Unit(render(DICTATE, setting))
    assert service["Service"]["ExecStart"] == (
        "/usr/bin/python3 -m streamasr run --config /etc/one.toml"
    )
    assert service["Service"]["ExecStartPre"] == '+mkdir -p -m 0700 "/data/100%%" /models'
    assert service["Service"]["ReadWritePaths"] == '"-/data/100%%" -/models -%t'
    assert dictate["Service"]["ExecStart"] == (
        "/usr/bin/python3 -m streamasr dictate --service --config /etc/one.toml"
    )
    assert dictate["Unit"]["Wants"] == SOCKET
    assert service["Unit"]["Requires"] == SOCKET
    assert service["Service"]["PrivateNetwork"] == "true"
    assert "PrivateNetwork" not in Unit(render(SERVICE, PLAIN))["Service"]
    assert Unit(render(SOCKET, setting))["Socket"]["ListenStream"] == "[::1]:9"


def test_values_that_a_unit_cannot_contain_are_refused() -> None:
    with raises(ConfigError, "unit_control_character"):
        render(SERVICE, Setting(("/home/a\nb/python",)))
    with raises(ConfigError, "unit_program_path"):
        render(SERVICE, Setting(('/home/"me"/python',)))


def test_the_drop_in_without_namespaces_resets_settings_of_the_services() -> None:
    reset = dict(Unit(WITHOUT_NAMESPACES)["Service"])
    service = Unit(render(SERVICE, Setting(("/bin/true",), by_socket=True)))
    assert reset.keys() <= service["Service"].keys()


Paths = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1, max_size=30)


@given(Paths)
def test_a_quoted_value_is_read_as_it_was(value: str) -> None:
    quoted = quote(value, has_variables=True)
    inner = quoted[1:-1] if quoted.startswith('"') else quoted
    unescaped = re.sub(r"\\(.)", r"\1", inner)
    assert unescaped.replace("%%", "%").replace("$$", "$") == value
    assert quoted.startswith('"') or not re.search(r"[\s\"'\\$;]", quoted)


@given(st.text(max_size=50), st.text(max_size=50))
def test_an_edited_text_is_recognised(text: str, other: str) -> None:
    assert is_sealed(seal(text))
    assert is_sealed(seal(text).replace(text, other, 1)) == (
        seal(text).replace(text, other, 1) == seal(text)
        or seal(text).replace(text, other, 1) == seal(other)
    )
    assert not is_sealed(text)


def test_the_state_of_an_installed_unit_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / SERVICE
    wanted = render(SERVICE, PLAIN)
    assert look(path, wanted) is UnitState.MISSING
    path.write_text(wanted, "utf-8")
    assert look(path, wanted) is UnitState.CURRENT
    path.write_text(render(SERVICE, Setting(("/bin/false",))), "utf-8")
    assert look(path, wanted) is UnitState.OUTDATED
    path.write_text(wanted.replace("WatchdogSec=60", "WatchdogSec=0"), "utf-8")
    assert look(path, wanted) is UnitState.EDITED
    path.write_text(template(SERVICE), "utf-8")
    assert look(path, wanted) is UnitState.EDITED
