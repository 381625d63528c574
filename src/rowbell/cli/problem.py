"""Bad input, and servers that cannot be reached: one line, and exit code 2."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import ArgumentError, DBAPIError

from rowbell.errors import LockTimeoutError, RowbellError

if TYPE_CHECKING:
    from collections.abc import Generator

_PASSWORD: Final = re.compile(r"(://[^:/@\s]*:)[^@\s]*(@)|(password=)\S+", re.IGNORECASE)


class ProblemError(Exception):
    """What the user must change.

    Args:
        message: One line that says so.
        code: The exit code: 2 for bad input, 1 if the command has found or left something wrong.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        self.code = code
        super().__init__(redacted(message))


def redacted(text: str) -> str:
    """The text without passwords."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[3]}***{found[2] or ''}", text)


@contextmanager
def told_in_one_line() -> Generator[None]:
    """Errors of the block that a user can mend become problems.

    Raises:
        ProblemError: There was one.
    """
    try:
        yield
    except LockTimeoutError as error:
        raise ProblemError(f"{first_line(error)}: try again, or give --lock-timeout", 1) from error
    except (RowbellError, ArgumentError, UnicodeError) as error:
        raise ProblemError(first_line(error)) from error
    except DBAPIError as error:
        text = first_line(error.orig or error)
        if error.connection_invalidated or getattr(error.orig, "sqlstate", None) is None:
            text = f"the database cannot be reached: {text}. Check --url, DATABASE_URL or PGHOST"
        raise ProblemError(text) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]
