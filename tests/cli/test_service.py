"""`streamasr service` with a program in the place of systemctl that notes what it is asked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamasr.service.units import SERVICE, SOCKET
from streamasr.storage.lock import Lock

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/asked"
case "$*" in
*"show --property=Version"*) [ ! -e "$(dirname "$0")/gone" ] ;;
*show-environment*) cat "$(dirname "$0")/environment" 2>/dev/null ;;
*"show $BROKEN"*) ;;
*"restart $BROKEN"*) printf 'Job for %s failed.\\nSee why.\\n' "$BROKEN" >&2; exit 1 ;;
*"show streamasr.service"*)
    printf 'ActiveState=active\\nUnitFileState=enabled\\nStatusText=tiny is ready, 1 session\\n' ;;
esac
"""

SYSTEMD_RUN = """#!/bin/sh
[ ! -e "$(dirname "$0")/no-namespaces" ]
"""


class Machine:
    """A home, and programs."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.home = directory / "home"
        self.units = self.home / ".config" / "systemd" / "user"
        self.config = self.home / ".config" / "streamasr" / "config.toml"
        self.config.parent.mkdir(parents=True)
        self.bin.mkdir()
        for name, text in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def service(
        self, *arguments: str, broken: str = "none", **environment: str
    ) -> tuple[int, str, str]:
        """Run the command: its exit code, what it said, and what it complained of."""
        done = subprocess.run(
            [sys.executable, "-m", "streamasr", "service", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={
                "HOME": str(self.home),
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "PYTHONPATH": os.pathsep.join(sys.path),
                "BROKEN": broken,
                **environment,
            },
        )
        return done.returncode, done.stdout, done.stderr

    def asked(self) -> list[str]:
        """Commands of systemctl since the last call."""
        log = self.bin / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.removeprefix("--user ") for line in lines if "show" not in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_service_is_written_and_started(machine: Machine) -> None:
    code, said, errors = machine.service("install")
    assert (code, errors) == (0, "")
    assert said.splitlines() == [
        f"{machine.units / SERVICE} is written.",
        "streamasr.service is started, and will be with every session.",
    ]
    assert machine.asked() == ["daemon-reload", f"enable {SERVICE}", f"restart {SERVICE}"]
    text = (machine.units / SERVICE).read_text("utf-8")
    assert f"ExecStart={sys.executable} -P -m streamasr run\n" in text
    assert f"{machine.home}/.local/state/streamasr" in text
    assert f"{machine.home}/.cache/streamasr/models" in text


def test_a_second_time_nothing_is_written(machine: Machine) -> None:
    machine.service("install")
    before = (machine.units / SERVICE).stat().st_mtime_ns
    code, said, _ = machine.service("install")
    assert code == 0
    assert f"{machine.units / SERVICE} is up to date." in said
    assert (machine.units / SERVICE).stat().st_mtime_ns == before


def test_an_edited_unit_is_kept_without_force(machine: Machine) -> None:
    machine.service("install")
    unit = machine.units / SERVICE
    edited = unit.read_text("utf-8").replace("MemoryMax=16G", "MemoryMax=4G")
    unit.write_text(edited, "utf-8")
    code, said, _ = machine.service("install")
    assert code == 1
    assert "was edited and is left as it is; --force replaces it" in said
    assert unit.read_text("utf-8") == edited
    code, said, _ = machine.service("uninstall")
    assert code == 1
    assert unit.read_text("utf-8") == edited
    code, said, _ = machine.service("install", "--force")
    assert code == 0
    assert "MemoryMax=16G" in unit.read_text("utf-8")
    assert (machine.units / f"{SERVICE}.old").read_text("utf-8") == edited


def test_the_socket_takes_the_place_of_a_service_that_runs_and_gives_it_back(
    machine: Machine,
) -> None:
    machine.config.write_text('[server]\nhost = "::1"\nport = 9000\n')
    code, _, errors = machine.service("install", "--socket")
    assert (code, errors) == (0, "")
    assert machine.asked() == [
        "daemon-reload",
        f"disable --now {SERVICE}",
        f"enable {SOCKET}",
        f"restart {SOCKET}",
    ]
    assert "ListenStream=[::1]:9000\n" in (machine.units / SOCKET).read_text("utf-8")
    machine.service("install")
    assert machine.asked() == [
        "daemon-reload",
        f"disable --now {SOCKET}",
        f"enable {SERVICE}",
        f"restart {SERVICE}",
    ]
    assert not (machine.units / SOCKET).exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("port = 0", "streamasr: server.port is 0, any free port: clients would not find"),
        ('host = "here"\ntoken_file = "t"', "streamasr: server.host is 'here'; systemd needs"),
    ],
)
def test_a_socket_needs_a_place(machine: Machine, settings: str, sentence: str) -> None:
    token = machine.config.with_name("t")
    token.write_text("12345678")
    token.chmod(0o600)
    machine.config.write_text(f"[server]\n{settings}\n")
    code, _, errors = machine.service("install", "--socket")
    assert code == 78
    assert errors.startswith(sentence)
    assert not machine.units.exists()


def test_a_socket_of_the_daemons_own_is_where_it_may_write_and_others_can_see(
    machine: Machine,
) -> None:
    machine.config.write_text('[server]\nsocket = "/srv/my place/streamasr"\n')
    assert machine.service("install")[0] == 0
    text = (machine.units / SERVICE).read_text("utf-8")
    assert re.search('^ReadWritePaths=.* "-/srv/my place"', text, re.MULTILINE)
    machine.config.write_text('[server]\nsocket = "/tmp/streamasr"\n')
    code, _, errors = machine.service("install")
    assert code == 78
    assert "the service has a /tmp of its own, where clients do not find it" in errors
    for place in (machine.home, Path("/")):
        path = place / "streamasr"
        machine.config.write_text(f'[server]\nsocket = "{path}"\n')
        code, _, errors = machine.service("install")
        assert code == 78
        assert f"to write to all of {place}; choose a directory in it" in errors
    assert machine.service("install", "--socket")[0] == 0


def test_only_installed_units_are_removed(machine: Machine) -> None:
    (machine.bin / "no-namespaces").touch()
    machine.units.mkdir(parents=True)
    (machine.units / "other.service").touch()
    machine.service("install", "--socket", "--dictate")
    machine.asked()
    code, _, errors = machine.service("uninstall")
    assert (code, errors) == (0, "")
    first, *rest = machine.asked()
    assert first == f"disable --now {SOCKET} streamasr.service streamasr-dictate.service"
    assert rest == ["daemon-reload"]
    assert [path.name for path in machine.units.iterdir()] == ["other.service"]
    assert machine.service("uninstall")[:2] == (0, "nothing is installed.\n")


def test_the_service_works_where_users_have_no_namespaces(machine: Machine) -> None:
    (machine.bin / "no-namespaces").touch()
    code, said, _ = machine.service("install")
    assert code == 0
    assert "users have no namespaces here" in said
    drop_in = machine.units / f"{SERVICE}.d" / "no-namespaces.conf"
    assert "PrivateUsers=false\n" in drop_in.read_text("utf-8")
    (machine.bin / "no-namespaces").unlink()
    machine.service("install")
    assert not drop_in.parent.exists()


def test_without_systemd_the_units_are_written_and_the_next_step_is_named(
    machine: Machine,
) -> None:
    (machine.bin / "gone").touch()
    code, said, errors = machine.service("install", "--dictate")
    assert (code, errors) == (0, "")
    assert said.splitlines()[-1] == (
        "systemd does not run your services here. Where it does: systemctl --user enable --now "
        "streamasr.service streamasr-dictate.service"
    )
    assert machine.asked() == []
    assert machine.service("status")[0] == 1
    assert machine.service("uninstall")[0] == 0
    assert list(machine.units.iterdir()) == []


def test_dictation_imports_the_environment_of_the_desktop_unless_it_is_known(
    machine: Machine,
) -> None:
    desktop = {"DISPLAY": ":0", "XAUTHORITY": "/run/auth", "WAYLAND_DISPLAY": ""}
    machine.service("install", **desktop)
    assert not any("environment" in line for line in machine.asked())
    machine.service("install", "--dictate", **desktop)
    assert machine.asked()[1] == "import-environment DISPLAY XAUTHORITY"
    (machine.bin / "environment").write_text("HOME=/home/me\nWAYLAND_DISPLAY=wayland-1\n")
    machine.service("install", "--dictate", **desktop)
    assert not any("import-environment" in line for line in machine.asked())


def test_a_service_that_does_not_start_is_an_error(machine: Machine) -> None:
    code, _, errors = machine.service("install", broken=SERVICE)
    assert code == 1
    assert errors == (
        f"streamasr: systemctl --user restart {SERVICE}: Job for {SERVICE} failed. See why.\n"
    )


def test_a_daemon_that_runs_by_hand_is_stopped_first(machine: Machine) -> None:
    with Lock(machine.home / ".local" / "state" / "streamasr"):
        code, said, errors = machine.service("install", broken=SERVICE)  # systemd knows of none
        assert (code, said) == (1, "")
        assert f"stop it (kill {os.getpid()}), then install the service" in errors
        assert machine.asked() == []
        assert not machine.units.exists()
        assert machine.service("install")[0] == 0, "the daemon is the service itself"


def test_the_status_of_each_unit_is_shown(machine: Machine) -> None:
    machine.service("install")
    code, said, _ = machine.service("status")
    assert code == 0
    assert said.splitlines() == [
        "streamasr.service: installed, enabled, active, tiny is ready, 1 session",
        "streamasr.socket: not installed",
        "streamasr-dictate.service: not installed",
    ]


def test_a_home_that_cannot_be_written_is_reported(machine: Machine) -> None:
    (machine.home / ".config" / "systemd").write_text("a file")
    code, _, errors = machine.service("install")
    assert code == 1
    assert errors.count("\n") == 1
    assert "cannot be" in errors
