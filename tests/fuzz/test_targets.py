"""Every decoder, a few hundred times a run: right bytes that were changed, noise, and all that once mattered."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutating import mutate
from tests.fuzz.targets import CORPUS, ELSEWHERE, NAMED, TABLE, Target

PACKAGE = Path(__file__).parents[2] / "meshnode"
EXAMPLES = 150
KEPT_BYTES_MAX = 4096
CORPUS_BYTES_MAX = 2 << 20
DECODES = re.compile(
    r"msgpack\.decode\(|json\.decode\(|json\.loads?\(|Decoder\(|unpackb\(|tomllib\.|toml\.read\(|load_der|load_pem"
    r"|b32decode|b64decode|unpack_from\(|\.unpack\(|FromString\(|np\.load\(|Image\.open\("
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What readers tell of damaged files is not looked at here, and there are thousands."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cryptography, about certificates that will not be read any more
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TABLE, ids=lambda it: str(it.name))
def test_mutants_become_a_value_or_the_one_error(target: Target) -> None:
    """Right bytes with changes in them, and bytes that nobody made."""
    seeds = target.seeds()

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(
        st.integers(0, len(seeds) - 1),
        st.integers(0, 2**32),
        st.integers(1, 4),
        st.integers(0, 9),
        st.binary(max_size=60),
    )
    @example(0, 0, 1, 0, b"")
    def reads(which: int, number: int, times: int, how: int, noise: bytes) -> None:
        data = noise if how == 0 else mutate(seeds[which], number, target.form, times, seeds[number % len(seeds)])
        target(data)

    reads()


@pytest.mark.parametrize("target", TABLE, ids=lambda it: str(it.name))
def test_seeds_and_what_was_kept_are_read_as_ever(target: Target) -> None:
    """Some seeds are values, or nothing behind the first check would be tried; what a fuzzer kept does no harm."""
    assert True in [target(seed) for seed in target.seeds()]
    for path in target.kept():
        target(path.read_bytes())


def test_what_is_kept_is_small_and_of_a_target() -> None:
    """The corpus is read by people's clones and by every run."""
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert CORPUS_BYTES_MAX > sum(path.stat().st_size for path in kept)
    assert [] == [path for path in kept if path.stat().st_size > KEPT_BYTES_MAX]
    assert set() == {path.name for path in CORPUS.glob("*")} - NAMED.keys()


def test_the_table_for_people_names_every_target() -> None:
    """In CONTRIBUTING.md, with what it reads."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert [] == [target.name for target in TABLE if f"`{target.name}`" not in text]


def test_all_that_decodes_is_in_the_table() -> None:
    """A module that takes bytes apart is named by a target, or with the reason why it is none."""
    named = {name for target in TABLE for name in target.of} | ELSEWHERE.keys()
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if DECODES.search(path.read_text())
    }
    assert [] == sorted(it for it in found if it not in named and it.partition(".")[0] not in named)
    assert [] == sorted(it for it in named if not list(PACKAGE.glob(f"{it.replace('.', '/')}*")))
