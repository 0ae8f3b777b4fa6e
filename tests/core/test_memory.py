"""Memory that was freed goes back to the system."""

import ctypes
import subprocess
import sys

import pytest

FREED_MIB = 64

STORY = f"""
from pathlib import Path
from streamasr.core.memory import return_freed_memory

def resident_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])

# Pieces that are no mappings of their own, and one that lies above them and stays.
pieces = [bytes(100_000) for _ in range({FREED_MIB} * 1_048_576 // 100_000)]
del pieces[:-1]
before = resident_kib()
return_freed_memory()
print(before - resident_kib())
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library cannot be asked"
)
def test_freed_memory_is_the_systems_again() -> None:
    done = subprocess.run([sys.executable, "-c", STORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) > FREED_MIB * 1024 // 2
