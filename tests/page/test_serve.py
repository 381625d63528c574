"""``make serve``: a database, migrated and filled; the app; and the worker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import httpx
import yaml
from sqlalchemy import URL

from rowbell import drop_database
from support.paths import ROOT


async def test_it_serves_orders_that_the_worker_delivers_and_ends_when_told_to(
    server: URL,
) -> None:
    """Also with the data of the first time; and as docker-compose.yml runs and checks it."""
    container = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["orders"]
    _, _, option, check = container["healthcheck"]["test"]
    await drop_database("rowbell_orders", server_url=server, missing_ok=True)
    for status in ("new", "delivered"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        environment = os.environ | {
            "HOST": container["environment"]["HOST"],
            "DATABASE_URL": server.render_as_string(hide_password=False),
            "PORT": port,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(ROOT / "examples" / "orders" / "serve.py"), env=environment
        )
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            while True:
                try:
                    await http.get("/api/status")
                except httpx.TransportError:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
                else:
                    break
            checked = await asyncio.create_subprocess_exec(
                sys.executable, option, check.replace(":8000/", f":{port}/")
            )
            assert await checked.wait() == 0
            assert "<title>Orders</title>" in (await http.get("/")).text
            assert (await http.get("/page/page.js")).status_code == 200
            assert (await http.get("/api/orders/1")).json()["status"] == status
            assert len((await http.get("/api/orders")).json()) == 3
            if status == "new":
                assert (await http.post("/api/orders/1/pay")).status_code == 200
                assert (await http.post("/api/orders/1/pay")).status_code == 409
                while (await http.get("/api/orders/1")).json()["status"] != "delivered":
                    await asyncio.sleep(0.2)
            assert (await http.post("/api/orders", json={"item": ""})).status_code == 422
            assert (await http.delete("/api/orders/999")).status_code == 404
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    await drop_database("rowbell_orders", server_url=server)
