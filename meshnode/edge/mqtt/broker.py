"""Which broker, and how it is spoken to: from the settings to what a connection needs. Nothing secret is ever shown."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from meshnode.doors import Mqtt
from meshnode.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883}
PASSWORD_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and who this node is to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    user: str | None
    password: str | None

    @property
    def shown(self) -> str:
        """For people: without a name or a password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"

    @property
    def overheard(self) -> bool:
        """Whether the password goes over a network as it is."""
        return self.password is not None and self.tls is None and not _is_here(self.host)


def broker(home: Path, settings: Mqtt) -> Broker:
    """Raises ConfigError for what cannot be used."""
    host, port, tls, user = parsed(settings.url)
    user = settings.user or user
    password = _password(home / settings.password_file) if settings.password_file else None
    if password is not None and not user:
        raise ConfigError("mqtt.password_file is given and no user", hint="set mqtt.user, or mqtt://USER@HOST")
    if settings.ca and not tls:
        raise ConfigError("mqtt.ca is for TLS, and the URL is mqtt://", hint="write mqtts://HOST")
    return Broker(host, port, _context(settings.ca) if tls else None, user or None, password)


def parsed(url: str) -> tuple[str, int, bool, str]:
    """Host, port, whether TLS is wanted, user. Raises ConfigError."""
    how = "write mqtt://HOST[:PORT], or mqtts:// for TLS"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the URL of the MQTT broker: {error}", hint=how) from error
    if parts.password is not None:
        raise ConfigError(
            "a password in the URL of the MQTT broker is seen by every user of this machine",
            hint="write it to a file in the home, and name that as mqtt.password_file in config.toml",
        )
    if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"{url[:100]!r} is no URL of an MQTT broker", hint=how)
    return parts.hostname, port or PORTS[parts.scheme], parts.scheme == "mqtts", unquote(parts.username or "")


def _password(path: Path) -> str:
    try:
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ConfigError(f"{path} can be read by every user of this machine", hint=f"chmod 600 {path}")
        data = path.read_bytes()
        text = data.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mqtt.password_file: {path} cannot be read: {error}") from error
    if not text or len(data) > PASSWORD_BYTES_MAX:
        raise ConfigError(f"mqtt.password_file: {path} holds no password")
    return text


def _context(ca: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"mqtt.ca: {ca} holds no certificates: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
