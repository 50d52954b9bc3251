"""Which failures of storage pass by themselves, and how long they are waited for."""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from al_ray.errors import StorageError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_PASSING = FULL | {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ENOLCK,
    errno.ENODEV,
}
# A mount point without its file system is an empty folder, or one that may not be entered.
_VANISHED = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM})
# pyarrow has no types for what an object store answers: its words are all there is.
_PASSING_WORDS = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTL|REQUEST_TIMEOUT"
    r"|HTTP status (?:429|5\d\d)|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
    r"|timed? ?out|connection (?:refused|reset|aborted|closed)|could not (?:connect|resolve)",
    re.IGNORECASE,
)

T = TypeVar("T")
Sentence = Callable[[Exception], str]


def patiently(action: Callable[[], T], patience_s: float, sentence: Sentence, *, claimed: bool = False) -> T:
    """Do something with storage, again and again while it fails as in an outage and patience lasts.

    Args:
        action: what to do; it may be done twice, since a failure does not say that nothing has happened.
        patience_s: how long to go on after the first try; 0: the first failure is told. One try may take longer than
            what is left: as long as the file system itself waits for an answer.
        sentence: says what failed.
        claimed: whether the place is known to exist, so that its absence is an outage too.

    Raises:
        StorageError: the sentence, and how long it was tried.
    """
    started, pause_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            tried_s = time.monotonic() - started
            if tried_s >= patience_s or not is_outage(error, claimed=claimed):
                raise StorageError(sentence(error) + _tried(tried_s, patience_s)) from error
        time.sleep(min(pause_s, max(patience_s - tried_s, 0.0)))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def is_outage(error: Exception, *, claimed: bool) -> bool:
    """Tell a failure that may pass (no connection, a full disk) from one that will not (no such bucket, no right).

    Args:
        error: of the operating system, or of pyarrow.
        claimed: whether the place is known to exist.
    """
    code = getattr(error, "errno", None)
    if code is not None:
        return code in _PASSING or (claimed and code in _VANISHED)
    return bool(_PASSING_WORDS.search(str(error)))


def _tried(tried_s: float, patience_s: float) -> str:
    return f" It was tried for {tried_s:.3g} s." if patience_s and tried_s >= patience_s else ""
