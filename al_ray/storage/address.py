"""Addresses of folders, paths or URIs: check, join, split, and print without secrets.

A URI may end in a query, ``s3://bucket/folder?region=us-east-1``, and hold a login before the bucket. What is inside
the folder stands before the query, and the login is never printed.
"""

import os
import re
from urllib.parse import quote, unquote

from al_ray.errors import StorageError, without_logins, without_secrets

KINDS = "Use a folder, file:///folder, s3://bucket/folder or gs://bucket/folder"
_LOGIN = re.compile(r"//(.*)@", re.DOTALL)
_TOO_SHORT_TO_HIDE = 3
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")
_SCHEMES = frozenset({"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs"})
_NO_BUCKET = re.compile(r"(?:s3|gs|gcs|abfs)://(?:[/?]|\Z)")
_ODD = re.compile(r"[^!-~]|[#\"<>\\^`{|}]|%(?![0-9A-Fa-f]{2})")
_ODD_IN_FILES = re.compile(rf"{_ODD.pattern}|\?")


def is_uri(address: str) -> bool:
    """Tell a URI from a path."""
    return "://" in address


def check_address(what: str, address: str) -> None:
    """Refuse an address that opens nothing, or another folder than it seems to name.

    Args:
        what: the message calls it.
        address: a path or URI, as somebody typed it.

    Raises:
        StorageError: it is empty, half a URI, or a URI with a character that has to be escaped there.
    """
    if not isinstance(address, str) or not address.strip():
        raise StorageError(f"{what} is {address!r}. Name a folder or a URI such as s3://bucket/folder.")
    if re.search(r"[\ud800-\udfff]", address if is_uri(address) else os.path.abspath(address)):
        raise StorageError(f"{what} {address!r} is not UTF-8. Name the folder otherwise: records are kept as UTF-8.")
    scheme, _, rest = address.partition(":")
    if _ONE_SLASH.match(address):
        right = shown(f"{scheme}:/{rest}")
        advice = f"Write {right.replace('//', '///') if scheme == 'file' else right}" if scheme in _SCHEMES else KINDS
        raise StorageError(
            f"{what} {right.replace('//', '/', 1)!r} is no folder and no URI, which has two slashes behind its scheme. "
            f"{advice}."
        )
    if _NO_BUCKET.match(address):
        raise StorageError(f"{what} {shown(address)!r} names no bucket. Write {scheme}://bucket/folder.")
    if odd := _odd_character(address) if is_uri(address) else "":
        raise StorageError(
            f"{what} {hidden(address, address)!r} has {odd!r} in it, which no URI can hold. Write {quote(odd)} instead."
        )


def _odd_character(address: str) -> str:
    """Return the first character of a URI that has to be escaped; empty for none.

    Behind a ``#`` nothing is read, nor behind the ``?`` of a file, so that two folders would be one.
    """
    odd = (_ODD_IN_FILES if address.startswith("file:") else _ODD).search(address)
    return odd[0] if odd else ""


def below(address: str, name: str) -> str:
    """Return the address of a file or folder inside a folder."""
    path, query = _split_query(address)
    return f"{path.rstrip('/')}/{name}{query}"


def above(address: str) -> tuple[str, str]:
    """Return the address of the folder that holds this one, and the name of this one in it.

    The name is empty where nothing is above: a bucket, or the root of the disk.
    """
    path, query = _split_query(address)
    holder, _, name = path.rstrip("/").rpartition("/")
    if holder.endswith(":/") or not name:
        return address, ""
    return f"{holder}{query}" or "/", name


def without_query(address: str) -> str:
    """Return a URI's scheme, bucket and path alone; a path stays as it is."""
    return without_logins(_split_query(address)[0]) if is_uri(address) else address


def shown(address: str) -> str:
    """Return an address as it may be printed and recorded: without login and keys."""
    return without_logins(address) if is_uri(address) else address


def hidden(text: str, address: str) -> str:
    """Return a text about an address, such as another library's error, without the secrets that the address holds.

    An address that cannot be parsed, because a key in it holds a slash for example, hides all up to the last ``@``.
    """
    for login in _LOGIN.findall(_split_query(address)[0]) if is_uri(address) else []:
        for secret in (f"{login}@", *login.split(":", 1)):
            for form in {secret, unquote(secret)}:
                text = text.replace(form, "") if len(form) > _TOO_SHORT_TO_HIDE else text
    return without_secrets(text)


def _split_query(address: str) -> tuple[str, str]:
    """Split off the query, which only a URI has: a folder on a disk may have a question mark in its name."""
    path, mark, query = address.partition("?") if is_uri(address) else (address, "", "")
    return path, mark + query
