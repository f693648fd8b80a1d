"""What tells a machine from others: read where Linux keeps it, and never what only looks like it."""

from __future__ import annotations

from pathlib import Path

from meshnode.trust.hardware import hashed, ids


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_machine_is_known_by_its_id_its_serial_and_its_network_cards(tmp_path: Path) -> None:
    """As hashes that do not depend on how they are written; a bridge, a missing serial and an empty MAC are none."""
    put(tmp_path, "etc/machine-id", "0123abcd\n")
    put(tmp_path, "sys/class/dmi/id/product_serial", "To Be Filled By O.E.M.\n")
    put(tmp_path, "sys/class/dmi/id/product_uuid", "4C4C4544-0042\n")
    put(tmp_path, "sys/class/net/eth0/address", "AA:BB:CC:00:11:22\n")
    put(tmp_path, "sys/class/net/eth0/device/vendor", "0x8086")
    put(tmp_path, "sys/class/net/eth1/address", "00:00:00:00:00:00\n")
    put(tmp_path, "sys/class/net/eth1/device/vendor", "0x8086")
    put(tmp_path, "sys/class/net/br0/address", "12:34:56:78:9a:bc\n")

    assert {
        "machine-id": hashed("machine-id", "0123ABCD"),
        "product_uuid": hashed("product_uuid", "4c4c4544-0042"),
        "mac eth0": hashed("mac", "aa:bb:cc:00:11:22"),
    } == ids(tmp_path)


def test_the_same_value_of_another_source_is_another_id() -> None:
    """So that nobody has to wonder what a hash was made of."""
    assert hashed("mac", "1") != hashed("machine-id", "1")
    assert {} == ids(Path("/nonexistent"))


def test_this_machine_can_be_asked() -> None:
    """Whatever it tells is 32 bytes each."""
    assert {32} >= {len(digest) for digest in ids().values()}
