"""What a failed cell says for itself, and what its owner can do."""

from collections.abc import Mapping
from typing import Any

ADVICE: Mapping[str, str] = {
    "input": "The study, its data or its model do not allow it, so it was not tried again: mend them.",
    "storage": "The storage was away or full for longer than storage_patience_s: mend it and run again.",
    "memory": "A fresh process ran out of memory as well: run fewer lanes (--set lanes=1), or on machines with more.",
    "device": "The GPU failed in a fresh process as well: look at its driver and at the machine's log.",
    "lost": "Its workers died again and again without a recorded round between: killed, or their machine went away. "
    "Look at the machine's log.",
    "error": "It raised an exception, which it would raise again: the stack trace is in failed.json.",
}


def failure_words(reason: Mapping[str, Any]) -> str:
    """Return one line for a failed cell: kind, error and message.

    Args:
        reason: what ``failed.json`` holds.
    """
    words = f"{reason.get('error', 'failed')}: {reason.get('message', '')}"
    return f"{reason['kind']}: {words}" if reason.get("kind", "error") != "error" else words
