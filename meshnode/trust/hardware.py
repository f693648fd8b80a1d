"""What tells this machine from others, as hashes that a batch invite may name: machine id, serial number, MACs.

They are told by the machine itself and prove nothing to others: they keep a token that was copied to a wrong machine
by mistake from being used there, and one machine's place from being taken twice.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import psutil

DOMAIN = "meshnode/hardware/1"
_SERIALS = ("product_serial", "product_uuid", "board_serial")
_NO_SERIAL = frozenset(
    {"", "0", "none", "default string", "system serial number", "to be filled by o.e.m.", "not specified"}
)
"""What makers write where a serial number should be."""


def hashed(source: str, value: str) -> bytes:
    """The id of a machine by one of its properties; 32 bytes that do not tell the property itself."""
    return hashlib.sha256(f"{DOMAIN}\0{source}\0{value.strip().lower()}".encode()).digest()


def ids(root: Path = Path("/")) -> dict[str, bytes]:
    """This machine's ids by their source: `machine-id`, `product_serial` and the like (root may read them), `mac IF`.

    `root` is the file tree that is looked at; interfaces without a device of their own are left out.
    """
    found = {}
    if machine := _read(root / "etc/machine-id"):
        found["machine-id"] = hashed("machine-id", machine)
    for name in _SERIALS:
        serial = _read(root / "sys/class/dmi/id" / name)
        if serial.lower() not in _NO_SERIAL:
            found[name] = hashed(name, serial)
    for interface, mac in _macs(root):
        if mac.strip("0:"):
            found[f"mac {interface}"] = hashed("mac", mac)
    return found


def _macs(root: Path) -> list[tuple[str, str]]:
    interfaces = root / "sys/class/net"
    if interfaces.is_dir():
        return [(it.name, _read(it / "address")) for it in sorted(interfaces.iterdir()) if (it / "device").exists()]
    rows = psutil.net_if_addrs() if root == Path("/") else {}
    return [(name, row.address) for name in sorted(rows) for row in rows[name] if row.family == psutil.AF_LINK]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
