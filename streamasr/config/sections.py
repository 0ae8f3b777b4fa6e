"""The settings: `Settings` is the file, a TOML table for each of its sections.

Each setting has here its default, its range, the time when a change takes effect, and its manual.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from streamasr.catalogue.known import KnownModel, check_url
from streamasr.config.notes import ELSEWHERE, HIDDEN, RELOAD, RESTART, Except, example
from streamasr.config.places import models_directory, state_directory
from streamasr.core.errors import ConfigError
from streamasr.segmentation.settings import ChunkerConfig, VadConfig

_DECODER_SIZE: Final = Except("max_segment")
"""The memory of the decoder is allocated for the longest segment."""

_FOREVER_S: Final = 1e9
"""Longest time that can be set, 30 years; it stands for infinity, which TOML can write."""

_POSITIVE: Final = Meta(gt=0, le=_FOREVER_S)
_NOT_NEGATIVE: Final = Meta(ge=0, le=_FOREVER_S)
_Named: TypeAlias = Annotated[str, Meta(min_length=1)]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z?#@]+")

_LONGEST_SOCKET: Final = 107
"""Bytes of a Unix socket's path that Linux takes, without the closing zero."""

REGISTRY: Final = "models"
"""Field of `Settings` that holds tables with names of the user's choice, and no settings."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file. The type of each field notes when a change takes effect."""


class ModelConfig(Section, kw_only=True, frozen=True):
    """The models, the hardware that they run on, and facts about the speech."""

    name: Annotated[_Named, RESTART] = "tiny"
    """An embedded model (`tiny`, `tiny-paraformer`), the name of an installed model, or the path of
    a model in any published form, which is imported on first use."""
    language: Annotated[str | None, RELOAD, example("English")] = None
    """Spoken language, by name or code (`English`, `en`); if not set, it is detected for each
    segment. A client may choose another one. A model that cannot be told the language, such as
    Paraformer, recognises all that it knows, and its texts are marked with this one."""
    languages: Annotated[tuple[_Named, ...], RELOAD] = ()
    """Languages that the detection chooses among, as a list of names or codes; an empty list means
    all that the model knows. A client may give its own."""
    context: Annotated[str, RELOAD] = ""
    """Names and terms that may come up, as free text. A client may give its own. A model that takes
    none, such as Paraformer without the graph of hotwords, warns that it has no effect."""
    hotwords: Annotated[tuple[_Named, ...], RELOAD] = ()
    """Names and terms that are likely, as a list. A client may give its own. A model that takes
    none, such as Paraformer without the graph of hotwords, warns that they have no effect."""
    threads: Annotated[Annotated[int, Meta(ge=1, le=512)] | None, RESTART, example(4)] = None
    """Threads of each stage; if not set, one for each processor, 8 at most, and fewer for the
    aligner."""
    providers: Annotated[tuple[_Named, ...], RESTART, Meta(min_length=1)] = (
        "CPUExecutionProvider",
    )
    """Execution providers of onnxruntime for the audio encoder, in order of preference; if one does
    not work, the next one or the CPU is used."""
    gpu_layers: Annotated[int, RESTART, Meta(ge=-1, le=10_000)] = -1
    """Layers of the decoder that run on a GPU, if llama.cpp was built for one: -1 is all, 0 is
    none. If the GPU does not work, the CPU is used."""
    gpu: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, RESTART, example("CUDA0")] = None
    """GPU to use, by number or name (see `streamasr doctor`) or by a part of its description; if
    not set, llama.cpp chooses."""
    aligner: Annotated[_Named | None, RESTART, example("/models/aligner")] = None
    """Forced aligner that gives word times, by name or path; if not set, the model's own times, the
    aligner in its directory, or an installed one; `none` goes without, and spreads words evenly
    where the model does not time them itself."""
    aligner_gpu: Annotated[bool, RESTART] = False
    """Run the aligner, too, on `gpu` and `providers`. Its times come after the text, so the CPU is
    usually fast enough."""
    punctuation: Annotated[_Named | None, RESTART, example("ct-punc")] = None
    """Model that punctuates the texts of recognisers that do not, by name or path; if not set, an
    installed one; `none` leaves such texts without punctuation."""
    encoder_window_s: Annotated[Literal[1, 2, 4, 8], RESTART] = 8
    """Seconds of audio that the encoder attends to at once: 1, 2, 4 or 8. The models were trained
    with 8; with less, updates of long segments are cheaper, and their text may be worse. Without
    effect on models that attend to the whole segment, such as Paraformer."""
    aligner_idle_s: Annotated[float, RESTART, Meta(ge=1, le=_FOREVER_S)] = 300.0
    """Seconds without speech after which the aligner is unloaded to free its memory. It is loaded
    again when speech begins."""
    reuse: Annotated[bool, RESTART, HIDDEN] = True
    """Build each update on earlier ones; false computes it from scratch."""

    def for_files(self, overrides: Mapping[str, Any]) -> "ModelConfig":
        """Return the settings for recognising files.

        Languages, context and hotwords are left out: they describe speech at the microphone.

        Args:
            overrides: settings that go before these, by name.
        """
        plain = ModelConfig()
        of_speech = ("language", "languages", "context", "hotwords")
        defaults = {name: getattr(plain, name) for name in of_speech}
        return msgspec.structs.replace(self, **{**defaults, **overrides})


class ServerConfig(Section, kw_only=True, frozen=True):
    """The address that clients connect to, and their limits."""

    host: Annotated[_Named, RESTART] = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs a `token_file`."""
    port: Annotated[int, RESTART, Meta(ge=0, le=65535)] = 8765
    """TCP port; 0 takes any free port."""
    socket: Annotated[Path | None, RESTART, example("/run/user/1000/streamasr")] = None
    """Path of a Unix socket to listen on in place of host and port; only its owner can connect."""
    token_file: Annotated[Path | None, RELOAD, example("token")] = None
    """File with the token that clients must present, readable by its owner alone; if not set,
    clients need no token."""
    allow_origin: Annotated[tuple[str, ...], RELOAD] = ()
    """Web pages besides the daemon's own that may connect from a browser, as a list of origins:
    `https://notes.example`."""
    max_sessions: Annotated[int, RELOAD, Meta(ge=1, le=10_000)] = 8
    """Greatest number of open sessions; further ones are refused."""
    resume_s: Annotated[float, RELOAD, _NOT_NEGATIVE] = 300.0
    """Seconds for which a session waits for a client that lost its connection. If the client closed
    the connection on purpose, the session may be evicted earlier to free a slot."""
    max_lag_s: Annotated[float, RELOAD, _POSITIVE] = 60.0
    """Seconds of a session's audio that may wait to be recognised; beyond that, no more audio is
    read from its client. A segment waits from its end on."""
    stop_timeout_s: Annotated[float, RELOAD, _POSITIVE] = 30.0
    """Seconds that a stopping daemon has to finish the audio that it received."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        for origin in self.allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"allow_origin: {origin!r} is not an origin of a browser: scheme, host and "
                    "perhaps port, in lower case, as in https://notes.example",
                    code="invalid_origin",
                )
        if self.socket is not None and len(os.fsencode(self.socket)) > _LONGEST_SOCKET:
            raise ConfigError(
                f"socket: {self.socket} is longer than {_LONGEST_SOCKET} bytes; shorten it",
                code="socket_path_too_long",
            )


class MicrophoneConfig(Section, kw_only=True, frozen=True):
    """The microphone of the daemon, or a file in its place."""

    enabled: Annotated[bool, RESTART] = True
    """Listen to a microphone."""
    device: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, RESTART, example("USB")] = None
    """The microphone, by number or by a part of its name (see `streamasr devices`); if not set, the
    system's default."""
    input: Annotated[Path | None, RESTART, example("talk.flac")] = None
    """Audio or video file to play in place of a microphone."""
    speed: Annotated[float, RESTART, Meta(gt=0, le=1000)] = 1.0
    """Speed at which that file is played; 1 is the speed of the recording."""


class LiveConfig(Section, kw_only=True, frozen=True):
    """Text that clients get during speech."""

    partials: Annotated[bool, RELOAD] = True
    """Send the text of a segment while it is being spoken; false: to no client."""
    partial_interval_s: Annotated[float, RELOAD, _POSITIVE] = 0.5
    """Seconds of new audio between two partials; a slow machine sends fewer."""
    commit: Annotated[Literal["agreement", "endpoint"], RELOAD] = "agreement"
    """Rule by which a part of a partial becomes stable, so that it never changes again:
    `agreement`, when two partials agree on it; `endpoint`, not before the final, for the best
    text."""
    commit_lag_tokens: Annotated[int, RELOAD, Meta(ge=0, le=1000)] = 5
    """With `agreement`: number of the newest tokens that are not stable yet."""
    commit_lag_s: Annotated[float, RELOAD, _NOT_NEGATIVE] = 0.8
    """With `agreement`: text of these newest seconds is not stable yet."""
    words: Annotated[bool, RESTART] = True
    """Send the times of words after each final; false: to no client."""


class DictationConfig(Section, kw_only=True, frozen=True):
    """Listening and typing of `streamasr dictate`, which reads this when it starts."""

    push_to_talk: Annotated[bool | None, example(True)] = None
    """Listen only between `dictate start` and `stop`, with a microphone of its own; false types all
    speech at the daemon's microphone. If not set, the service uses push to talk, and `streamasr
    dictate` by itself does not."""
    hold: bool = False
    """Push to talk for a key that is held down while you speak: nothing is typed before it is
    released."""
    pre_roll_s: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Push to talk: keep the microphone open and include this many seconds before `start`; 0 opens
    it at `start`."""
    longest_s: Annotated[float, _POSITIVE] = 600.0
    """Push to talk: seconds after which listening stops by itself."""
    sound: bool = False
    """Play a sound when listening begins and ends."""
    device: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, example("USB")] = None
    """Microphone of its own, by number or by a part of its name; if not set, push to talk opens
    that of `[microphone]`."""
    language: Annotated[str | None, example("English")] = None
    """Language spoken into its own microphone; if not set, `model.language`."""
    context: str = ""
    """Names and terms that may come up there; if empty, `model.context`."""
    mode: Literal["stable", "final", "live"] = "stable"
    """Text that is typed while you speak: `stable`, text that will not change; `final`, nothing
    before the end of a segment; `live`, all of it, corrected where it changes."""
    commands: bool = True
    """Execute "comma", "new line", "scratch that" and the commands in `rules`; false types them as
    words."""
    itn: bool = True
    """Write Chinese and English numbers in digits."""
    rules: Annotated[Path | None, example("rules.toml")] = None
    """TOML file with more commands, and with replacements."""
    output: Annotated[
        Literal["wtype", "dotool", "ydotool", "xdotool", "paste", "stdout"] | None, example("paste")
    ] = None
    """Program that types; if not set, the first that works on this desktop."""
    keyboard: Annotated[_Named | None, example("de")] = None
    """Layout of the keyboard, for dotool and ydotool; if not set, that of DOTOOL_XKB_LAYOUT or
    XKB_DEFAULT_LAYOUT."""
    newline: _Named = "Return"
    """Key that ends a line; in chats perhaps `shift+Return`."""
    paste_key: _Named = "shift+Insert"
    """Key that pastes, for `paste`."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        if self.hold and self.push_to_talk is False:
            raise ConfigError(
                "hold is a kind of push to talk, and push_to_talk is false",
                code="settings_contradict",
            )
        if self.mode == "live" and self.output == "paste":
            raise ConfigError(
                "mode live corrects single characters, which paste cannot",
                code="settings_contradict",
            )


class StorageConfig(Section, kw_only=True, frozen=True):
    """Data on disk."""

    directory: Annotated[Path, RESTART] = msgspec.field(default_factory=state_directory)
    """Directory of the journal and the audio, readable by its owner alone. The default is the
    user's state directory of the XDG base directory specification."""
    spool: Annotated[bool, RESTART] = True
    """Keep audio until its text is final, so that a crash loses nothing."""
    history_days: Annotated[int, RELOAD, Meta(ge=0, le=36_500)] = 30
    """Days for which finals, words and gaps are kept; 0 keeps nothing of an ended session."""
    models: Annotated[Path, RESTART] = msgspec.field(default_factory=models_directory)
    """Directory of installed models. The default is in the user's cache directory of the XDG base
    directory specification."""


class DownloadConfig(Section, kw_only=True, frozen=True):
    """Downloads of `streamasr models pull`; nothing else uses the network."""

    endpoint: Annotated[_Named, RELOAD] = "https://huggingface.co"
    """Address of the hub or of a mirror of it. The variable HF_ENDPOINT overrides it, and HF_TOKEN
    is sent to this host alone. Proxies are those of HTTPS_PROXY and NO_PROXY."""
    timeout_s: Annotated[float, RELOAD, Meta(ge=1, le=3600)] = 30.0
    """Seconds without a byte after which a connection counts as dead and is replaced."""
    attempts: Annotated[int, RELOAD, Meta(ge=1, le=100)] = 6
    """Connections in a row that may fail without a new byte."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        try:
            check_url(self.endpoint)
        except ValueError as error:
            raise ConfigError(f"endpoint: {error}.", code="invalid_url") from error


class LogConfig(Section, kw_only=True, frozen=True):
    """Messages on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], RELOAD] = "info"
    """Least severe level of messages that are shown. Only `debug` shows spoken text."""


class Settings(Section, kw_only=True, frozen=True):
    """All settings."""

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
    """Models that the user adds to the known ones."""
