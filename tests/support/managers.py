"""A real service manager for a separate user, in separate namespaces; it needs root."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.support.paths import REPOSITORY
from tests.support.waiting import wait_until

_TIMEOUT_S: Final = 60.0
_USER: Final = 12345
_FILES: Final = (Path("/lib/systemd/systemd"), Path("/usr/lib/systemd/user/dbus.socket"))
_ROOT: Final = REPOSITORY

_BOOT: Final = """
set -e
mount --make-rprivate /
# A directory that this user may not enter is mounted at the same path inside one that it may.
for wanted in "$@"; do
    closed=$wanted
    while [ "$closed" != / ]; do
        parent=$(dirname "$closed")
        [ $(( $(stat -c 0%a "$parent") & 1 )) = 1 ] || hidden=$parent
        closed=$parent
    done
    [ -z "$hidden" ] && continue
    mkdir -p /mnt; mount -t tmpfs tmpfs /mnt; mkdir /mnt/kept; mount --bind "$wanted" /mnt/kept
    mount -t tmpfs -o mode=755 tmpfs "$hidden"; mkdir -p "$wanted"
    mount --move /mnt/kept "$wanted"; umount /mnt
    hidden=
done
mount -t tmpfs -o mode=755 tmpfs /home; mkdir /home/me; chown $USER_ID:$USER_ID /home/me
mount -t tmpfs -o mode=755 tmpfs /run
# The message bus serves only users with a name.
{ cat /etc/passwd; echo "me:x:$USER_ID:$USER_ID::/home/me:/bin/sh"; } > /run/passwd
mount --bind /run/passwd /etc/passwd
mkdir -p /run/systemd/system /run/systemd/unit-root /run/systemd/inaccessible
mkdir -p -m 0700 /run/user/$USER_ID; chown $USER_ID:$USER_ID /run/user/$USER_ID
mount -t tmpfs tmpfs /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/$GROUP; chown -R $USER_ID:$USER_ID /sys/fs/cgroup/$GROUP
echo $$ > /sys/fs/cgroup/$GROUP/cgroup.procs
$AS_USER /lib/systemd/systemd --user &  # as process 1 it would boot the machine
wait
"""

_SWEEP: Final = """
mount -t cgroup2 cgroup2 /mnt && find /mnt/$GROUP -depth -type d -exec rmdir {} +
"""

_MAY: Final = "mount --make-rprivate / && mount -t cgroup2 cgroup2 /mnt && touch /mnt/cgroup.procs"


def _is_available() -> bool:
    tools = ("unshare", "nsenter", "setpriv", "systemctl", "systemd-run")
    if os.getuid() != 0 or not all(map(Path.exists, _FILES)) or not all(map(shutil.which, tools)):
        return False
    probe = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", _MAY]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


needs_manager = pytest.mark.skipif(
    not _is_available(),
    reason="needs root, systemd and namespaces for a service manager of its own",
)


class UserManager:
    """`systemd --user`, and programs in its namespaces."""

    home = Path("/home/me")

    def __init__(self, **environment: str) -> None:
        """Prepare.

        Args:
            environment: variables of all programs of this user.
        """
        self._environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": f"/run/user/{_USER}",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(_ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        self._group = f"streamasr-{os.getpid()}"

    @property
    def _as_user(self) -> list[str]:
        ids = [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
        return ["setpriv", *ids, "env", "-i", *(f"{k}={v}" for k, v in self._environment.items())]

    def __enter__(self) -> Self:
        shown = dict.fromkeys(os.path.realpath(p) for p in (sys.base_prefix, sys.prefix, _ROOT))
        script = f"USER_ID={_USER} GROUP={self._group} AS_USER='{' '.join(self._as_user)}'\n{_BOOT}"
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            [*own, "bash", "-c", script, "boot", *shown], stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self._process.poll() is not None or "offline" not in self._state())
        assert self._process.poll() is None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.kill(self._first_process, signal.SIGKILL)  # which ends all others, too
        self._process.wait(_TIMEOUT_S)
        sweep = ["unshare", "--mount", "bash", "-c", f"GROUP={self._group}\n{_SWEEP}"]
        subprocess.run(sweep, check=False, capture_output=True)

    def run(self, *command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a program as this user."""
        beside = ["nsenter", f"--target={self._first_process}", "--mount", "--pid"]
        return subprocess.run(
            [*beside, *self._as_user, *command],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )

    def write(self, path: Path, text: str) -> None:
        """Write a file as this user."""
        script = f'mkdir -p "{path.parent}" && cat > "{path}"'
        assert self.run("sh", "-c", script, stdin=text).returncode == 0

    def systemctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `systemctl --user`."""
        return self.run("systemctl", "--user", *arguments)

    @property
    def _first_process(self) -> int:
        """PID of the process that has the namespaces."""
        own = self._process.pid
        return int(Path(f"/proc/{own}/task/{own}/children").read_text())

    def _state(self) -> str:
        try:
            done = self.systemctl("is-system-running")
        except (OSError, ValueError):  # the process does not exist yet
            return "offline"
        return done.stdout or "offline"
