"""What a home keeps about trust, through founding, joining, leaving, restarts and damage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import HomeError, PermissionDenied, ProtocolError
from meshnode.trust import admins, form, homefiles, identity
from meshnode.trust.files import write_checked
from meshnode.trust.keeper import Keeper, Membership
from tests.trust.cast import Person, Town

ROLES, ZONES = ("worker", "submitter", "publisher"), ("ward-3",)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    it = Homes(tmp_path)
    yield it
    for keeper in it.opened:
        keeper.close()


class Homes:
    """Keepers below one folder; all are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[Keeper] = []

    def open(self, name: str) -> Keeper:
        keeper = Keeper.open(self.folder / name)
        self.opened.append(keeper)
        return keeper

    def again(self, keeper: Keeper) -> Keeper:
        keeper.close()
        return self.open(keeper.home.name)

    def founder(self, name: str = "a") -> Keeper:
        keeper = self.open(name)
        keeper.found("town", name)
        return keeper

    def pair(self) -> tuple[Keeper, Keeper]:
        a, b = self.founder(), self.open("b")
        b.adopt(welcome(a, b))
        return a, b


def welcome(a: Keeper, b: Keeper, *, roles: tuple[str, ...] = ROLES) -> Membership:
    leaf, _ = a.admit(b.spki, b.home.name, roles, ZONES)
    return Membership(leaf, tuple(data for _, data in a.statements.items()), a.statements.mesh_id[:32])


def test_a_fresh_home_has_a_key_and_no_mesh(homes: Homes) -> None:
    """A 0700 folder with a 0600 key; everything that needs a mesh says so."""
    keeper = homes.open("a")

    assert not keeper.belongs
    assert 0o700 == keeper.home.stat().st_mode & 0o777
    assert 0o600 == (keeper.home / "node.key").stat().st_mode & 0o777
    with pytest.raises(PermissionDenied, match="no mesh"):
        keeper.contexts()


def test_a_founder_is_admin_of_a_mesh_of_one(homes: Homes) -> None:
    """It holds the admin key, has all roles, and all is there after a restart."""
    keeper = homes.founder()
    again = homes.again(keeper)

    assert again.belongs
    assert (keeper.id, keeper.statements.root_hash, "town") == (
        again.id,
        again.statements.root_hash,
        again.statements.mesh_name,
    )
    grant = again.statements.grant(again.id)
    assert grant is not None
    assert form.ROLES - form.EMPTY_ROLES == grant.roles
    assert again.admin_key is not None
    assert again.id == again.check_peer(again.leaf, again.id)


def test_each_start_is_newer_than_the_one_before(homes: Homes) -> None:
    """The boot number grows, also when its file is lost."""
    first = homes.open("a")
    second = homes.again(first)
    assert second.boot == first.boot + 1 > 1

    write_checked(second.home / "boot", b"1000")
    third = homes.again(second)
    (third.home / "boot").write_bytes(b"damaged")
    assert homes.again(third).boot > third.boot == 1001


def test_a_second_agent_on_one_home_is_told_who_has_it(homes: Homes) -> None:
    """Another process gets a HomeError with this process's id."""
    keeper = homes.founder()
    script = (
        "import sys; from pathlib import Path; from meshnode.trust.keeper import Keeper\n"
        "from meshnode.errors import HomeError\n"
        "home = Path(sys.argv[1])\n"
        "try: Keeper.open(home)\n"
        "except HomeError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(keeper.home)], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )

    assert f"(process {os.getpid()})" in run.stdout


def test_a_joiner_becomes_a_member(homes: Homes) -> None:
    """It knows what the inviter knows, both believe each other, and it is no admin."""
    a, b = homes.pair()
    b = homes.again(b)

    assert a.statements.root_hash == b.statements.root_hash
    assert b.id == a.check_peer(b.leaf, b.id)
    assert a.id == b.check_peer(a.leaf, a.id)
    assert ZONES == a.statements.members()[1].zones
    with pytest.raises(PermissionDenied, match="only an admin may invite") as caught:
        b.check_may_invite()
    assert f"a ({a.id[:8]})" in caught.value.hint


def test_a_founder_that_joins_leaves_its_own_mesh_behind(homes: Homes) -> None:
    """Its admin key and its invites are put away, not deleted."""
    a, b = homes.founder("a"), homes.founder("b")
    (b.home / "invites").write_bytes(b"of the mesh of one")
    b.adopt(welcome(a, b))

    assert b.admin_key is None
    assert homes.again(b).statements.mesh_id == a.statements.mesh_id
    assert {"admin.key.left-1", "invites.left-1"} == {p.name for p in b.home.iterdir() if ".left-" in p.name}


def test_what_does_not_hold_together_is_not_adopted(homes: Homes) -> None:
    """Another mesh than the token's, no grant, another's certificate, damaged statements: nothing changes."""
    a, b = homes.founder("a"), homes.founder("b")
    good = welcome(a, b)
    before = (b.home / "trust").read_bytes()
    for membership, says in [
        (Membership(good.leaf, good.statements, "00" * 16), "another mesh"),
        (Membership(good.leaf, good.statements[:-1], good.mesh_prefix), "no valid grant"),
        (Membership(a.leaf or b"", good.statements, good.mesh_prefix), "dialled"),
        (Membership(b"noise", good.statements, good.mesh_prefix), "cannot be read"),
        (Membership(good.leaf, (*good.statements, b"noise"), good.mesh_prefix), "does not hold"),
        (Membership(good.leaf, good.statements[1:], good.mesh_prefix), "genesis"),
    ]:
        with pytest.raises(PermissionDenied, match=says):
            b.adopt(membership)
    assert before == (b.home / "trust").read_bytes()
    assert b.admin_key is not None
    assert b.statements.mesh_id != a.statements.mesh_id


def test_a_revoked_node_is_refused_everywhere(homes: Homes) -> None:
    """Who has heard of it refuses its certificate with the reason; so does the next start."""
    a, b = homes.pair()
    c = homes.open("c")
    c.adopt(welcome(a, c))
    statement = a.revoke(b.id, "stolen")

    assert [statement.id] == [new.id for new in c.merge([statement.data])]
    for keeper in (a, c, homes.again(c)):
        with pytest.raises(PermissionDenied, match="was revoked: stolen"):
            keeper.check_peer(b.leaf, b.id)
    with pytest.raises(PermissionDenied, match="only an admin may revoke"):
        b.revoke(a.id, "")


def test_a_node_that_leaves_starts_anew(homes: Homes) -> None:
    """Its revocation convinces the others; at home the old key is put away and the next start has another id."""
    a, b = homes.pair()
    a.merge([b.leave().data])
    revocation = a.statements.revoked(b.id)
    again = homes.again(b)

    assert revocation is not None
    assert ("left", b.id) == (revocation.reason, revocation.by)
    assert not again.belongs
    assert again.id != b.id
    assert (again.home / "node.key.left-1").exists()


def test_models_are_published_and_taken_back(homes: Homes) -> None:
    """By a publisher, by its own word or an admin's; not by somebody else or without the role."""
    a, b = homes.pair()
    c = homes.open("c")
    c.adopt(welcome(a, c, roles=("worker",)))
    first, second = b.publish_model({"name": "first"}), b.publish_model({"name": "second"})
    for keeper in (a, c):
        assert 2 == len(keeper.merge([first.data, second.data]))

    with pytest.raises(PermissionDenied, match="may not add models"):
        c.publish_model({"name": "mine"})
    with pytest.raises(PermissionDenied, match="only an admin may remove"):
        c.remove_model(first.id)
    with pytest.raises(ProtocolError, match="32768 are allowed"):
        b.publish_model({"name": "x" * 40_000})
    a.merge([b.remove_model(first.id).data])
    b.merge([a.remove_model(second.id).data])
    assert [] == a.statements.models() == b.statements.models()


def test_bad_statements_from_a_peer_do_not_stop_the_good(homes: Homes) -> None:
    """Noise and another mesh's statements are left out of a merge."""
    a, b = homes.pair()
    c = Person(5)
    good = a.admit(c.spki, "c", ROLES, ())[1]

    new = b.merge([b"noise", Town().genesis, good.data, good.data])
    assert [good.id] == [statement.id for statement in new]


def test_a_revocation_holds_on_a_full_disk(homes: Homes) -> None:
    """What peers say holds at once and is written when it can be; what this node says itself is not said half."""
    a, b = homes.pair()
    c = Person(5)
    a.admit(c.spki, "c", ROLES, ())
    b.merge([data for _, data in a.statements.items()])
    statement = a.revoke(c.id, "stolen")
    home, b.home = b.home, b.home / "gone"

    assert [statement.id] == [new.id for new in b.merge([statement.data])]
    assert b.statements.revoked(c.id) is not None
    held = len(b.statements)
    with pytest.raises(HomeError):
        b.publish_model({"name": "x"})
    assert held == len(b.statements)

    b.home = home
    assert homes.again(b).statements.revoked(c.id) is not None


@pytest.mark.parametrize("name", ["node.key", "admin.key", "trust"])
def test_damaged_keys_and_trust_stop_the_start(homes: Homes, name: str) -> None:
    """They are never made anew in silence, and stay as they are for whoever repairs them."""
    keeper = homes.founder()
    (keeper.home / name).write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(HomeError, match="damaged"):
            homes.again(keeper)
    assert b"damaged" == (keeper.home / name).read_bytes()


def test_a_home_that_lost_its_key_is_told_and_gets_no_other(homes: Homes) -> None:
    """A new key would be a node that nobody believes, in the place where the right one has to go."""
    keeper = homes.founder()
    (keeper.home / "node.key").unlink()
    for _ in range(2):
        with pytest.raises(HomeError, match=r"node\.key is missing"):
            homes.again(keeper)
    assert not (keeper.home / "node.key").exists()


def test_a_home_that_lost_its_mesh_founds_no_other_in_its_place(homes: Homes) -> None:
    """A key that was in a mesh, and no `trust` beside it: the way out is told, each time, and nothing is changed."""
    keeper = homes.founder()
    (keeper.home / "trust").unlink()
    for _ in range(2):
        keeper = homes.again(keeper)
        before = {path.name: path.read_bytes() for path in keeper.home.iterdir()}
        with pytest.raises(HomeError, match="trust is missing") as refused:
            keeper.found("town", "a")
        assert "--new-mesh" in refused.value.hint
        assert before == {path.name: path.read_bytes() for path in keeper.home.iterdir()}


def test_a_first_start_may_be_interrupted_anywhere(homes: Homes) -> None:
    """Before the key, after it, and while the mesh is founded: the next start is a first one again, or goes on."""
    keeper = homes.open("a")
    (keeper.home / "node.key").unlink()
    keeper = homes.again(keeper)
    keeper = homes.again(keeper)
    identity.load_or_create_key(keeper.home / "admin.key")  # as `found` does before it writes `trust`
    keeper = homes.again(keeper)
    keeper.found("town", "a")
    (keeper.home / "unjoined").touch()  # `trust` was written, and nothing after it
    keeper = homes.again(keeper)
    assert keeper.belongs
    assert not (keeper.home / "unjoined").exists()


def test_a_leave_may_be_interrupted_anywhere(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a mesh that was left is none that was lost: the next start founds another."""
    for at, name in enumerate(("trust", "admin.key", "node.key")):
        keeper = homes.founder(name)
        real, count = homefiles.move_aside, iter(range(9))

        def cut(path: Path, why: str, real: Any = real, count: Any = count, at: int = at) -> Path:
            if next(count) == at:
                raise HomeError("the power is gone")
            return Path(real(path, why))

        monkeypatch.setattr(homefiles, "move_aside", cut)
        with pytest.raises(HomeError, match="power"):
            keeper.leave()
        monkeypatch.setattr(homefiles, "move_aside", real)
        keeper = homes.again(keeper)
        assert keeper.belongs == (name == "trust")
        if not keeper.belongs:
            keeper.found("town", "a")


def test_who_lost_its_mesh_joins_it_again_as_who_it_was(homes: Homes) -> None:
    """By a token, with the same id; an admin key that still counts there stays where it is, and at work."""
    a, b = homes.pair()
    key = Ed25519PrivateKey.generate()
    identity.write_key(b.home / "admin.key", key)
    spki = identity.public_der(key)
    a.say("admin_add", admins.add_body(spki, identity.make_root(key, "town"), b.id), admin="add")
    (b.home / "trust").unlink()
    b = homes.again(b)
    assert homefiles.is_lost(b.home)

    b.adopt(welcome(a, b))

    assert b.is_admin
    assert not homefiles.is_lost(b.home)
    b = homes.again(b)
    assert b.is_admin
    assert a.check_peer(b.leaf, b.id) == b.id


def test_a_certificate_beside_another_key_is_told(homes: Homes) -> None:
    """An error, not a node that nobody believes."""
    keeper = homes.founder()
    identity.write_key(keeper.home / "node.key", Ed25519PrivateKey.generate())
    with pytest.raises(HomeError, match="not for the key"):
        homes.again(keeper)


def test_an_admin_key_that_is_none_any_more_has_no_say(homes: Homes, caplog: pytest.LogCaptureFixture) -> None:
    """A removed admin's key file is not used, and that is told: a turned bit makes another key of it, too."""
    a = homes.founder()
    assert a.admin_key is not None
    second = Person(9)
    key = form.parse(a.statements.genesis.data).issuer
    says = {"mesh": a.statements.mesh_id, "issued_at": 1, "nonce": bytes(16)}
    add = form.make_statement(
        "admin_add", admins.add_body(second.spki, second.root, second.id), issuer=key, sign=a.admin_key.sign, **says
    )
    remove = form.make_statement("admin_remove", {"key": key}, issuer=second.spki, sign=second.key.sign, **says)
    assert 2 == len(a.merge([add, remove]))

    with pytest.raises(PermissionDenied, match="no live admin key"):
        a.check_may_invite()
    assert homes.again(a).admin_key is None
    assert "admin.key is the key of no admin of this mesh" in caplog.text


def test_a_home_that_is_no_folder_is_told(tmp_path: Path) -> None:
    """A HomeError, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="cannot be used"):
        Keeper.open(tmp_path / "file")
