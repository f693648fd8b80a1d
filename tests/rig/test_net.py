"""The rig's network itself: hosts reach each other, as root and as an ordinary user, and cuts cut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.net import net, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")
SERVE = """
import socket
with socket.create_server(("10.77.0.1", 9000)) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(9, socket.MSG_WAITALL) * 100_000)
"""
ASK = """
import socket
with socket.create_connection(("10.77.0.1", 9000), timeout=3) as connection:
    connection.sendall(b"meshnode!")
    with connection.makefile("rb") as stream:
        print(stream.read().count(b"meshnode!"))
"""


@pytest.mark.parametrize("rootless", [True] if os.geteuid() else [False, True])
def test_hosts_reach_each_other_until_they_are_cut(tmp_path: Path, rootless: bool) -> None:
    """TCP with checksums that hold, in namespaces of root's and of an ordinary user's; a one-way cut ends it."""
    with net(tmp_path, [[0], [0], [1]], rootless=rootless) as it:
        server = subprocess.Popen(it.inside(0, sys.executable, "-c", SERVE), stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            assert "ready\n" == server.stdout.readline()

            def asked(host: int) -> str:
                done = subprocess.run(it.inside(host, sys.executable, "-c", ASK), capture_output=True, text=True)
                return done.stdout.strip()

            assert "100000" == asked(1)
            assert it.dials() == 1
            assert "" == asked(2), "another subnet is another wire"
            it.set(0, 1, cut=True)
            assert "" == asked(1)
            assert it.dials() > 1
            it.heal()
            assert "100000" == asked(1)
        finally:
            server.kill()
            server.communicate()
