"""Versions of the libraries that do the work, without loading them."""

from typing import Final

_DISTRIBUTIONS: Final = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-rocm"),
    "llama-cpp-python": ("llama-cpp-python",),
}
"""Library -> the packages that may bring it."""


def library_versions() -> dict[str, str | None]:
    """Return the version of each library by its name; None where it is not installed."""
    return {name: _first_version(*packages) for name, packages in _DISTRIBUTIONS.items()}


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_version(*packages: str) -> str | None:
    return next((found for one in packages if (found := installed_version(one))), None)
