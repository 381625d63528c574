"""Hosts of their own for programs: network namespaces on one bridge, which can be cut off.

They need root and ``ip``. Without them all programs share this host, and nothing is cut off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import Self


class Network:
    """Some hosts, and this one, which reaches all of them.

    Args:
        hosts: Their number.

    Attributes:
        is_real: Whether they have addresses of their own.
    """

    def __init__(self, hosts: int) -> None:
        self.is_real = os.geteuid() == 0 and shutil.which("ip") is not None
        self._hosts = range(hosts)
        self._name = f"sk{os.getpid()}"
        self._subnet = f"10.213.{os.getpid() % 256}"

    def __enter__(self) -> Self:
        if self.is_real:
            try:
                self._make()
            except subprocess.CalledProcessError:  # in a container that may not
                self.__exit__()
                self.is_real = False
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_real:
            made = [("netns", self._host(host)) for host in self._hosts]
            for what, name in (*made, ("link", self._name)):
                with suppress(subprocess.CalledProcessError):
                    _ip(what, "delete", name)

    def address(self, host: int) -> str:
        """The address of a host."""
        return f"{self._subnet}.{host + 1}" if self.is_real else "127.0.0.1"

    def on(self, host: int) -> tuple[str, ...]:
        """The words before a command that shall run on that host."""
        return ("ip", "netns", "exec", self._host(host)) if self.is_real else ()

    def cut(self, host: int) -> None:
        """Cut a host off. Nobody is told: what is sent to it, and by it, disappears."""
        _ip("link", "set", self._host(host), "down")

    def mend(self, host: int) -> None:
        """Connect it again."""
        _ip("link", "set", self._host(host), "up")

    def _host(self, host: int) -> str:
        return f"{self._name}h{host}"

    def _make(self) -> None:
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self._subnet}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for host in self._hosts:
            name = self._host(host)
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", self._name, "up")
            inside = ("-n", name)
            _ip(*inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip(*inside, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True, capture_output=True)
