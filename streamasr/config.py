"""What can be set, in frozen values that are read once and cross into the children whole.

`DaemonConfig` is the file of settings: a TOML table for each of its sections, a key for each of
their fields. Here each setting has its default, its range, whether a running daemon can take it
over, and its manual; `streamasr config`, the table in the README and the reload follow from that.
"""

import contextlib
import functools
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta

from streamasr.catalogue.known import FAMILIES, KnownModel, check_name, check_url
from streamasr.errors import ConfigError
from streamasr.segmentation.chunker import ChunkerConfig
from streamasr.segmentation.vad import VadConfig

MAX_THREADS: Final = 8
"""More threads than this make small matrices slower, not faster."""

CONFIG_VARIABLE: Final = "STREAMASR_CONFIG"
"""Environment variable that names the file of settings."""

APP_NAME: Final = "streamasr"
"""Name of our directory in the places that the XDG base directory specification names."""

Overrides: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Section -> key -> value, as TOML would have it; paths are absolute."""


_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """The processors that this process may use: those it may run on, within a container's quota."""
    n_cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return min(n_cores, cores_of_quota(_CPU_QUOTA.read_text("ascii"), n_cores))
    return n_cores


def cores_of_quota(quota: str, n_cores: int) -> int:
    """Processors that a control group may keep busy.

    Args:
        quota: its `cpu.max`: so many microseconds in each so many, or `max 100000`.
        n_cores: those that are there.
    """
    allowed, _, period = quota.partition(" ")
    if not allowed.isdecimal() or not period.strip().isdecimal() or int(period) == 0:
        return n_cores
    return max(1, math.ceil(int(allowed) / int(period)))


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads each stage works with."""

    encoder: int
    decoder: int
    aligner: int


def share_cores(n_cores: int) -> Threads:
    """Threads for a machine of so many cores.

    Encoder and decoder each get all cores, since what one session wants of them comes one after the
    other. The aligner runs beside them with a low priority: on two cores, its second thread cost
    them nothing, and made it a third faster while they were idle (0.6B, int8 and q8_0).
    """
    n_threads = max(1, min(MAX_THREADS, n_cores))
    return Threads(n_threads, n_threads, aligner=min(n_threads, max(2, n_threads // 2)))


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The encoder process."""

    bundle: Path
    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    window_s: int | None = None
    """Length of the attention window; None for the model's own."""
    reuse: bool = True
    """Whether what is known of a segment from its last pass is used in the next one."""


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """The aligner process."""

    bundle: Path
    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    gpu_layers: int = 0
    """As of `RecognitionConfig`."""
    gpu: str | int | None = None


@dataclass(frozen=True, slots=True)
class RecognitionConfig:
    """From samples to words."""

    model: Path
    """A model directory; see `models.bundle`."""
    aligner: Path | None = None
    """The directory of the forced aligner that gives word times; None spreads words evenly."""
    language: str | None = None
    """The model's name of the language to force; None lets it detect that of each segment."""
    context: str = ""
    """Names and terms that may come up; empty for none."""
    hotwords: tuple[str, ...] = ()
    """Words that are likely, one by one."""
    partial_interval_s: float | None = None
    """Seconds of new audio between two partials; None for no partials."""
    words: bool = True
    encoder_window_s: int | None = None
    """Length of the encoder's attention window; None for the model's own. The aligner always keeps
    its own."""
    aligner_idle_s: float | None = None
    """Seconds without work after which the aligner is unloaded; then it is loaded when words are
    first wanted. None loads it at the start, for good."""
    reuse: bool = True
    """Whether a pass over a segment uses what earlier ones found; False computes all of it anew,
    the baseline of measurements."""
    threads: int | None = None
    """Of each stage; None for as many as suit it."""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    gpu_layers: int = -1
    """Layers of the decoder that run on a GPU, if llama.cpp has one; -1 for all, 0 for none."""
    gpu: str | int | None = None
    """Which one, by its place in llama.cpp's list or by name; None leaves it to llama.cpp."""
    aligner_gpu: bool = False
    """Whether the aligner uses the GPU and the providers too, and not the CPU."""
    vad: VadConfig = field(default_factory=VadConfig)
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)

    @property
    def stage_threads(self) -> Threads:
        """How many threads each stage gets."""
        if self.threads is None:
            return share_cores(available_cores())
        return Threads(self.threads, self.threads, self.threads)


_COMMAND_LINE: Final = "command line"

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z?#@]+")

_LONGEST_SOCKET: Final = 107
"""Bytes of a Unix socket's path that Linux takes, without the closing zero."""


class Effect(Enum):
    """When a changed setting holds in a daemon that is already running."""

    RELOAD = "reload"
    """From the next SIGHUP on; sessions that are open may keep what they began with."""
    RESTART = "restart"
    """Once it is started anew."""


RELOAD: Final = Effect.RELOAD
RESTART: Final = Effect.RESTART


@dataclass(frozen=True, slots=True)
class Except:
    """A field of a section that does not hold when the others of it do."""

    name: str
    effect: Effect = RESTART


_DECODER_SIZE: Final = Except("max_segment")
"""The decoder's memory is made for the longest segment."""

_FOREVER_S: Final = 1e9
"""No time is set longer than this, 30 years: it stands for infinity, which TOML can write."""

_POSITIVE: Final = Meta(gt=0, le=_FOREVER_S)
_NOT_NEGATIVE: Final = Meta(ge=0, le=_FOREVER_S)
_Named: TypeAlias = Annotated[str, Meta(min_length=1)]


def _state_directory() -> Path:
    import platformdirs  # here, since no child process needs it

    with _at_home():
        return platformdirs.user_state_path(APP_NAME)


def _models_directory() -> Path:
    import platformdirs

    with _at_home():
        return platformdirs.user_cache_path(APP_NAME) / "models"


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Explain that this user has no home."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            "it is not known where your home directory is: set HOME, or name --config FILE and in "
            "it storage.directory."
        ) from error


def _example(value: str | int) -> Meta:
    """What a setting that is not set by default may look like."""
    return Meta(examples=[value])


REGISTRY: Final = "models"
"""Field of `DaemonConfig` that holds tables with names of the user's choice, and no settings."""

HIDDEN: Final = object()
"""Note of a field that is shown in no table and, at its default, in no file: for measurements."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file. Each field says in its type when a change of it holds."""


class ModelConfig(Section, kw_only=True, frozen=True):
    """What recognises, and what it is told beforehand."""

    name: Annotated[_Named, RESTART] = "tiny"
    """The embedded model `tiny`, the name of one that is installed, or the path of one in any
    published form, which is imported on first use."""
    language: Annotated[str | None, RELOAD, _example("English")] = None
    """The language that is spoken, by name or code (`English`, `en`); left out, it is detected for
    each segment. A client may ask for another one."""
    context: Annotated[str, RELOAD] = ""
    """Names and terms that may come up, as a text. A client may give its own."""
    hotwords: Annotated[tuple[_Named, ...], RELOAD] = ()
    """Words that are likely, as a list. A client may give its own."""
    threads: Annotated[Annotated[int, Meta(ge=1, le=512)] | None, RESTART, _example(4)] = None
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
    gpu: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, RESTART, _example("CUDA0")] = None
    """That GPU, by number or name (see `streamasr doctor`) or by a part of its description; left
    out, llama.cpp chooses."""
    aligner: Annotated[_Named | None, RESTART, _example("qwen3-aligner-0.6b")] = None
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
    socket: Annotated[Path | None, RESTART, _example("/run/user/1000/streamasr")] = None
    """Path of a Unix socket to listen on in place of host and port; only its owner can connect."""
    token_file: Annotated[Path | None, RELOAD, _example("token")] = None
    """File with the token that clients must show, readable by its owner alone; left out, they need
    none."""
    allow_origin: Annotated[tuple[str, ...], RELOAD] = ()
    """Web pages, besides the daemon's own, that may connect from a browser, as a list of origins:
    `https://notes.example`."""
    max_sessions: Annotated[int, RELOAD, Meta(ge=1, le=10_000)] = 8
    """Sessions that may be open at once; the next one is refused."""
    resume_s: Annotated[float, RELOAD, _NOT_NEGATIVE] = 300.0
    """Seconds for which a session waits for a client that lost its connection."""
    max_lag_s: Annotated[float, RELOAD, _POSITIVE] = 60.0
    """Seconds of audio of a session that may wait to be recognised; then no more is read from its
    client until there is room."""
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
    device: Annotated[_Named | Annotated[int, Meta(ge=0)] | None, RESTART, _example("USB")] = None
    """The microphone, by number or by a part of its name (see `streamasr devices`); left out, the
    system's default."""
    input: Annotated[Path | None, RESTART, _example("talk.flac")] = None
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


class StorageConfig(Section, kw_only=True, frozen=True):
    """What is kept on disk."""

    directory: Annotated[Path, RESTART] = msgspec.field(default_factory=_state_directory)
    """Where it is kept, readable by its owner alone. The default is what the XDG base directory
    specification calls the user's state."""
    spool: Annotated[bool, RESTART] = True
    """Whether audio is kept until its text is final, so that a crash loses nothing."""
    history_days: Annotated[int, RELOAD, Meta(ge=0, le=36_500)] = 30
    """Days for which finals, words and gaps are kept; 0 keeps nothing of a session that is over."""
    models: Annotated[Path, RESTART] = msgspec.field(default_factory=_models_directory)
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


class DaemonConfig(Section, kw_only=True, frozen=True):
    """Everything that can be set."""

    model: ModelConfig = ModelConfig()
    server: ServerConfig = ServerConfig()
    microphone: MicrophoneConfig = MicrophoneConfig()
    live: LiveConfig = LiveConfig()
    segmentation: Annotated[ChunkerConfig, RELOAD, _DECODER_SIZE] = ChunkerConfig()
    vad: Annotated[VadConfig, RELOAD] = VadConfig()
    storage: StorageConfig = msgspec.field(default_factory=StorageConfig)
    download: DownloadConfig = DownloadConfig()
    log: LogConfig = LogConfig()
    models: dict[str, KnownModel] = msgspec.field(default_factory=dict)
    """What the user adds to the models that are known by name; no settings of a daemon."""

    def recognition(
        self,
        find_model: Callable[[str], Path],
        find_aligner: Callable[[str | None, Path], Path | None],
        language_name: Callable[[str], str],
    ) -> RecognitionConfig:
        """What the engine needs of it.

        Args:
            find_model: the directory of a model given by name or path.
            find_aligner: the directory of an aligner given by name or path, or of one that suits a
                recogniser, if there is one.
            language_name: the model's name of a language given by name or code.
        """
        model, live = self.model, self.live
        directory = find_model(model.name)
        return RecognitionConfig(
            model=directory,
            aligner=find_aligner(model.aligner, directory) if live.words else None,
            language=language_name(model.language) if model.language else None,
            context=model.context,
            hotwords=model.hotwords,
            partial_interval_s=live.partial_interval_s if live.partials else None,
            words=live.words,
            encoder_window_s=model.encoder_window_s,
            aligner_idle_s=model.aligner_idle_s,
            reuse=model.reuse,
            threads=model.threads,
            providers=model.providers,
            gpu_layers=model.gpu_layers,
            gpu=model.gpu,
            aligner_gpu=model.aligner_gpu,
            vad=self.vad,
            chunker=self.segmentation,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file."""

    section: str
    name: str
    """Of the field."""
    key: str
    """In the file; there the times of segmentation name their unit."""
    effect: Effect
    choices: tuple[str, ...] = ()
    """The only values, if there are few."""
    example: str | int | None = None
    is_hidden: bool = False

    @property
    def path(self) -> str:
        """Section and key."""
        return f"{self.section}.{self.key}"

    def value(self, config: DaemonConfig) -> Any:
        """What it is set to."""
        return getattr(getattr(config, self.section), self.name)


@functools.cache
def settings() -> tuple[Setting, ...]:
    """All that can be set, in the order of the file.

    Raises:
        TypeError: a field does not say when it holds.
    """
    return tuple(
        _setting(section, key)
        for section in msgspec.structs.fields(DaemonConfig)
        if section.name != REGISTRY
        for key in msgspec.structs.fields(_without_notes(section.type))
    )


def _setting(section: msgspec.structs.FieldInfo, key: msgspec.structs.FieldInfo) -> Setting:
    kind = _without_notes(key.type)
    examples = [note.examples for note in _notes(key.type) if isinstance(note, Meta)]
    return Setting(
        section.name,
        key.name,
        key.encode_name,
        _effect(section, key),
        choices=tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else (),
        example=next((some[0] for some in examples if some), None),
        is_hidden=HIDDEN in _notes(key.type),
    )


def _effect(section: msgspec.structs.FieldInfo, key: msgspec.structs.FieldInfo) -> Effect:
    """What the field says, or an exception in its section, or all of its section."""
    of_section = _notes(section.type)
    exceptions = [
        note.effect for note in of_section if isinstance(note, Except) and note.name == key.name
    ]
    plain = [note for note in (*_notes(key.type), *of_section) if isinstance(note, Effect)]
    if not exceptions and not plain:
        raise TypeError(f"{section.name}.{key.name} is neither for RELOAD nor for RESTART")
    return [*exceptions, *plain][0]


def _notes(annotation: Any) -> tuple[Any, ...]:
    """What stands behind the type in an `Annotated`."""
    return getattr(annotation, "__metadata__", ())


def _without_notes(annotation: Any) -> Any:
    return get_args(annotation)[0] if _notes(annotation) else annotation


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between the settings of a running daemon and new ones, by path."""

    applied: tuple[str, ...]
    """These can be taken over at once."""
    needs_restart: tuple[str, ...]


def compare(old: DaemonConfig, new: DaemonConfig) -> Changes:
    """Which settings have changed."""
    changed = [one for one in settings() if one.value(old) != one.value(new)]
    return Changes(
        applied=tuple(one.path for one in changed if one.effect is RELOAD),
        needs_restart=tuple(one.path for one in changed if one.effect is RESTART),
    )


def reload(running: DaemonConfig, wanted: DaemonConfig) -> DaemonConfig:
    """The settings that hold once a running daemon has taken over what it can.

    Raises:
        ConfigError: they cannot hold together: the token was to go with the address, which stays.
    """
    taken: dict[str, dict[str, Any]] = {}
    for one in settings():
        source = wanted if one.effect is RELOAD else running
        taken.setdefault(one.section, {})[one.name] = one.value(source)
    config = DaemonConfig(
        **{
            section: msgspec.structs.replace(getattr(running, section), **values)
            for section, values in taken.items()
        },
        models=wanted.models,
    )
    check_access(config.server)
    return config


def config_places() -> list[Path]:
    """Where the file of settings is looked for, in this order.

    That is `$STREAMASR_CONFIG` alone if it is set, else the user's and the system's directories of
    the XDG base directory specification.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        return [Path(named)]
    import platformdirs

    with _at_home():
        directories = platformdirs.PlatformDirs(APP_NAME, multipath=True).iter_config_paths()
        return [directory / "config.toml" for directory in directories]


def find_config(explicit: Path | None = None) -> Path | None:
    """The file of settings: the one that was named, or the first that is there, if any.

    One that was named need not exist: reading it will say so.
    """
    if explicit is not None:
        return explicit
    places = config_places()
    if os.environ.get(CONFIG_VARIABLE):
        return places[0]
    return next((place for place in places if os.path.lexists(place)), None)


def load_config(path: Path | None, overrides: Overrides | None = None) -> DaemonConfig:
    """Read the file of settings, if any, and put what the command line says over it.

    Relative paths in the file count from its directory.

    Raises:
        ConfigError: file or command line say what cannot be.
    """
    base = Path("/") if path is None else path.absolute().parent
    tables = {} if path is None else _read(path)
    config = _convert(tables, base, str(path))
    if overrides:
        merged = {name: {**tables.get(name, {}), **overrides.get(name, {})} for name in _sections()}
        config = _convert(merged, base, _COMMAND_LINE)
    try:
        check_access(config.server)
        if config.server.token_file is not None:
            read_token(config.server.token_file)
    except ConfigError as error:
        is_file_at_fault = path is not None and not (overrides or {}).get("server")
        raise ConfigError(f"{path if is_file_at_fault else _COMMAND_LINE}: {error}") from error
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def _sections() -> dict[str, Any]:
    return {one.name: one.type for one in msgspec.structs.fields(DaemonConfig)}


def _convert(tables: dict[str, Any], base: Path, source: str) -> DaemonConfig:
    """Check the tables that a source holds."""
    _refuse_unknown(tables, source)

    def to_path(kind: type, value: Any) -> Any:
        if kind is not Path or not isinstance(value, str):
            raise TypeError(f"Expected a path, got `{type(value).__name__}`")
        return _anchored(value, base)

    sections: dict[str, Any] = {}
    for name, kind in _sections().items():
        if name == REGISTRY:
            sections[name] = _registry(tables.get(name, {}), source)
            continue
        try:
            sections[name] = msgspec.convert(tables.get(name, {}), kind, dec_hook=to_path)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {_located(name, str(error))}.") from error
        except ConfigError as error:
            raise ConfigError(f"{source}: [{name}] {error}") from error
    config = DaemonConfig(**sections)
    try:
        return _with_model_path(config, base)
    except ValueError as error:
        raise ConfigError(f"{source}: {_located('model', f'{error} - at `$.name`')}.") from error


def _registry(tables: dict[str, Any], source: str) -> dict[str, KnownModel]:
    """The models that a source adds to those that are known."""
    models = {}
    for name, table in tables.items():
        try:
            check_name(name)
            models[name] = msgspec.convert(table, KnownModel)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {_located(f'models.{name}', str(error))}.") from error
        except ValueError as error:
            raise ConfigError(f"{source}: models: {error}.") from error
    return models


def _with_model_path(config: DaemonConfig, base: Path) -> DaemonConfig:
    """Take a model's name that has a slash for a path."""
    if os.sep not in config.model.name:
        return config
    path = str(_anchored(config.model.name, base))
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, name=path))


def _anchored(path: str, base: Path) -> Path:
    """A path of the file, absolute.

    Raises:
        ValueError: it cannot be one.
    """
    if not path or "\0" in path:
        raise ValueError("Expected a path")
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"Expected a path, {path} has no home directory") from error


def _located(section: str, complaint: str) -> str:
    """Put the place first: "Expected `int`, got `str` - at `$.port`"."""
    what, _, place = complaint.partition(" - at `$")
    path = section + place.rstrip("`")
    if choices := _choices(path):
        what = f"expected one of {', '.join(choices)}"
    return f"{path}: {what[0].lower()}{what[1:]}"


def _choices(path: str) -> tuple[str, ...]:
    """The only values of a setting, or of a key of a model, if there are few."""
    if path.startswith(f"{REGISTRY}."):
        return FAMILIES if path.endswith(".family") else ()
    return next((one.choices for one in settings() if one.path == path), ())


def _refuse_unknown(tables: dict[str, Any], source: str) -> None:
    for name, table in tables.items():
        if name not in _sections():
            raise ConfigError(f"{source}: there is no section {name!r}{_hint('', name)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} must be a table, [{name}].")
        if name == REGISTRY:
            _refuse_unknown_keys(table, source)
            continue
        known = {one.key for one in settings() if one.section == name}
        for key in table:
            if key not in known:
                unknown = repr(f"{name}.{key}")
                raise ConfigError(f"{source}: there is no setting {unknown}{_hint(name, key)}")


def _refuse_unknown_keys(models: dict[str, Any], source: str) -> None:
    known = {one.encode_name for one in msgspec.structs.fields(KnownModel)}
    for name, table in models.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: models.{name} must be a table, [models.{name}].")
        for key, value in table.items():
            if key not in known:
                unknown = repr(f"models.{name}.{key}")
                quoted = f'; a name with dots is quoted, as in [models."{name}.{key}"].'
                hint = quoted if isinstance(value, dict) else _close(key, known)
                raise ConfigError(f"{source}: there is no setting {unknown}{hint}")


def _close(key: str, known: Collection[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}."


def _hint(section: str, key: str) -> str:
    """The end of a sentence about an unknown key: what was probably meant."""
    import difflib

    near = {one.key: one.path for one in settings() if one.section == section}
    if not section:
        near = {name: name for name in _sections()}
    elsewhere = {one.key: one.path for one in settings()}
    for known in (near, elsewhere):
        if close := difflib.get_close_matches(key, known, n=1):
            return f"; did you mean {known[close[0]]}?"
    return "."


def check_access(server: ServerConfig) -> None:
    """Refuse to let other machines in without a token.

    Raises:
        ConfigError: they could come in.
    """
    if server.socket is None and server.token_file is None and not is_loopback(server.host):
        raise ConfigError(
            f"other machines could connect to {server.host!r}: set server.token_file, or listen on "
            "127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Is it certain that only this machine can reach this address?"""
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token that clients must show.

    Raises:
        ConfigError: the file is not there, holds no token, or others can read it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"the token file {path} is not a regular file.")
        if status.st_mode & 0o077:
            raise ConfigError(f"others can use the token file {path}: chmod 600 {path}")
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read: {error.strerror}.") from error
    if not re.fullmatch(rb"[!-~]{8,512}", token):
        raise ConfigError(
            f"the token file {path} must hold 8 to 512 printable ASCII characters without spaces."
        )
    return token.decode("ascii")
