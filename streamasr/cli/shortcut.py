"""`streamasr dictate toggle` and the like: what the desktop's shortcuts run.

It imports little: until it is done nobody is heard.
"""

import argparse

from streamasr.dictation.control import ask, control_path


def run_shortcut(options: argparse.Namespace) -> int:
    """Have a running dictation do something; the exit code.

    Raises:
        StreamASRError: there is none, or it does not answer.
    """
    print(ask(options.control or control_path(), options.action))
    return 0
