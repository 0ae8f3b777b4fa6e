"""Sizes as people read them.

What is on disk or is fetched counts in powers of ten, as file managers and download pages do.
Memory counts in powers of two and is written where it is shown.
"""


def size_text(n_bytes: float) -> str:
    """Bytes of a file or a download: 1.9 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes:.0f} B"
