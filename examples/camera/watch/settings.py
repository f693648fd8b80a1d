"""The TOML file that says which camera is watched with which model. An unknown key is a mistake, and is named."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from meshnode.doors import Layout, Units
from meshnode.errors import ConfigError
from watch.reading import Source
from watch.running import Pace
from watch.seeing import Detector, Digits, Seer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mqtt:
    """Where events go beside standard output: mqtt://user:password@host:1883, or mqtts://…"""

    url: str = ""
    topic: str = ""
    """Below it: `events`, `state`, `availability`. Default: meshnode/camera/NAME."""
    discovery: str = "homeassistant"
    """Home Assistant's prefix; empty = the camera is not announced there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    source: Source
    seer: Seer
    pace: Pace = field(default_factory=Pace)
    mqtt: Mqtt = field(default_factory=Mqtt)
    name: str = "camera"


def load(path: Path) -> Settings:
    """Raises ConfigError, with what is wrong and where."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    unknown = set(document) - {"name", "source", "model", "output", "stream", "mqtt"}
    if unknown or not isinstance(document.get("source"), dict) or not isinstance(document.get("model"), dict):
        what = f"unknown: {', '.join(sorted(unknown))}" if unknown else "[source] and [model] are needed"
        raise ConfigError(f"{path}: {what}", hint="examples/camera/detector.toml shows all there is")
    name = str(document.get("name", "camera"))
    return Settings(
        _made(Source, document["source"], f"{path}: [source]"),
        _seer(document["model"], document.get("output", {}), path),
        _made(Pace, document.get("stream", {}), f"{path}: [stream]"),
        _made(Mqtt, document.get("mqtt", {}), f"{path}: [mqtt]"),
        name,
    )


def _seer(model: dict[str, Any], output: dict[str, Any], path: Path) -> Seer:
    model, output = dict(model), dict(output)
    where = f"{path}: [model]"
    name = model.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where} needs a name, by which the mesh knows it")
    if model.pop("kind", "detector") == "digits":
        return _made(Digits, {"model": name, **model}, where)
    given: dict[str, Any] = {"model": name}
    size = model.pop("size", None)
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(it, int) and it > 0 for it in size)):
        raise ConfigError(f"{where} size: [width, height] in pixels are needed, not {size!r}")
    given["width"], given["height"] = size
    if "range" in model:
        given["low"], given["high"] = _numbers(model.pop("range"), f"{where} range", 2)
    for key in ("mean", "std"):
        if key in model:
            given[key] = _numbers(model.pop(key), f"{where} {key}", None)
    given |= model
    for key, named in (("decode", Layout), ("units", Units)):
        if key in output:
            try:
                given[key] = named(output.pop(key))
            except ValueError:
                raise ConfigError(f"{path}: [output] {key}: one of {', '.join(named)}") from None
    if "name" in output:
        given["output"] = output.pop("name")
    if "labels" in output:
        given["labels"] = _labels(output.pop("labels"), path)
    seer = _made(Detector, given | output, where)
    for key, allowed in (
        ("layout", ("NCHW", "NHWC")),
        ("colours", ("rgb", "bgr", "grey")),
        ("fit", ("stretch", "letterbox")),
        ("dtype", ("float32", "float16", "uint8")),
    ):
        if getattr(seer, key) not in allowed:
            raise ConfigError(f"{where} {key}: {getattr(seer, key)!r} is not one of {', '.join(allowed)}")
    return seer


def _labels(value: Any, path: Path) -> tuple[str, ...]:
    """A list, or a file with one in each line, beside the configuration."""
    if isinstance(value, str):
        try:
            return tuple(line.strip() for line in (path.parent / value).read_text("utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: [output] labels: {error}") from error
    if isinstance(value, list) and all(isinstance(it, str) for it in value):
        return tuple(value)
    raise ConfigError(f"{path}: [output] labels: a list of texts or the name of a file is needed")


def _numbers(value: Any, where: str, count: int | None) -> tuple[float, ...]:
    fits = isinstance(value, list) and (len(value) in (1, 3) if count is None else len(value) == count)
    if not fits or not all(isinstance(it, int | float) for it in value):
        raise ConfigError(f"{where}: a list of {count or '1 or 3'} numbers is needed, not {value!r}")
    return tuple(float(it) for it in value)


def _made(kind: type[T], values: Any, where: str) -> T:
    """A dataclass of plain values, checked by the types of its defaults."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a table")
    unknown = set(values) - set(get_type_hints(kind))
    if unknown:
        known = ", ".join(get_type_hints(kind))
        raise ConfigError(f"{where}: unknown: {', '.join(sorted(unknown))}; there are {known}")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
