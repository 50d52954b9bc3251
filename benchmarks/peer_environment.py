"""The environment of the peer: small-text needs older libraries than al_ray, so it gets one of its own."""

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.report import SkipBenchmark

FOLDER = Path(__file__).parent / ".venv-peer"
PACKAGES = ("small-text[transformers]==1.4.1", "transformers==4.57.*", "torch==2.13.0", "pyarrow")
PROBE = "import pyarrow, small_text, torch; from small_text import TransformerBasedClassificationFactory"


def peer_python() -> Path:
    """Return the peer's interpreter; the environment is made the first time.

    Raises:
        SkipBenchmark: it cannot be made here.
    """
    python = FOLDER / "bin" / "python"
    if _works(python):
        return python
    print(f"making the peer's environment in {FOLDER.name}: {', '.join(PACKAGES)}", flush=True)
    venv.create(FOLDER, clear=True, with_pip=True)
    made = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES], stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    if made.returncode or not _works(python):
        reason = (made.stderr.strip().splitlines() or ["it does not import"])[-1]
        raise SkipBenchmark(f"small-text cannot be installed here: {reason}")
    return python


def _works(python: Path) -> bool:
    return python.exists() and subprocess.run([python, "-c", PROBE], capture_output=True).returncode == 0
