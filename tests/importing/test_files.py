"""Second names for a user's files: links if possible, else copies; the files never change."""

import os
from pathlib import Path

import pytest

from streamasr.importing.files import link_or_copy

CONTENT = bytes(range(256)) * 40_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(CONTENT)
    return path


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_link_takes_no_space(tmp_path: Path, source: Path) -> None:
    link_or_copy(source, tmp_path / "new")
    assert (tmp_path / "new").samefile(source)
    source.unlink()
    assert (tmp_path / "new").read_bytes() == CONTENT


def test_a_link_is_made_to_the_file_itself_and_not_to_a_symbolic_link(
    tmp_path: Path, source: Path
) -> None:
    (tmp_path / "one").symlink_to("source.gguf")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    link_or_copy(tmp_path / "two", tmp_path / "new")
    assert not (tmp_path / "new").is_symlink()
    assert (tmp_path / "new").samefile(source)


def test_a_file_that_cannot_be_linked_is_copied_in_pieces(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    source.chmod(0o444)
    steps: list[tuple[str, int, int]] = []
    link_or_copy(source, tmp_path / "new", lambda *step: steps.append(step))
    assert (tmp_path / "new").read_bytes() == CONTENT
    assert not (tmp_path / "new").samefile(source)
    assert [done for _, done, _ in steps] == [1 << 22, 1 << 23, len(CONTENT)]
    assert steps[-1] == ("copying source.gguf", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("links", [True, False])
def test_an_existing_file_is_not_overwritten(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "new").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        link_or_copy(source, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"mine"


def test_a_failed_copy_is_removed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)

    def stop(_: str, done: int, __: int) -> None:
        if done == 1 << 23:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link_or_copy(source, tmp_path / "new", stop)
    assert not (tmp_path / "new").exists()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "none", tmp_path / "new")
