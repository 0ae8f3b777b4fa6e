"""A daemon to be measured: a process of its own, on a free port, without settings of the user."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import ModelError, WorkerError

_STOP_S: Final = 30.0
_LOAD_S: Final = 600.0
_READY: Final = re.compile(r"(\S+) is ready, process (\d+)")
_ADDRESS: Final = re.compile(r"streamasr: (ws://\S+?),")
_LOADED: Final = "is loaded"
_TAIL: Final = 2000  # characters of a log that an error quotes
_KEPT_LINES: Final = 200


class ScratchDaemon:
    """`streamasr run` for the time of a measurement, with a temporary directory."""

    def __init__(self, settings: str = "", options: Sequence[str] = ()) -> None:
        """Prepare; entering the context starts it and waits until it has loaded.

        Args:
            settings: TOML.
            options: of the command.
        """
        self._settings = settings
        self._options = options
        self._log: list[str] = []
        self._changed = threading.Condition()  # guards the facts that were read from the log
        self._address: str | None = None
        self._is_loaded = False
        self._has_ended = False
        self._children: dict[str, int] = {}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Address that the daemon listens on."""
        assert self._address, "it was started"
        return self._address

    @property
    def processes(self) -> Mapping[str, int]:
        """Process ids by name, `main` first; children may be replaced."""
        with self._changed:
            return {"main": self._process.pid, **self._children}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        config = directory / "config.toml"
        state = quoted(directory / "state")
        config.write_text(f"{self._settings}\n[storage]\ndirectory = {state}\n", "utf-8")
        command = [sys.executable, "-m", "streamasr", "run", "--config", str(config)]
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [*command, "--no-mic", "--port", "0", *self._options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=os.environ | {"NO_COLOR": "1"},
            start_new_session=True,  # Ctrl-C is for this process, which then stops the daemon
        )
        self._reader = threading.Thread(target=self._read, name="daemon-log", daemon=True)
        self._reader.start()
        self._stack.callback(self._stop)
        with self._changed:
            self._changed.wait_for(
                lambda: self._has_ended or (self._is_loaded and self._address), _LOAD_S
            )
            if self._has_ended:
                raise ModelError(
                    f"the daemon did not start:\n{self._tail()}", code="daemon_not_started"
                )
            if not self._is_loaded or not self._address:
                raise WorkerError(
                    f"the daemon did not load within {_LOAD_S:g} s:\n{self._tail()}",
                    code="daemon_too_slow",
                )

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stderr
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            with self._changed:
                self._log.append(line)
                del self._log[:-_KEPT_LINES]
                self._take(line)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _take(self, line: str) -> None:
        if ready := _READY.search(line):
            self._children[ready[1]] = int(ready[2])
        elif address := _ADDRESS.search(line):
            self._address = address[1]
        elif _LOADED in line:
            self._is_loaded = True

    def _tail(self) -> str:
        return "".join(self._log)[-_TAIL:].rstrip()


def quoted(value: str | Path) -> str:
    """Return a string as TOML writes it, which accepts every string of JSON."""
    return json.dumps(str(value))


def settings_for(
    *,
    model: str,
    threads: int | None = None,
    encoder_window_s: int | None = None,
    n_sessions: int = 1,
) -> str:
    """Return the settings of a daemon for a measurement, as TOML.

    Args:
        model: an embedded model's name, or an absolute path.
        threads: of each stage; None for the default.
        encoder_window_s: None for the default.
        n_sessions: number of simultaneous sessions.
    """
    lines = ["[model]", f"name = {quoted(model)}"]
    if threads is not None:
        lines.append(f"threads = {threads}")
    if encoder_window_s is not None:
        lines.append(f"encoder_window_s = {encoder_window_s}")
    # One more, since an ended session occupies its slot for a moment.
    lines += ["[server]", f"max_sessions = {max(8, n_sessions + 1)}"]
    return "\n".join([*lines, ""])
