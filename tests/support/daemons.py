"""A real daemon in its own process, with the embedded model."""

import contextlib
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 120.0  # loading is quick, but other tests may keep both cores busy


_CHILDREN: Final = ("encoder", "punctuator", "aligner")

_PORTS: Final = range(10_000, 32_000)
"""Ports that the system does not assign to programs that bind port 0, so a free one stays free."""


def free_port() -> int:
    """Return a port that no program listens on."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RunningDaemon:
    """`streamasr run` in a child process, started and stopped as by a person or systemd."""

    def __init__(
        self, directory: Path, *options: str, settings: str = "", model: str | None = None
    ) -> None:
        """Prepare the daemon; `start` runs it.

        Args:
            directory: directory of its configuration, journal and spool.
            options: options of `streamasr run`.
            settings: TOML, appended to the settings of all tests.
            model: name of the model; None for that of the settings, by default `tiny`.
        """
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.directory = directory
        self.config = directory / "config.toml"
        storage = directory / "storage"
        named = "" if model is None else f'[model]\nname = "{model}"\n'
        text = f'{named}[storage]\ndirectory = "{storage}"\n{settings}'
        self.config.write_text(text, encoding="utf-8")
        self.command = [sys.executable, "-m", "streamasr", "run", "--config", str(self.config)]
        self.command += ["--threads", "1", "--port", str(self.port), *options]
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.log: list[str] = []

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert self._process, "it was started"
        return self._process

    def start(self) -> Self:
        """Start the daemon and wait until it listens."""
        self._process = self.spawn(self.command, os.environ | {"NO_COLOR": "1"})
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=[self._process], daemon=True)
        self._reader.start()
        self.wait_for(f"{self.url},")
        return self

    def wait_for(self, text: str) -> str:
        """Wait for a line on stderr that contains a text, and return the line."""
        while True:
            line = self._lines.get(timeout=_TIMEOUT_S)
            assert line is not None, f"the daemon ended before it logged {text!r}:\n{self.all_log}"
            if text in line:
                return line

    def spawn(self, command: list[str], environ: dict[str, str]) -> "subprocess.Popen[str]":
        """Start the process."""
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)

    @property
    def all_log(self) -> str:
        """Lines of stderr so far."""
        return "".join(self.log)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return the daemon's metrics by name and labels, those without labels included."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return {(sample.name, *sample.labels.values()): sample.value for sample in samples}

    def history(self, form: str, *options: str) -> str:
        """Return what `streamasr history` prints about its sessions."""
        command = [sys.executable, "-m", "streamasr", "history", "--config", str(self.config)]
        command += ["--format", form, *options]
        done = subprocess.run(command, capture_output=True, check=True)
        return done.stdout.decode()

    def kill(self) -> None:
        """Kill the daemon with SIGKILL."""
        self.process.kill()
        self.process.wait(_TIMEOUT_S)
        self._reader.join(_TIMEOUT_S)
        assert self.process.stderr
        self.process.stderr.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon with a signal and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(_TIMEOUT_S)

    def children(self) -> dict[str, int]:
        """Return the PIDs of the children, by their names in the log."""
        found = {}
        for line in self.log:
            words = line.replace(",", " ").split()
            if "ready" in words and words[-2:-1] == ["process"]:
                name = next(word for word in words if word in _CHILDREN)
                found[name] = int(words[-1])
        return found

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr
        lines = self._lines
        for line in process.stderr:
            self.log.append(line)
            lines.put(line)
        lines.put(None)

    def _end(self) -> None:
        if self._process and self._process.poll() is None:
            self.kill()
        if self._process and self._process.stderr:
            self._reader.join(_TIMEOUT_S)
            self._process.stderr.close()  # may be called twice

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if error:
            print(self.all_log)
