"""A real PgBouncer in front of a database."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import URL


@asynccontextmanager
async def pgbouncer(target: URL, directory: Path, mode: str) -> AsyncGenerator[URL]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = directory / "pgbouncer.ini"
    host = target.query.get("host") or target.host
    password = f" password='{target.password}'" if target.password else ""
    config.write_text(
        f"[databases]\n{target.database} = host={host} port={target.port or 5432}"
        f" user={target.username}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n"
        "default_pool_size = 5\n"
    )
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)
    config.chmod(0o644)
    # PgBouncer does not run as root. The server's user can reach the server's socket.
    user = ["-u", "embedded_postgres"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        "pgbouncer", *user, str(config), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        while b"process up" not in (line := await process.stderr.readline()):
            assert line, "pgbouncer did not start"
        yield target.set(host="127.0.0.1", port=port).difference_update_query(["host"])
    finally:
        process.terminate()
        await process.communicate()
