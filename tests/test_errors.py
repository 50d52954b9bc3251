"""What an error may show."""

import pytest

from al_ray.errors import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/folder", "s3://bucket/folder"),
        ("postgresql://u:p/w@h/db", "postgresql://h/db"),
        ("http://u:p@ss@h/", "http://h/"),
        ("http://token@h/", "http://h/"),
        ("at 'http://a:b@c/' and http://d:e@f", "at 'http://c/' and http://f"),
        ("s3://b/f?region=eu&secret_key=abc&scheme=http", "s3://b/f?region=eu&secret_key=...&scheme=http"),
        ("write to me@example.org", "write to me@example.org"),
        ("http://127.0.0.1:5000/#/experiments/1", "http://127.0.0.1:5000/#/experiments/1"),
    ],
)
def test_addresses_are_shown_without_their_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
