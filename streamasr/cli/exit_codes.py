"""Exit codes of the command line. Wrong usage exits with 2, which argparse does itself."""

from typing import Final

EXIT_INPUT_FAILED: Final = 1
EXIT_CONFIG: Final = 78
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141
"""As if SIGPIPE had ended the process."""
EXIT_TERMINATED: Final = 143
"""As if SIGTERM had ended the process."""
