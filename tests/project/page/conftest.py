"""One browser for all tests of the page; each of them has a page of its own origin, and so an empty memory."""

from collections.abc import Iterator

import pytest

from tests.browser import Browser, browsing, chromium


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(chromium(), tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """Return the browser, without cookies and as a desk has it."""
    started.forget()
    started.resize(1400, 900)
    started.prefer(color_scheme="light")
    yield started
    started.open("about:blank")
