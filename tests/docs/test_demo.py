"""The demo of ``make demo``."""

from __future__ import annotations

import asyncio
import os
import sys

from sqlalchemy import URL

from support.paths import ROOT

DEMO = ROOT / "examples" / "orders" / "demo.py"


async def test_the_demo_shows_each_change_woken_and_polled_and_ends_well(server: URL) -> None:
    environment = {**os.environ, "DATABASE_URL": server.render_as_string(hide_password=False)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(DEMO), env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0
    assert text.count("woken after") == text.count("polled after") == 32
    assert "32 changes" in text
    assert "1 listening, 0 pooled" in text, text
