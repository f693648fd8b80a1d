"""What a release says of itself: its parts list names all that is installed, and an audit knows what it asked."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()


def script(name: str) -> Any:
    """A script as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_the_parts_list_names_every_locked_package_with_its_hashes() -> None:
    """Each line and hash of the lock file stands in the CycloneDX document, under its package; and nothing else."""
    document = json.loads(script("sbom").document(LOCK))
    assert ("CycloneDX", "1.6") == (document["bomFormat"], document["specVersion"])
    locked: dict[tuple[str, str], set[str]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]:
        name, _, version = block.partition(" ")[0].partition("==")
        locked[name, version.strip()] = set(re.findall(r"sha256:([0-9a-f]{64})", block))
    parts = {
        (it["name"], it["version"]): {row["content"] for row in it["hashes"] if row["alg"] == "SHA-256"}
        for it in document["components"]
    }
    assert locked == parts
    assert sum(len(it) for it in locked.values()) == LOCK.count("--hash=sha256:")
    assert all(it["purl"] == f"pkg:pypi/{it['name']}@{it['version']}" for it in document["components"])
    assert {"msgspec", "cryptography", "aiohttp"} <= {name for name, _ in parts}
    (whole,) = [it for it in document["dependencies"] if it["ref"] == "meshnode"]
    assert len(parts) == len(whole["dependsOn"])


def test_the_same_lock_gives_the_same_document() -> None:
    """Byte for byte: there is no time in it, and its serial number is that of the content."""
    it = script("sbom")
    assert it.document(LOCK) == it.document(LOCK)
    assert it.document(LOCK) != it.document(LOCK.replace("msgspec==", "msgspec==1."))


@pytest.mark.parametrize(
    "text", ["a==1", "a>=1 \\\n    --hash=sha256:" + "0" * 64, "git+https://a", "a==1 \\\n    --hash=md5:0"]
)
def test_a_lock_file_that_locks_nothing_is_an_error(text: str) -> None:
    """A package without a hash, without a version, from elsewhere: no document is made of it."""
    with pytest.raises(ValueError, match=r"hash|no package"):
        list(script("sbom").pins(text))


def test_an_audit_that_was_not_asked_is_no_clean_one() -> None:
    """pip-audit ends well when it skipped every package; only all of them looked up is an answer."""
    verdict = script("audit-dependencies").verdict
    clean = {"name": "a", "version": "1", "vulns": []}
    skipped = {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "1", "vulns": [{"id": "GHSA-x", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}
    assert 0 == verdict({"dependencies": [clean]})[0]
    assert 3 == verdict({"dependencies": [clean, skipped]})[0]
    assert 3 == verdict({"dependencies": []})[0]
    code, lines = verdict({"dependencies": [clean, skipped, bad]})
    assert (1, "c 1: GHSA-x (CVE-1), mended in 2") == (code, lines[0])
