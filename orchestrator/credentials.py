"""What no file, log or message of orch may show: passwords in URLs, tokens, and what secret variables hold."""

from __future__ import annotations

import os
import re

HIDDEN = "***"

#: `scheme://user:password@` (a port, digits before a slash, is no password), and `https://token@`. Every repetition
#: is bounded, so that no text takes long. Made to a path, a URL has one slash.
_IN_URL = re.compile(r"(:/{1,2})[^/\s@:'\"]{0,200}:(?!\d+/)[^\s@'\"]{1,500}(?=@)|(https?:/{1,2})[^/\s@'\"]{1,500}(?=@)")
#: `?secret_key=…`, `&X-Amz-Signature=…`
_IN_QUERY = re.compile(
    r"(?i)(?<=[?&;])((?:[\w.-]{0,30}(?:secret|password|passwd|token|signature|credential|(?:access|api|account)[_-]?key)"
    r"[\w.-]{0,30}|sig)=)[^&\s'\"]+"
)
#: Tokens that are known by their form: of the hub, GitHub, AWS; and private keys.
_TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bgh[oprsu]_[A-Za-z0-9]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?<=-----BEGIN )[A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s]*|(?<=Bearer )[\w.~+/=-]{8,}"
)
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_KEY|API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY")
#: They say where a secret lies or how it is used, not what it is.
_PLAIN_NAME = re.compile(r"_(?:PATH|FILE|DIR|HOME|MODE|URL|URI|ENDPOINT|NAME)$")
_SHORTEST = 8  # shorter values stand in ordinary words


def without_credentials(text: str) -> str:
    """`text` with `***` in the place of every password, token, and value of a secret variable of the environment."""
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    text = _IN_URL.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text)
    text = _IN_QUERY.sub(rf"\1{HIDDEN}", text)
    return _TOKENS.sub(HIDDEN, text)


def holds_credentials(text: str) -> bool:
    """Whether `without_credentials` would change it."""
    return without_credentials(text) != text


def _secret_values() -> list[str]:
    """What variables such as HF_TOKEN and AWS_SECRET_ACCESS_KEY hold, longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name.upper()) and not _PLAIN_NAME.search(name.upper())
    }
    return sorted(found, key=len, reverse=True)
