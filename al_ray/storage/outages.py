"""Outages of storage: which failures are temporary, and how long they are retried."""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from al_ray.errors import StorageError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_DEVICE = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENOLCK, errno.ENODEV}
_UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
_DISCONNECTED = {errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED}
_PASSING = DISK_FULL | _DEVICE | _UNREACHABLE | _DISCONNECTED
# A mount point without its file system is an empty folder, or one that may not be entered.
_UNMOUNTED = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM})
# pyarrow has no types for what an object store answers: its words are all there is.
_PASSING_WORDS = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTL|REQUEST_TIMEOUT"
    r"|HTTP status (?:429|5\d\d)|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
    r"|timed? ?out|connection (?:refused|reset|aborted|closed)|could not (?:connect|resolve)",
    re.IGNORECASE,
)

T = TypeVar("T")


def retry_outages(
    action: Callable[[], T], patience_s: float, message: Callable[[Exception], str], *, claimed: bool = False
) -> T:
    """Call ``action`` until it succeeds, fails other than by an outage, or ``patience_s`` is over.

    Args:
        action: may be called twice, since a failure does not say that nothing has happened.
        patience_s: how long to retry after the first call, in seconds; 0: never. One call may take longer than what is
            left: as long as the file system itself waits for an answer.
        message: words the failure.
        claimed: whether the place is known to exist, so that its absence is an outage too.

    Raises:
        StorageError: the message, and how long it was tried.
    """
    started, pause_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            tried_s = time.monotonic() - started
            if tried_s >= patience_s or not is_outage(error, claimed=claimed):
                tried = f" It was tried for {tried_s:.3g} s." if patience_s and tried_s >= patience_s else ""
                raise StorageError(message(error) + tried) from error
        time.sleep(min(pause_s, max(patience_s - tried_s, 0.0)))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def is_outage(error: Exception, *, claimed: bool) -> bool:
    """Tell a failure that may pass (no connection, a full disk) from one that will not (no such bucket, no permission).

    Args:
        error: an ``OSError``, or one of pyarrow.
        claimed: whether the place is known to exist, so that its absence may pass.
    """
    code = getattr(error, "errno", None)
    if code is not None:
        return code in _PASSING or (claimed and code in _UNMOUNTED)
    return bool(_PASSING_WORDS.search(str(error)))
