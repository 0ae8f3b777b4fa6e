"""Examination of this machine and installation: all facts, each judged."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from streamasr import __version__
from streamasr.catalogue.find import Finder
from streamasr.catalogue.listing import suggested
from streamasr.config.file import find_config, load_config
from streamasr.config.sections import Settings
from streamasr.core.errors import ConfigError, StreamASRError
from streamasr.doctor import installation, judge_installation, judge_machine, machine
from streamasr.doctor.finding import Finding
from streamasr.doctor.judge_installation import Model, Suggestions
from streamasr.models.family import Role


def examine(
    explicit: Path | None, finder_of: Callable[[Settings], Finder], *, is_deep: bool
) -> Iterator[Finding]:
    """Yield all findings, in the order in which they are shown.

    Args:
        explicit: a file of settings; None for the user's.
        finder_of: makes a finder of models.
        is_deep: whether the hashes of the model's files are compared.
    """
    path, config, trouble = _configuration(explicit)
    native = machine.ask_native(machine.probe_native)
    configured, model = _configured(config, finder_of(config), is_deep=is_deep)
    threads = installation.describe_threads(config.model, configured)
    yield from judge_machine.judge_software(
        sys.version_info[:3], machine.find_packages(), __version__
    )
    yield from judge_machine.judge_processor(machine.find_processor(threads), native.system_info)
    has_decoder = configured is None or configured.has_decoder
    accelerators = machine.accelerators(native, config.model, has_decoder=has_decoder)
    yield from judge_machine.judge_accelerators(accelerators)
    yield judge_installation.judge_configuration(path, trouble)
    yield from judge_machine.judge_sound(machine.find_sound(config.microphone))
    suggestions = Suggestions(
        suggested(Role.RECOGNISER), suggested(Role.ALIGNER), suggested(Role.PUNCTUATION)
    )
    yield from judge_installation.judge_configured_model(model, config.live.words, suggestions)
    models, state = config.storage.models, config.storage.directory
    yield from judge_installation.judge_installed(installation.describe_installed(models))
    yield from judge_installation.judge_room(installation.find_room(config, configured))
    yield judge_installation.judge_models_place(str(models), machine.write_trouble(models))
    yield from judge_installation.judge_leftovers(installation.unfinished(models))
    yield judge_installation.judge_state(str(state), machine.write_trouble(state))
    yield judge_installation.judge_endpoint(installation.find_endpoint(config.server))
    yield from judge_installation.judge_unit(installation.find_unit())


def _configuration(explicit: Path | None) -> tuple[str | None, Settings, ConfigError | None]:
    """Return the file and its settings, or the defaults and the reason why it cannot be used."""
    path = None
    try:
        path = find_config(explicit)
        return (None if path is None else str(path)), load_config(path), None
    except ConfigError as error:
        return (None if path is None else str(path)), _default_config(), error


def _default_config() -> Settings:
    try:
        return Settings()
    except ConfigError as error:  # the user has no home directory
        raise ConfigError(f"nothing can be examined: {error}", code=error.code) from error


def _configured(
    config: Settings, finder: Finder, *, is_deep: bool
) -> tuple[installation.Configured | None, Model]:
    try:
        configured = installation.configured_models(config, finder)
    except StreamASRError as error:
        return None, Model(config.model.name, str(error), error.code)
    return configured, installation.describe_configured(configured, is_deep=is_deep)
