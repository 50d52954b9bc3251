"""Addresses of folders: paths and URIs, what is inside and above them, and how people may see them.

A URI may end in a query, ``s3://bucket/folder?region=us-east-1``, and hold a login before the bucket. What is inside
the folder stands before the query, and the login is for machines alone.
"""

import re
from urllib.parse import unquote

from al_ray.errors import without_logins, without_secrets

_LOGIN = re.compile(r"//(.*)@", re.DOTALL)
_TOO_SHORT_TO_HIDE = 3


def is_uri(address: str) -> bool:
    """Tell a URI from a path."""
    return "://" in address


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
