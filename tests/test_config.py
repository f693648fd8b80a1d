"""Settings: where they come from, and that a mistake starts nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from meshnode import config
from meshnode.errors import ConfigError


def test_a_home_without_a_file_has_the_defaults(tmp_path: Path) -> None:
    """No config.toml means the LAN profile."""
    assert config.LAN == config.load(tmp_path)


def test_the_file_changes_the_profile_and_the_command_line_changes_the_file(tmp_path: Path) -> None:
    """Later sources win, part by part."""
    (tmp_path / "config.toml").write_text(
        'profile = "loopback"\nname = "a"\nlabels = { room = "7" }\n'
        '[routing]\ncandidates = 5\n[discovery]\nseeds = ["h:1"]\n'
    )

    settings = config.load(tmp_path, {"name": "b", "discovery": {"mdns": True}})

    assert "b" == settings.name
    assert {"room": "7"} == settings.labels
    assert 5 == settings.routing.candidates
    assert config.LOOPBACK.membership == settings.membership
    assert config.Discovery(mdns=True, seeds=("h:1",)) == settings.discovery


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types and bad values come in one error, with the nearest known name."""
    (tmp_path / "config.toml").write_text(
        'nmae = "x"\n[routing]\ncandidates = "three"\nhold_s = -1\nhysteresis = nan\n[links]\nframe_bytes = 1.5\n'
    )

    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path)

    for expected in (
        "'nmae' (did you mean 'name'?)",
        "candidates: expected a number",
        "hold_s",
        "hysteresis: ",
        "frame_bytes",
    ):
        assert expected in str(caught.value)
    page = caught.value.hint.rpartition(" ")[2]
    assert "docs/configuration.md" == page
    assert (Path(__file__).parent.parent / page).is_file()


def test_manners_are_one_of_three(tmp_path: Path) -> None:
    """Polite unless the file or the command line says otherwise; anything else starts nothing."""
    assert config.Manners.POLITE is config.load(tmp_path).manners
    (tmp_path / "config.toml").write_text('manners = "off"\n[owner]\naway_s = 60\n')
    assert (config.Manners.OFF, 60.0) == ((settings := config.load(tmp_path)).manners, settings.owner.away_s)
    assert config.Manners.FREE is config.load(tmp_path, {"manners": "free"}).manners
    for manners in ("rude", 3, ""):
        with pytest.raises(ConfigError, match="manners: expected one of polite, free, off"):
            config.load(tmp_path, {"manners": manners})


@pytest.mark.parametrize("text", ["profile = 'moon'", "x = ", "routing = 3"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    """A damaged file is never half-read."""
    (tmp_path / "config.toml").write_text(text)

    with pytest.raises(ConfigError):
        config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:7433", ("0.0.0.0", 7433)),
        ("[::1]:5", ("::1", 5)),
        ("host", ("host", 7433)),
        ("[fe80::1]", ("fe80::1", 7433)),
    ],
)
def test_addresses_are_split(text: str, expected: tuple[str, int]) -> None:
    """IPv4, IPv6 and names, with and without a port."""
    assert expected == config.host_port(text, default_port=7433)


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:x", "host:65536", "a:b:c"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """Without a default every part must be there and in range."""
    with pytest.raises(ConfigError):
        config.host_port(text)


def test_every_knob_is_explained_or_named_by_its_unit() -> None:
    """A number without a docstring must at least say its unit in its name."""
    tree = ast.parse(Path(config.__file__).read_text())
    bare = []
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for here, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name):
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                name = here.target.id
                number = ast.unparse(here.annotation).startswith(("int", "float", "Annotated[int", "Annotated[float"))
                if number and not explained and not name.endswith(("_s", "_bytes", "_max", "_bytes_max")):
                    bare.append(f"{cls.name}.{name}")
    assert [] == bare
