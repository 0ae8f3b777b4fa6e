"""The settings: `Settings` is the file, a TOML table for each of its sections.

Each setting has its default, its range, when a change of it holds, and its manual here.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from streamasr.catalogue.known import KnownModel, check_url
from streamasr.config.notes import ELSEWHERE, HIDDEN, RELOAD, RESTART, Except, example
from streamasr.config.places import models_directory, state_directory
from streamasr.core.errors import ConfigError
from streamasr.segmentation.settings import ChunkerConfig, VadConfig

_DECODER_SIZE: Final = Except("max_segment")
"""The decoder's memory is made for the longest segment."""

_FOREVER_S: Final = 1e9
"""No time is set longer than this, 30 years: it stands for infinity, which TOML can write."""

_POSITIVE: Final = Meta(gt=0, le=_FOREVER_S)
_NOT_NEGATIVE: Final = Meta(ge=0, le=_FOREVER_S)
_Named: TypeAlias = Annotated[str, Meta(min_length=1)]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z?#@]+")

_LONGEST_SOCKET: Final = 107
"""Bytes of a Unix socket's path that Linux takes, without the closing zero."""

REGISTRY: Final = "models"
"""Field of `Settings` that holds tables with names of the user's choice, and no settings."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file. Each field says in its type when a change of it holds."""


class ModelConfig(Section, kw_only=True, frozen=True):
    """What recognises, and what it is told beforehand."""

    name: Annotated[_Named, RESTART] = "tiny"
    """The embedded model `tiny`, the name of one that is installed, or the path of one in any
    published form, which is imported on first use."""
    language: Annotated[str | None, RELOAD, example("English")] = None
    """The language that is spoken, by name or code (`English`, `en`); left out, it is detected for
    each segment. A client may ask for another one."""
    languages: Annotated[tuple[_Named, ...], RELOAD] = ()
    """The languages that may be spoken, as a list of names or codes: detection chooses among them;
    empty, among all that the model knows. A client may give its own."""
    context: Annotated[str, RELOAD] = ""
    """Names and terms that may come up, as a text. A client may give its own."""
    hotwords: Annotated[tuple[_Named, ...], RELOAD] = ()
    """Words that are likely, as a list. A client may give its own."""
    threads: Annotated[Annotated[int, Meta(ge=1, le=512)] | None, RESTART, example(4)] = None
    """Threads of each stage; left out, one for each processor, 8 at most, and fewer for the
    aligner."""
    providers: Annotated[tuple[_Named, ...], RESTART, Meta(min_length=1)] = (
        "CPUExecutionProvider",
    )
    """Execution providers of onnxruntime for the audio encoder, in order of preference; where one
    does not work, the next one or the CPU takes its place."""
    gpu_layers: Annotated[int, RESTART, Meta(ge=-1, le=10_000)] = -1
    """Layers of the decoder that run on a GPU, where llama.cpp was built for one: -1 is all, 0 is
    none. Where the GPU does not work the CPU takes its place."""
    gpu: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, RESTART, example("CUDA0")] = None
    """That GPU, by number or name (see `streamasr doctor`) or by a part of its description; left
    out, llama.cpp chooses."""
    aligner: Annotated[_Named | None, RESTART, example("/models/aligner")] = None
    """The forced aligner that gives word times, by name or path; left out, the one in the model's
    directory, or one that is installed; `none` spreads words evenly."""
    aligner_gpu: Annotated[bool, RESTART] = False
    """Whether the aligner too uses `gpu` and `providers`. Its times come after the text, so the CPU
    mostly does."""
    encoder_window_s: Annotated[Literal[1, 2, 4, 8], RESTART] = 8
    """Seconds of audio that the encoder looks at together: 1, 2, 4 or 8. The models were trained
    with 8; with less, updates of long segments cost less, and their text may be worse."""
    aligner_idle_s: Annotated[float, RESTART, Meta(ge=1, le=_FOREVER_S)] = 300.0
    """Seconds without speech after which the aligner is unloaded, which gives its memory back. It
    is loaded when speech begins."""
    reuse: Annotated[bool, RESTART, HIDDEN] = True
    """Whether an update builds on earlier ones; false computes all of it anew."""


class ServerConfig(Section, kw_only=True, frozen=True):
    """Where clients connect, and what they may use."""

    host: Annotated[_Named, RESTART] = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a `token_file`."""
    port: Annotated[int, RESTART, Meta(ge=0, le=65535)] = 8765
    """TCP port; 0 takes any that is free."""
    socket: Annotated[Path | None, RESTART, example("/run/user/1000/streamasr")] = None
    """Path of a Unix socket to listen on in place of host and port; only its owner can connect."""
    token_file: Annotated[Path | None, RELOAD, example("token")] = None
    """File with the token that clients must show, readable by its owner alone; left out, they need
    none."""
    allow_origin: Annotated[tuple[str, ...], RELOAD] = ()
    """Web pages, besides the daemon's own, that may connect from a browser, as a list of origins:
    `https://notes.example`."""
    max_sessions: Annotated[int, RELOAD, Meta(ge=1, le=10_000)] = 8
    """Sessions that may be open at once; the next one is refused."""
    resume_s: Annotated[float, RELOAD, _NOT_NEGATIVE] = 300.0
    """Seconds for which a session waits for a client that lost its connection; for one that closed
    it on purpose, only as long as there is room."""
    max_lag_s: Annotated[float, RELOAD, _POSITIVE] = 60.0
    """Seconds of audio of a session that may wait to be recognised; then no more is read from its
    client until there is room. A segment waits from its end on."""
    stop_timeout_s: Annotated[float, RELOAD, _POSITIVE] = 30.0
    """Seconds that a daemon which is asked to stop has to finish what it has heard."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for origin in self.allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"allow_origin: {origin!r} is not what browsers call an origin: scheme, host "
                    "and perhaps port, in lower case, as in https://notes.example"
                )
        if self.socket is not None and len(os.fsencode(self.socket)) > _LONGEST_SOCKET:
            raise ConfigError(f"socket: a path of more than {_LONGEST_SOCKET} bytes: {self.socket}")


class MicrophoneConfig(Section, kw_only=True, frozen=True):
    """The daemon's own session."""

    enabled: Annotated[bool, RESTART] = True
    """Whether the daemon listens to a microphone."""
    device: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, RESTART, example("USB")] = None
    """The microphone, by number or by a part of its name (see `streamasr devices`); left out, the
    system's default."""
    input: Annotated[Path | None, RESTART, example("talk.flac")] = None
    """Audio or video file that is played in place of a microphone."""
    speed: Annotated[float, RESTART, Meta(gt=0, le=1000)] = 1.0
    """How fast that file is played; 1 is as fast as it was spoken."""


class LiveConfig(Section, kw_only=True, frozen=True):
    """What is shown while somebody speaks."""

    partials: Annotated[bool, RELOAD] = True
    """Whether the text of a segment is shown while it is being spoken; false: to no client."""
    partial_interval_s: Annotated[float, RELOAD, _POSITIVE] = 0.5
    """Seconds of new audio between two partials; a machine that is too slow for it shows fewer."""
    commit: Annotated[Literal["agreement", "endpoint"], RELOAD] = "agreement"
    """When a part of a partial becomes stable, so that it never changes again: `agreement`, when
    two partials agree on it; `endpoint`, not before the final, for the best text."""
    commit_lag_tokens: Annotated[int, RELOAD, Meta(ge=0, le=1000)] = 5
    """With `agreement`: this many of the newest tokens are not stable yet."""
    commit_lag_s: Annotated[float, RELOAD, _NOT_NEGATIVE] = 0.8
    """With `agreement`: what was said in these newest seconds is not stable yet."""
    words: Annotated[bool, RESTART] = True
    """Whether finals are followed by the times of their words; false: for no client."""


class DictationConfig(Section, kw_only=True, frozen=True):
    """How `streamasr dictate` listens and types; it reads this when it starts."""

    push_to_talk: Annotated[bool | None, example(True)] = None
    """Whether it listens only between `dictate start` and `stop`, with a microphone of its own, or
    types whatever the daemon's microphone hears. Left out, the service does the first, and
    `streamasr dictate` by itself the second."""
    hold: bool = False
    """Push to talk for a key that is held down while you speak: nothing is typed before it is
    released."""
    pre_roll_s: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Push to talk: the microphone stays open, and what was said in these seconds before `start`
    counts; 0 opens it at `start`."""
    longest_s: Annotated[float, _POSITIVE] = 600.0
    """Push to talk: seconds after which it ends by itself."""
    sound: bool = False
    """Whether a sound tells when it begins and ends to listen."""
    device: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, example("USB")] = None
    """A microphone of its own, by number or by a part of its name; left out, push to talk opens
    that of `[microphone]`."""
    language: Annotated[str | None, example("English")] = None
    """The language that is spoken into its own microphone; left out, `model.language`."""
    context: str = ""
    """Names and terms that may come up there; left out, `model.context`."""
    mode: Literal["stable", "final", "live"] = "stable"
    """What is typed while you speak: `stable`, text that will not change; `final`, nothing before
    the end of a segment; `live`, all of it, corrected where it changes."""
    commands: bool = True
    """Whether "comma", "new line", "scratch that" and your `rules` are obeyed; otherwise they are
    words."""
    itn: bool = True
    """Whether Chinese and English numbers are written in digits."""
    rules: Annotated[Path | None, example("rules.toml")] = None
    """TOML file with more commands, and with replacements."""
    output: Annotated[
        Literal["wtype", "dotool", "ydotool", "xdotool", "paste", "stdout"] | None, example("paste")
    ] = None
    """What types; left out, the first that works on this desktop."""
    keyboard: Annotated[_Named | None, example("de")] = None
    """The layout of the keyboard, for dotool and ydotool; left out, that of DOTOOL_XKB_LAYOUT or
    XKB_DEFAULT_LAYOUT."""
    newline: _Named = "Return"
    """The key that ends a line; in chats perhaps `shift+Return`."""
    paste_key: _Named = "shift+Insert"
    """The key that pastes, for `paste`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.hold and self.push_to_talk is False:
            raise ConfigError("hold is a kind of push to talk, and push_to_talk is false")
        if self.mode == "live" and self.output == "paste":
            raise ConfigError("mode live corrects by single characters, which paste cannot")


class StorageConfig(Section, kw_only=True, frozen=True):
    """What is kept on disk."""

    directory: Annotated[Path, RESTART] = msgspec.field(default_factory=state_directory)
    """Where it is kept, readable by its owner alone. The default is what the XDG base directory
    specification calls the user's state."""
    spool: Annotated[bool, RESTART] = True
    """Whether audio is kept until its text is final, so that a crash loses nothing."""
    history_days: Annotated[int, RELOAD, Meta(ge=0, le=36_500)] = 30
    """Days for which finals, words and gaps are kept; 0 keeps nothing of a session that is over."""
    models: Annotated[Path, RESTART] = msgspec.field(default_factory=models_directory)
    """Where models are installed. The default is in what the XDG base directory specification calls
    the user's cache."""


class DownloadConfig(Section, kw_only=True, frozen=True):
    """How `streamasr models pull` fetches models; nothing else uses the network."""

    endpoint: Annotated[_Named, RELOAD] = "https://huggingface.co"
    """Address of the hub or of a mirror of it. The variable HF_ENDPOINT goes before it, and
    HF_TOKEN is sent to this host alone. Proxies are those of HTTPS_PROXY and NO_PROXY."""
    timeout_s: Annotated[float, RELOAD, Meta(ge=1, le=3600)] = 30.0
    """Seconds without a byte after which a connection counts as dead, and another one is made."""
    attempts: Annotated[int, RELOAD, Meta(ge=1, le=100)] = 6
    """How often in a row a connection may fail without having brought anything new."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        try:
            check_url(self.endpoint)
        except ValueError as error:
            raise ConfigError(f"endpoint: {error}.") from error


class LogConfig(Section, kw_only=True, frozen=True):
    """What is told on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], RELOAD] = "info"
    """The least important messages that are shown. Only `debug` shows what was spoken."""


class Settings(Section, kw_only=True, frozen=True):
    """Everything that can be set."""

    model: ModelConfig = ModelConfig()
    server: ServerConfig = ServerConfig()
    microphone: MicrophoneConfig = MicrophoneConfig()
    live: LiveConfig = LiveConfig()
    segmentation: Annotated[ChunkerConfig, RELOAD, _DECODER_SIZE] = ChunkerConfig()
    vad: Annotated[VadConfig, RELOAD] = VadConfig()
    dictation: Annotated[DictationConfig, ELSEWHERE] = DictationConfig()
    storage: StorageConfig = msgspec.field(default_factory=StorageConfig)
    download: DownloadConfig = DownloadConfig()
    log: LogConfig = LogConfig()
    models: dict[str, KnownModel] = msgspec.field(default_factory=dict)
    """What the user adds to the models that are known by name; no settings of a daemon."""
