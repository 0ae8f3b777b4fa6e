"""The daemon with a real microphone: PortAudio on a PulseAudio server of its own."""

import asyncio
import signal
from pathlib import Path

import pytest

from streamasr import client
from streamasr.protocols import v1
from tests.support.daemons import RunningDaemon
from tests.support.fakes import write_wav
from tests.support.live_sessions import check_guarantees, load_clip
from tests.support.portaudio import SERVER_DEVICE, SoundServer, needs_portaudio, needs_sound_server

pytestmark = [needs_portaudio, needs_sound_server]


async def test_speech_into_a_microphone_becomes_text_also_after_it_was_unplugged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".asoundrc").write_text(SERVER_DEVICE.format(source="room.monitor"))
    said = write_wav(tmp_path / "said.wav", load_clip("espeak_joined.flac"))

    async def listen(daemon: RunningDaemon, room: SoundServer) -> list[client.Event]:
        events: list[client.Event] = []
        async with asyncio.timeout(120):
            async for event in client.listen(daemon.url):
                events.append(event)
                if isinstance(event, v1.Ready):
                    room.play(said)
                match [type(event).__name__ for event in events].count("Final"), event:
                    case 1, v1.Words():
                        room.kill()
                    case 1, v1.Warning(code="device_lost"):
                        room.start()
                    case 1, v1.Warning(code="device_back"):
                        room.play(said)
                    case 2, v1.Words():
                        daemon.process.send_signal(signal.SIGTERM)
        return events

    with SoundServer(tmp_path) as room:
        for name, value in room.environment.items():
            monkeypatch.setenv(name, value)
        with RunningDaemon(tmp_path, "--device", "desk") as daemon:
            events = await listen(daemon, room)
            check_guarantees(events)
            finals = [event.text for event in events if isinstance(event, v1.Final)]
            assert finals == ["morning last send"] * 2
            assert any(isinstance(event, v1.Gap) for event in events)
            assert daemon.process.wait(60) == 0
            warnings = {event.message for event in events if isinstance(event, v1.Warning)}
            assert [daemon.all_log.count(f": {warning}\n") for warning in warnings] == [1] * 2
