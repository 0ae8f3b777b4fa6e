"""Languages of Qwen3-ASR and Qwen3-ForcedAligner; the names stand in the prompt as they are."""

from typing import Final

from streamasr.core.languages import Languages

LANGUAGES: Final = Languages(
    {
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
)
"""All that Qwen3-ASR can be asked for."""

_ALIGNER_CODES: Final = ("zh", "en", "yue", "fr", "de", "it", "ja", "ko", "pt", "ru", "es")

ALIGNER_LANGUAGES: Final = Languages({code: LANGUAGES.names[code] for code in _ALIGNER_CODES})
"""All that Qwen3-ForcedAligner was trained on."""
