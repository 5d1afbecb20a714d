"""Adapters in an object store, by S3's own protocol: what is published there whole, refused, damaged or half there."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from service.adapters.files import check_folder
from service.adapters.manifest import CONFIG, MANIFEST, REPORT, WEIGHTS
from service.adapters.place import TRIES, Place
from service.adapters.registry import Registry
from service.doctor import examine
from service.errors import AdapterUnreachable, Conflict
from service.listening import free_port
from service.settings import load_settings
from service.store.session import Store
from tests.fixtures.adapters import provenance, write_source
from tests.fixtures.object_store import ObjectStore
from tests.fixtures.waiting import PATIENCE
from tests.service.registered import states
from tests.service.shared_place import FILES


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.adapters.place.PAUSE_SECONDS", 0.0)


def home(store: Store, tmp_path: Path, name: str, url: str) -> Registry:
    return Registry(store, tmp_path / name / "adapters", shared=Place(url))


def objects(s3: ObjectStore) -> S3FileSystem:
    """The bucket as somebody else sees it: nothing is remembered."""
    return S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def found_by_doctor(tmp_path: Path, url: str) -> str:
    settings = load_settings(tmp_path / "doctor", {"adapters": {"url": url}}, environment={})
    return next(str(one) for one in examine(settings) if one.check == "adapters")


@pytest.mark.parametrize(
    ("file", "edit", "words"),
    [
        (WEIGHTS, lambda content: content[:-100], "is truncated: "),
        (WEIGHTS, lambda content: content[:100] + b"\x00\x01" + content[102:], "its SHA-256 is another"),
        (REPORT, None, rf"There is no {REPORT} at s3://.* Tried {TRIES} times"),
        (MANIFEST, None, rf"There is no {MANIFEST} at s3://.*hone adapters export"),
        (MANIFEST, lambda content: content + b" ", "isn't the one that was published"),
    ],
)
def test_an_object_that_is_damaged_or_gone_is_refused_and_can_be_put_there_again(
    sqlite_store: Store,
    source: Path,
    tmp_path: Path,
    s3: ObjectStore,
    file: str,
    edit: Callable[[bytes], bytes] | None,
    words: str,
) -> None:
    one, other = (home(sqlite_store, tmp_path, name, s3.url) for name in ("one", "other"))
    name = one.publish(source, provenance(), {"won": 0.7}, "Passed.")
    path = f"{s3.url}/{name}/{file}"
    if edit is None:
        objects(s3).rm_file(path)
    else:
        objects(s3).pipe_file(path, edit(objects(s3).cat_file(path)))
    with pytest.raises(AdapterUnreachable, match=words):
        other.check(name)
    assert {entry.name for entry in other.folder.iterdir()} == {".lock"}
    assert states(sqlite_store) == {name: "candidate"} and check_folder(one.folder / name).name == name
    Place(f"{s3.url}/{name}").remove()
    one.export(name, Place(f"{s3.url}/{name}"))
    assert (other.check(name)[0] / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def test_weights_that_are_uploaded_in_parts_arrive_whole(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 << 20)
    large = tmp_path / "large"
    large.mkdir()
    (large / WEIGHTS).write_bytes(bytes(range(256)) * (11 << 12))  # 11 MiB: three parts, and no safetensors file
    Place(s3.url)._put_file(large / WEIGHTS)
    assert objects(s3).info(f"{s3.url}/{WEIGHTS}")["ETag"].endswith('-3"')
    assert b"".join(Place(s3.url)._blocks(WEIGHTS, 1 << 30)) == (large / WEIGHTS).read_bytes()
    with pytest.raises(Conflict):
        (large / WEIGHTS).write_bytes(bytes(11 << 20))
        Place(s3.url)._put_file(large / WEIGHTS)


KILLED = """
import os, signal, sys
from pathlib import Path
from service.adapters.place import Place
from service.adapters.registry import Registry
from service.store.session import Store
from tests.fixtures.adapters import provenance

put = Place._put_file

def put_or_die(place, path):
    if path.name == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)
    put(place, path)

Place._put_file = put_or_die
store, home, source, _, url = sys.argv[1:]
registry = Registry(Store.open(store), Path(home), shared=Place(url))
registry.publish(Path(source), provenance(run_id="run-1"), {}, "Passed.")
"""


@pytest.mark.parametrize("before", [WEIGHTS, MANIFEST])
def test_a_publisher_that_is_killed_while_it_uploads_leaves_nothing_that_anyone_loads(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore, before: str
) -> None:
    one, other = (home(sqlite_store, tmp_path, name, s3.url) for name in ("one", "other"))
    url = sqlite_store.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", KILLED, url, str(one.folder), str(source), before, s3.url]
    assert subprocess.run(command, timeout=PATIENCE).returncode == -9
    half = Place(f"{s3.url}/v1")
    assert {CONFIG} <= set(half.names()) <= FILES - {before}
    with pytest.raises(AdapterUnreachable, match=rf"There is no {MANIFEST}"):
        other.import_adapter(half, "A gift?")
    assert other.recover() == [] and half.names()  # it may be alive on another machine
    assert any(f"Removed {half.url}, which was never registered" in line for line in one.recover("run-1"))
    assert Place(s3.url).names() == [] and states(sqlite_store) == {"v1": "rejected"}
    assert one.publish(source, provenance(), {}, "Passed.") == "v2"
    assert other.check("v2")[1].name == "v2"


def test_parts_of_an_upload_that_was_never_completed_are_no_object(s3: ObjectStore) -> None:
    files, key = objects(s3), f"shared/v1/{WEIGHTS}"
    upload = files.call_s3("create_multipart_upload", Bucket=s3.bucket, Key=key)["UploadId"]
    files.call_s3("upload_part", Bucket=s3.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"half")
    assert Place(s3.url).names() == [] and Place(f"{s3.url}/v1").created_at() is None


def test_homes_publish_and_fetch_at_the_same_time(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore
) -> None:
    homes = [home(sqlite_store, tmp_path, name, s3.url) for name in ("one", "other")]
    published: list[str] = []
    fetched: list[tuple[str, str]] = []
    barrier = threading.Barrier(len(homes))

    def work(own: Registry) -> None:
        barrier.wait(PATIENCE)
        for _ in range(3):
            published.append(own.publish(source, provenance(), {}, "Passed."))
            fetched.extend((name, own.check(name)[1].name) for name in list(published))
        barrier.wait(PATIENCE)
        fetched.extend((name, own.check(name)[1].name) for name in published)

    threads = [threading.Thread(target=work, args=(own,)) for own in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(published) == [f"v{number}" for number in range(1, 7)] == sorted(Place(s3.url).names())
    assert len(fetched) >= 12 and all(name == found for name, found in fetched)
    for own in homes:
        assert {entry.name for entry in own.folder.iterdir()} == {*published, ".lock"}


def test_of_two_stores_that_write_to_one_place_at_the_same_time_one_wins_whole(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'elsewhere' / 'hone.db'}")
    one, stranger = home(sqlite_store, tmp_path, "one", s3.url), home(store, tmp_path, "elsewhere", s3.url)
    put = Place._put_file

    def one_is_quicker(place: Place, path: Path) -> None:
        """The stranger has seen that nobody is there, and now the other writes all of its own."""
        monkeypatch.setattr(Place, "_put_file", put)
        one.publish(source, provenance(), {"won": 0.7}, "Passed.")
        put(place, path)

    monkeypatch.setattr(Place, "_put_file", one_is_quicker)
    with pytest.raises(Conflict, match=f"at {s3.url}/v1 already"):
        stranger.publish(write_source(tmp_path / "another", seed=1), provenance(), {}, "Passed.")
    assert states(store) == {"v1": "rejected"} and set(Place(f"{s3.url}/v1").names()) == FILES
    assert (home(sqlite_store, tmp_path, "third", s3.url).check("v1")[0] / WEIGHTS).read_bytes() == (
        source / WEIGHTS
    ).read_bytes()
    store.close()


def test_an_upload_that_was_broken_off_is_completed(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore
) -> None:
    """Also one whose answer was lost, so that it is sent twice: what is there already is our own."""
    one = Registry(sqlite_store, tmp_path / "one" / "adapters")
    name = one.publish(source, provenance(), {}, "Passed.")
    gift = Place(f"{s3.url}/gift")
    gift._put_file(one.folder / name / CONFIG)
    gift._put_file(one.folder / name / WEIGHTS)
    one.export(name, gift)
    assert set(gift.names()) == FILES
    with pytest.raises(Conflict, match="There is an adapter at"):
        one.export(name, gift)


def test_a_store_that_knows_no_conditions_is_written_all_the_same(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = S3FileSystem._put_file

    async def without_conditions(files: S3FileSystem, lpath: str, rpath: str, **options: Any) -> None:
        if options.get("mode") == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        await put(files, lpath, rpath, **options)

    monkeypatch.setattr(S3FileSystem, "_put_file", without_conditions)
    one, other = (home(sqlite_store, tmp_path, name, s3.url) for name in ("one", "other"))
    other.check(one.publish(source, provenance(), {}, "Passed."))


def test_a_bucket_that_refuses_loses_nothing_and_says_whose_keys_it_wants(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore
) -> None:
    one, other = (home(sqlite_store, tmp_path, name, s3.url) for name in ("one", "other"))
    name = one.publish(source, provenance(), {}, "Passed.")
    s3.ask_for_keys(True)
    refused = r"it refuses \(PermissionError .*AWS_ACCESS_KEY_ID"
    with pytest.raises(AdapterUnreachable, match=rf"can't be read: {refused}"):
        other.check(name)
    with pytest.raises(AdapterUnreachable, match=rf"v2 can't be written to {s3.url}/v2: {refused}"):
        one.publish(source, provenance(), {}, "Passed.")
    assert "it refuses" in found_by_doctor(tmp_path, s3.url)
    assert states(sqlite_store) == {name: "candidate", "v2": "rejected"}
    assert {entry.name for entry in one.folder.iterdir()} == {name, ".lock"}
    s3.ask_for_keys(False)
    assert other.check(name)[1].name == name and one.publish(source, provenance(), {}, "Passed.") == "v3"


def test_a_bucket_without_keys_says_where_they_come_from(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(AdapterUnreachable, match=r"there are no credentials for it .*AWS_ACCESS_KEY_ID"):
        Place(s3.url).names()


def test_a_bucket_that_is_away_loses_nothing(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = home(sqlite_store, tmp_path, "one", s3.url).publish(source, provenance(), {}, "Passed.")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        S3FileSystem.clear_instance_cache()
        away, other = (home(sqlite_store, tmp_path, name, s3.url) for name in ("one", "other"))
        with pytest.raises(AdapterUnreachable, match=r"it doesn't answer .*AWS_ENDPOINT_URL"):
            other.check(name)
        with pytest.raises(AdapterUnreachable, match=r"v2 can't be written .*it doesn't answer"):
            away.publish(source, provenance(), {}, "Passed.")
        assert "doesn't answer" in away.recover("run-1")[-1]
        assert away.check(name)[1].name == name  # what is in the folder is served
    S3FileSystem.clear_instance_cache()
    assert states(sqlite_store) == {name: "candidate", "v2": "rejected"}
    assert home(sqlite_store, tmp_path, "other", s3.url).check(name)[1].name == name


def test_a_bucket_that_does_not_exist_is_told_from_one_that_is_empty(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore
) -> None:
    assert Place(s3.url).names() == [] and "can be read; 0 there" in found_by_doctor(tmp_path, s3.url)
    nowhere = "s3://bucket-of-nobody/shared"
    one = home(sqlite_store, tmp_path, "one", nowhere)
    with pytest.raises(AdapterUnreachable, match="There is no bucket 'bucket-of-nobody'"):
        one.publish(source, provenance(), {}, "Passed.")
    with pytest.raises(AdapterUnreachable, match="There is no bucket 'bucket-of-nobody'"):
        one.import_adapter(Place(f"{nowhere}/v1"), "A gift?")
    assert "There is no bucket" in found_by_doctor(tmp_path, nowhere)
    assert states(sqlite_store) == {"v1": "rejected"}


def test_two_homes_may_clear_the_same_away_at_the_same_time(
    sqlite_store: Store, source: Path, tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Registry(sqlite_store, tmp_path / "one" / "adapters").publish(source, provenance(), {}, "Passed.")
    place = Place(f"{s3.url}/{name}")
    place.put(tmp_path / "one" / "adapters" / name)
    seen = place.names()
    objects(s3).rm(f"{s3.url}/{name}", recursive=True)
    monkeypatch.setattr(Place, "names", lambda self: seen)
    place.remove()
