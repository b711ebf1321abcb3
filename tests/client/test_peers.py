"""The file of known daemons: whose it is, what two writers leave of it, what is no such file."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edged.client.connect.peers import MAX_PEERS, Peer, PeerBook
from edged.errors import ConfigError

WAIT_S = 40.0
_WRITER = """
import sys
from pathlib import Path
from edged.client.connect.peers import Peer, PeerBook
book, name = PeerBook(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    peer = Peer(name=f"{name}-{number}", addresses=("a:1",), fingerprint="f", certificate_pem="c")
    book.put(peer)
book.forget(f"{name}-0")
"""
# Everything that has to be imported is, before the user may read nothing of it any more.
_READER = """
import os, sys
from pathlib import Path
from edged.client.connect.peers import PeerBook
from edged.errors import ConfigError
os.setuid(1234)
try:
    print(PeerBook(Path(sys.argv[1])).all())
except ConfigError as error:
    print(error.detail)
"""


def peer(name: str, *addresses: str, token: str = "secret") -> Peer:
    return Peer(
        name=name,
        addresses=addresses or ("192.0.2.1:7411",),
        fingerprint="SHA256:abc",
        certificate_pem="pem",
        token=token,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "edged" / "peers.json"


@pytest.fixture
def book(path: Path) -> PeerBook:
    return PeerBook(path)


def test_a_book_that_does_not_exist_is_empty_and_reading_makes_none(
    book: PeerBook, path: Path
) -> None:
    assert book.all() == ()
    assert (book.named("box"), book.at("192.0.2.1:7411")) == (None, None)
    assert not book.forget("box")
    assert not path.parent.exists()


def test_what_was_put_is_found_by_name_and_by_each_address(book: PeerBook, path: Path) -> None:
    box = peer("box", "192.0.2.1:7411", "[2001:db8::1]:7411")
    book.put(box)
    book.put(peer("other", "192.0.2.2:7411"))
    again = PeerBook(path)
    assert again.named("box") == box
    assert again.at("[2001:db8::1]:7411") == box
    assert again.at("192.0.2.1:1") is None


def test_an_address_is_its_current_holders_of_several_the_last_kept(book: PeerBook) -> None:
    book.put(peer("first", "192.0.2.1:7411", "192.0.2.2:7411"))
    book.put(peer("second", "192.0.2.2:7411", "192.0.2.3:7411"))
    book.put(peer("third", "192.0.2.4:7411", "192.0.2.2:7411", "192.0.2.3:7411"))

    def name_at(host: str) -> str:
        found = book.at(f"{host}:7411")
        assert found is not None
        return found.name

    assert (name_at("192.0.2.2"), name_at("192.0.2.3")) == ("second", "third")
    book.moved(peer("first", "192.0.2.2:7411"))
    assert name_at("192.0.2.2") == "first"


def test_a_name_is_there_once(book: PeerBook) -> None:
    book.put(peer("box", token="old"))
    book.put(peer("other"))
    book.put(peer("box", token="new"))
    assert [(one.name, one.token) for one in book.all()] == [("other", "secret"), ("box", "new")]


def test_what_was_forgotten_is_gone(book: PeerBook) -> None:
    book.put(peer("box"))
    book.put(peer("other"))
    assert book.forget("box")
    assert [one.name for one in book.all()] == ["other"]


def test_the_file_and_its_directory_are_the_users_alone_whatever_the_umask(
    book: PeerBook, path: Path
) -> None:
    before = os.umask(0)
    try:
        book.put(peer("box"))
        book.put(peer("box"))
    finally:
        os.umask(before)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == {"peers.json": 0o600, "peers.json.lock": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_no_more_after_a_write(book: PeerBook, path: Path) -> None:
    book.put(peer("box"))
    path.chmod(0o644)
    book.put(peer("other"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_programs_that_write_at_once_lose_nothing(book: PeerBook, path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=WAIT_S)
        assert writer.returncode == 0
    assert {one.name for one in book.all()} == {
        f"{name}-{number}" for name in ("one", "two") for number in range(1, 20)
    }
    assert {one.name for one in path.parent.iterdir()} == {"peers.json", "peers.json.lock"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"peers": [{"name": "box"}]}',
        b'{"peers": "box"}',
        b'{"peers":[{"name":"box","addresses":[],"fingerprint":"f","certificate_pem":"c"}]}',
        b'\xff\xfe{"peers": []}',
        b"[]",
    ],
)
def test_a_damaged_file_is_named_and_left_as_it_is(
    book: PeerBook, path: Path, content: bytes
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for use in (book.all, lambda: book.put(peer("box")), lambda: book.forget("box")):
        with pytest.raises(ConfigError, match=r"peers\.json is no file of peers"):
            use()
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_not_believed(
    book: PeerBook, path: Path, mode: int
) -> None:
    book.put(peer("box"))
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may write to"):
        book.named("box")


def test_a_file_of_another_user_is_not_believed() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to be two users: run as root")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "peers.json"
        PeerBook(path).put(peer("box"))
        path.chmod(0o644)
        os.chown(path, 4321, 4321)
        result = subprocess.run(
            [sys.executable, "-c", _READER, path],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    assert result.stdout == f"{path} belongs to user 4321; expected 1234 or root\n"


def test_a_file_that_is_far_too_large_is_refused(book: PeerBook, path: Path) -> None:
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(ConfigError, match="has over 16777216 bytes, the most it may have"):
        book.all()


def test_a_book_is_full_at_its_limit_and_still_takes_what_it_has(
    book: PeerBook, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    peers = ",".join(
        f'{{"name":"box{number}","addresses":["a:1"],"fingerprint":"f","certificate_pem":"c"}}'
        for number in range(MAX_PEERS)
    )
    path.write_text(f'{{"peers":[{peers}]}}')
    with pytest.raises(ConfigError, match=f"holds {MAX_PEERS} peers, the most it may"):
        book.put(peer("one-more"))
    book.put(peer("box0", token="new"))
    assert len(book.all()) == MAX_PEERS
    assert book.forget("box1")
    book.put(peer("one-more"))


def test_a_directory_in_its_place_is_told(book: PeerBook, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match="is no file"):
        book.all()


def test_a_write_that_fails_leaves_the_file_as_it_was(book: PeerBook, path: Path) -> None:
    path.parent.parent.mkdir()
    path.parent.write_text("no directory")
    with pytest.raises(ConfigError, match="cannot"):
        book.put(peer("box"))
    assert path.parent.read_text() == "no directory"
