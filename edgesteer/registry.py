"""Registry: turns a model's name into the path of its file, which is checked once.

The entries are data: models/registry.toml, and the user's own registry.toml. Models come out of installed
Python packages or from the Hugging Face hub; nothing is downloaded that no entry names with its sha256.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.resources
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesteer.errors import MissingExtraError, ModelError
from edgesteer.files import atomic_write
from edgesteer.fingerprint import sha256_of_file
from edgesteer.gguf_file import has_gguf_magic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ModelEntry(ABC):
    """One model that has a name."""

    name: str
    licence: str
    file: str
    """Name of the GGUF file where it comes from."""
    sha256: str

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the model comes from, in words."""

    @property
    @abstractmethod
    def installed(self) -> bool:
        """True when resolve_model needs no network."""

    @property
    @abstractmethod
    def path(self) -> Path | None:
        """The model's file, or None when there is none yet."""

    @property
    def size_bytes(self) -> int | None:
        return self.path.stat().st_size if self.path else None

    @abstractmethod
    def fetch(self) -> Path:
        """Return the model's file, made or downloaded when there is none yet. Raises ModelError."""


@dataclass(frozen=True)
class PackageEntry(ModelEntry):
    """A GGUF inside a Python package."""

    package: str
    """Name on PyPI."""
    module: str
    extra: str = ""
    """The extra of edgesteer that installs the package, if there is one."""

    @property
    def source(self) -> str:
        return f"PyPI {self.package}"

    @property
    def installed(self) -> bool:
        return self.folder is not None

    @property
    def folder(self) -> Path | None:
        """The package's folder, found without running the package."""
        spec = importlib.util.find_spec(self.module)
        return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None

    @property
    def path(self) -> Path | None:
        return existing(self.folder / self.file) if self.folder else None

    def fetch(self) -> Path:
        self.require_installed()
        if self.path is None:
            raise ModelError(
                "package lacks its model file",
                where=self.package,
                expected=self.file,
                remedy=self.remedy("--force-reinstall "),
            )
        return self.path

    def require_installed(self) -> None:
        if not self.installed:
            raise ModelError(
                "model is not installed",
                where=self.name,
                expected=f"the Python package {self.package}",
                remedy=self.remedy(),
            )

    def remedy(self, option: str = "") -> str:
        wanted = f'"edgesteer[{self.extra}]"' if self.extra and not option else self.package
        return f"Run: pip install {option}{wanted}"


@dataclass(frozen=True)
class AssembledEntry(PackageEntry):
    """A GGUF in parts, which the package's function `assemble(path)` joins; kept in the user's cache."""

    @property
    def path(self) -> Path | None:
        return existing(self.cached)

    @property
    def cached(self) -> Path:
        return cache_folder() / "models" / self.file

    def fetch(self) -> Path:
        self.require_installed()
        if self.path is None:
            with atomic_write(self.cached) as temporary:
                temporary.parent.mkdir(parents=True, exist_ok=True)
                self.assemble(temporary)
        return self.cached

    def assemble(self, target: Path) -> None:
        try:
            importlib.import_module(self.module).assemble(target)
        except (ImportError, AttributeError, FileNotFoundError, ValueError) as error:
            raise ModelError(
                "model cannot be joined from its parts",
                where=self.package,
                found=error,
                remedy=self.remedy("--force-reinstall "),
            ) from error


@dataclass(frozen=True)
class HubEntry(ModelEntry):
    """A GGUF on the Hugging Face hub."""

    repo: str
    revision: str

    @property
    def source(self) -> str:
        return f"huggingface.co/{self.repo}"

    @property
    def installed(self) -> bool:
        return self.path is not None

    @property
    def path(self) -> Path | None:
        with suppress(MissingExtraError):
            found = hub().try_to_load_from_cache(self.repo, self.file, revision=self.revision)
            return Path(found) if isinstance(found, str) else None
        return None

    def fetch(self) -> Path:
        client = hub()
        try:
            return Path(client.hf_hub_download(self.repo, self.file, revision=self.revision))
        except Exception as error:  # the client raises its own errors, its HTTP library's and OSError
            raise ModelError(
                "model cannot be downloaded",
                where=self.source,
                found=error,
                remedy="Check the network, or give the path of a GGUF file.",
            ) from error


ENTRY_KINDS: dict[str, type[ModelEntry]] = {
    "package": PackageEntry,
    "assembled": AssembledEntry,
    "hub": HubEntry,
}


def resolve_model(name_or_path: str) -> Path:
    """Return the path of a model: an existing GGUF file or folder, else that of the registry's entry.

    The sha256 of an entry's file is checked when the file is first used and after it changed.

    Raises ModelError when there is no such model, its package is not installed, or its file is damaged;
    MissingExtraError when it is on the hub and the hub's client is not installed.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        return require_gguf(path)
    entries = {entry.name: entry for entry in list_models()}
    if name_or_path in entries:
        return require_sha256(entries[name_or_path].fetch(), entries[name_or_path].sha256)
    if path.suffix == ".gguf" or len(path.parts) > 1:
        raise ModelError("no such file", where=path, remedy="Check the path, or see `edgesteer models list`.")
    raise ModelError(
        "unknown model",
        where=name_or_path,
        expected=f"a path or one of {', '.join(entries)}",
        remedy="See `edgesteer models list`.",
    )


def list_models() -> list[ModelEntry]:
    """Return the registry's entries and the user's own, which may replace the former. Raises ModelError."""
    built_in = importlib.resources.files("edgesteer.models") / "registry.toml"
    entries = {entry.name: entry for entry in parse_registry(built_in.read_text("utf-8"), "registry.toml")}
    own = config_folder() / "registry.toml"
    if own.exists():
        entries |= {entry.name: entry for entry in parse_registry(own.read_text("utf-8"), str(own))}
    return list(entries.values())


def parse_registry(text: str, where: str) -> list[ModelEntry]:
    """Return the entries of a registry.toml. Raises ModelError, which names the entry at fault."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError("not valid TOML", where=where, found=error, remedy="Mend the file.") from error
    return [parse_entry(name, table, f"{where}: {name}") for name, table in tables.items()]


def parse_entry(name: str, table: Any, where: str) -> ModelEntry:
    remedy = "Mend the entry; models/registry.toml shows the form."
    if not isinstance(table, dict) or table.get("from") not in ENTRY_KINDS:
        raise ModelError(
            "entry does not say where its model comes from",
            where=where,
            expected=f"from = {' or '.join(ENTRY_KINDS)}",
            remedy=remedy,
        )
    if not all(isinstance(value, str) for value in table.values()):
        raise ModelError("entry holds a value that is not a text", where=where, remedy=remedy)
    arguments = {key: value for key, value in table.items() if key != "from"}
    try:
        return ENTRY_KINDS[table["from"]](name=name, **arguments)
    except TypeError as error:
        raise ModelError("entry lacks a key or has an unknown one", where=where, found=error, remedy=remedy) from error


def require_gguf(path: Path) -> Path:
    """Return the path; raise ModelError unless the file there starts as a GGUF does."""
    try:
        is_gguf = has_gguf_magic(path)
    except OSError as error:
        raise ModelError("file cannot be read", where=path, found=error.strerror) from error
    if not is_gguf:
        raise ModelError("not a GGUF file", where=path, remedy="Give a model in llama.cpp's GGUF format.")
    return path


def require_sha256(path: Path, expected: str) -> Path:
    """Return the path; raise ModelError unless the file has this sha256, now or when it last changed."""
    state = path.stat()
    facts = f"{path} {state.st_size} {state.st_mtime_ns} {expected}"
    stamp = cache_folder() / "checked" / hashlib.sha256(facts.encode()).hexdigest()
    if stamp.exists():
        return path
    found = sha256_of_file(path)
    if found != expected:
        raise ModelError(
            "model file is damaged or another version",
            where=path,
            expected=f"sha256 {expected}",
            found=found,
            remedy="Delete it and install or download it again.",
        )
    with suppress(OSError):  # a cache that cannot be written costs time, not the model
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return path


def existing(path: Path) -> Path | None:
    return path if path.exists() else None


def hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError(
            "models on the hub need an optional package",
            expected="huggingface_hub",
            remedy='Run: pip install "edgesteer[hub]"',
        ) from error


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgesteer"


def config_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgesteer"
