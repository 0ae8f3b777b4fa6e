"""The languages that Qwen3-ASR and Qwen3-ForcedAligner know, by name and by code."""

from typing import Final

from streamasr.core.errors import ConfigError

LANGUAGES: Final = {
    "zh": "Chinese",
    "en": "English",
    "yue": "Cantonese",
    "ar": "Arabic",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "pt": "Portuguese",
    "id": "Indonesian",
    "it": "Italian",
    "ko": "Korean",
    "ru": "Russian",
    "th": "Thai",
    "vi": "Vietnamese",
    "ja": "Japanese",
    "tr": "Turkish",
    "hi": "Hindi",
    "ms": "Malay",
    "nl": "Dutch",
    "sv": "Swedish",
    "da": "Danish",
    "fi": "Finnish",
    "pl": "Polish",
    "cs": "Czech",
    "fil": "Filipino",
    "fa": "Persian",
    "el": "Greek",
    "ro": "Romanian",
    "hu": "Hungarian",
    "mk": "Macedonian",
}
"""ISO 639 code -> the name that stands in the prompt."""


def language_name(name_or_code: str) -> str:
    """The model's name for a language given by name or code, in any case.

    Raises:
        ConfigError: the models do not know it.
    """
    wanted = name_or_code.strip().lower()
    if wanted in LANGUAGES:
        return LANGUAGES[wanted]
    for name in LANGUAGES.values():
        if name.lower() == wanted:
            return name
    known = ", ".join(f"{name} ({code})" for code, name in LANGUAGES.items())
    raise ConfigError(f"the language {name_or_code!r} is not known; choose one of: {known}.")
