"""Which URLs a data set is sent to, and what is said of stores that do not take it."""

from __future__ import annotations

import fsspec
import pytest

from idtool.curate import store_access
from idtool.curate.destination import LocalFolder, destination_of
from idtool.errors import MissingError, RunFailed, UsageError


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:s3cr3t@lab/x", "--output s3://lab/x was given with a password"),
        ("memory://", "names no bucket"),
        ("https://lab/x", "a web server takes no files"),
        ("hf://datasets/lab/faces", "Use --push hf:OWNER/NAME"),
        ("simplecache::memory://lab/x", "not the plain URL of a folder"),
        ("memory://lab/x?versionId=1", "not the plain URL of a folder"),
        ("s4://lab/x", "Cannot write to s4://lab/x: Protocol not known: s4"),
        ("s3:/lab/x", "not behind a URL"),
    ],
)
def test_what_is_no_place_for_a_data_set(url, words, tmp_path):
    with pytest.raises(UsageError) as told:
        destination_of(url, tmp_path)
    assert words in str(told.value) and "s3cr3t" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_file_url_is_a_folder_of_this_machine(tmp_path):
    place = destination_of(f"file://{tmp_path}/out", tmp_path)
    assert isinstance(place, LocalFolder) and place.target == tmp_path / "out"


@pytest.mark.parametrize(
    ("url", "words"),
    [("s3://lab/x", "Install s3fs. pip install 'idtool[s3]'."), ("gs://lab/x", "Install the package that it names.")],
)
def test_a_package_that_is_not_here_is_told_with_the_extra_that_has_it(url, words, monkeypatch, tmp_path):
    def missing(_):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingError) as told:
        destination_of(url, tmp_path)
    assert words in str(told.value)


def test_an_error_is_one_sentence_without_secrets(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2026&sig=abcdef")
    with pytest.raises(RunFailed) as told, store_access.told("Cannot", RunFailed, "Try."):
        raise PermissionError("https://x/?sv=2026&sig=abcdef is forbidden.\nRequestId: 1\nTime: 2")
    assert str(told.value) == "Cannot: no right to do so (https://x/?… is forbidden). Try."
    with pytest.raises(MissingError, match="Cannot: KeyError"), store_access.told("Cannot"):
        raise KeyError
    with pytest.raises(UsageError, match="as it is"), store_access.told("Cannot"):
        raise UsageError("as it is")
