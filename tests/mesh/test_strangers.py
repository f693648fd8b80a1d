"""What someone without a certificate can do to an agent's port: nothing."""

from __future__ import annotations

import random
import socket
import ssl
import struct

from tests.mesh.rig import Rig, wait_for


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has hung up, without a byte of an answer to what was said."""
    connection.settimeout(0.5)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_random_bytes_are_hung_up_on(mesh_rig: Rig) -> None:
    """Garbage on the TCP and the UDP port ends the connection or is ignored; the agent lives."""
    a = mesh_rig.start("n0")
    noise = random.Random(1)
    for size in (1, 5, 100, 5000):
        with socket.create_connection(address(a.address)) as tcp:
            tcp.sendall(noise.randbytes(size))
            wait_for(lambda tcp=tcp: is_closed(tcp), within_s=15, why="the connection is closed")  # type: ignore[misc]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(200):
            udp.sendto(noise.randbytes(noise.randrange(1, 1400)), address(a.address))
        udp.settimeout(0.3)
        try:
            answer = udp.recv(1)
        except TimeoutError:
            answer = b""
    assert b"" == answer

    assert a.status()["mesh"]["nodes"]["alive"] == 1


def test_tls_without_a_certificate_says_nothing(mesh_rig: Rig) -> None:
    """A TLS client that is no member gets no application byte, whatever it claims to send."""
    a = mesh_rig.start("n0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    two_gigabytes = struct.pack("<IIHBBI", 2**31, 1, 100, 2, 0, 2**31)

    with socket.create_connection(address(a.address)) as tcp:
        answer = b""
        try:
            with context.wrap_socket(tcp) as tls:
                tls.settimeout(10)
                tls.sendall(two_gigabytes + bytes(1000))
                answer = tls.recv(1)
        except (ssl.SSLError, ConnectionError):
            pass

    assert b"" == answer
    assert a.status()["mesh"]["nodes"]["alive"] == 1


def test_old_tls_is_refused(mesh_rig: Rig) -> None:
    """TLS 1.2 gets no handshake."""
    a = mesh_rig.start("n0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    refused = False
    with socket.create_connection(address(a.address)) as tcp:
        try:
            context.wrap_socket(tcp)
        except (ssl.SSLError, ConnectionError):
            refused = True

    assert refused
