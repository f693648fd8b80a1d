"""How a broker is spoken to: TLS, a name and a password, and what is said when it cannot be."""

from __future__ import annotations

import datetime
import inspect
import ipaddress
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshnode.doors import Mqtt
from meshnode.edge.mqtt.bridge import names
from meshnode.edge.mqtt.broker import broker as wanted
from meshnode.edge.mqtt.broker import parsed
from meshnode.edge.node import Node
from meshnode.errors import ConfigError
from tests.edge.living import founder
from tests.edge.mqtt.doors import bridge_of, serving
from tests.edge.mqtt.mosquitto import COMMAND, MISSING, Mosquitto, broker
from tests.waiting import until

needed = pytest.mark.skipif(COMMAND is None, reason=MISSING)


def authority(folder: Path) -> tuple[Path, Path, Path]:
    """A throw-away authority as strict as Python 3.13 wants it, and a certificate of it for 127.0.0.1 with its key."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    titles = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, it)]) for it in ("authority", "broker")]
    made = []
    for index, (key, title) in enumerate(zip(keys, titles, strict=True)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(title)
            .issuer_name(titles[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if not index:
            signs = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False) | {"key_cert_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**signs), critical=True)
        else:
            san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            of = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
            builder = builder.add_extension(san, critical=False).add_extension(of, critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = folder / "ca.pem", folder / "broker.pem", folder / "broker.key"
    for path, data in zip(paths, (*made, keys[1].private_bytes(*plain)), strict=True):
        path.write_bytes(data)
    return paths


def secret(folder: Path, text: str = "a secret\n", mode: int = 0o600) -> Path:
    path = folder / "mqtt.password"
    path.write_text(text)
    path.chmod(mode)
    return path


@needed
async def test_over_tls_with_a_name_and_a_password(tmp_path: Path) -> None:
    """A broker that takes nobody else, with a certificate of an authority of the user's own."""
    ca, chain, key = authority(tmp_path)
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "mesh", "a secret"], check=True)  # noqa: ASYNC221
    users.chmod(0o600)
    extra = (f"cafile {ca}", f"certfile {chain}", f"keyfile {key}", "allow_anonymous false", f"password_file {users}")
    async with broker(tmp_path / "broker", *extra) as it:
        home = tmp_path / "ann"
        home.mkdir()
        secret(home)
        given = Mqtt(f"mqtts://mesh@127.0.0.1:{it.port}", password_file="mqtt.password", ca=str(ca))
        async with founder(home, mqtt=given) as agent:
            await serving(agent)
            assert f"mqtts://127.0.0.1:{it.port}" == agent.ready()["mqtt"]
        secret(home, "another\n")
        async with founder(tmp_path / "bob", mqtt=replace(given, password_file=str(home / "mqtt.password"))) as agent:
            assert await refused(agent, "Not authorized")
        async with founder(
            tmp_path / "cat", mqtt=replace(given, ca="", password_file=str(home / "mqtt.password"))
        ) as agent:
            assert await refused(agent, "certificate verify failed")


async def refused(agent: object, why: str) -> bool:
    """Whether the door says so, and the agent goes on without it."""
    from meshnode.agent import Agent

    assert isinstance(agent, Agent)
    bridge = bridge_of(agent)
    await until(lambda: why.lower() in bridge.trouble.lower(), f"the broker says {why!r}")
    return not bridge.serving


async def test_a_broker_that_comes_later_is_found(tmp_path: Path) -> None:
    """The agent starts without it, and connects when it is there."""
    if COMMAND is None:
        pytest.skip(MISSING)
    later = Mosquitto(tmp_path / "broker")
    await later.start()
    later.stop()
    async with founder(tmp_path / "ann", mqtt=Mqtt(later.url)) as agent:
        await until(lambda: bridge_of(agent).trouble, "it tried")
        assert not bridge_of(agent).serving
        await later.start()
        try:
            await serving(agent)
            assert "" == bridge_of(agent).trouble
        finally:
            later.stop()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", ("broker", 1883, False, "")),
        ("mqtts://broker", ("broker", 8883, True, "")),
        ("mqtt://me@broker:1234/", ("broker", 1234, False, "me")),
        ("mqtt://[fe80::1]:1", ("fe80::1", 1, False, "")),
        ("mqtts://a%40b@broker", ("broker", 8883, True, "a@b")),
    ],
)
def test_urls(url: str, expected: tuple[str, int, bool, str]) -> None:
    """As other programs write them."""
    assert expected == parsed(url)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://me:secret@broker",
        "broker",
        "http://broker",
        "mqtt://",
        "mqtt://broker:99999",
        "mqtt://broker/a",
        "mqtt://[x",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    """And one with a password in it: it would be seen by every user, and is not repeated."""
    with pytest.raises(ConfigError) as caught:
        parsed(url)
    assert "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (Mqtt("mqtt://me@h", password_file="none"), "cannot be read"),
        (Mqtt("mqtt://me@h", password_file="open"), "every user"),
        (Mqtt("mqtt://me@h", password_file="empty"), "no password"),
        (Mqtt("mqtt://h", password_file="mqtt.password"), "no user"),
        (Mqtt("mqtts://h", ca="/none/such"), "no certificates"),
        (Mqtt("mqtt://h", ca="/none/such"), "for TLS"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, given: Mqtt, word: str) -> None:
    """Are said at the start, with the fix; not one of them shows the password."""
    secret(tmp_path)
    secret(tmp_path, mode=0o644).rename(tmp_path / "open")
    secret(tmp_path, "\n").rename(tmp_path / "empty")
    secret(tmp_path)
    with pytest.raises(ConfigError, match=word):
        wanted(tmp_path, given)


def test_a_password_over_a_network_is_noticed(tmp_path: Path) -> None:
    """Without TLS, to another machine."""
    secret(tmp_path)
    for host, expected in (("192.0.2.1", True), ("broker", True), ("127.0.0.1", False), ("localhost", False)):
        it = wanted(tmp_path, Mqtt(f"mqtt://me@{host}", password_file="mqtt.password"))
        assert (expected, "a secret") == (it.overheard, it.password)
        assert "secret" not in it.shown


@pytest.mark.parametrize(
    "fields", [{"prefix": "a/b"}, {"prefix": "#"}, {"prefix": ""}, {"mesh": "my mesh"}, {"discovery_prefix": "a/+"}]
)
async def test_topics_that_cannot_be(node: Node, fields: dict[str, str]) -> None:
    """A level of a topic is a level of a topic; a prefix of Home Assistant may have several."""
    settings = replace(node.settings, mqtt=replace(Mqtt("mqtt://h"), **fields))  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        names(replace(node, settings=settings))
    settings = replace(node.settings, mqtt=Mqtt("mqtt://h", discovery_prefix="home/assistant"))
    assert "home/assistant" == names(replace(node, settings=settings)).topics.discovery
