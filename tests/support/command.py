"""The command line, called in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from sqlalchemy import URL

from rowbell.cli import main


@dataclass
class Called:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def findings(self) -> dict[str, dict[str, str]]:
        """The findings of the doctor, by check."""
        return {finding["check"]: finding for finding in self.json}


def call(*arguments: str, url: URL | str | None = None) -> Called:
    """Call ``rowbell`` with these arguments."""
    named = url.render_as_string(hide_password=False) if isinstance(url, URL) else url
    options = [] if named is None else ["--url", named]
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["rowbell", *arguments, *options]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Called(code, out.getvalue(), err.getvalue())


async def called(*arguments: str, url: URL | str | None = None) -> Called:
    """The same from a test with an event loop."""
    return await asyncio.to_thread(call, *arguments, url=url)
