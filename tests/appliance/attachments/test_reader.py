"""The reader under the real supervisor: ordinary files, bombs, and parsers that a file has taken over."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from appliance.attachments.wire import longest_answer_bytes
from appliance.isolation.landlock import FILES_ABI, landlock_abi
from tests.appliance.attachments.documents import packed, paragraph, pdf, spreadsheet, word
from tests.appliance.supervised import RECORDER, Site, command_line, supervised
from tests.conftest import require

MAX_CHARS = 50_000
# A web worker that hands what is posted to the reader, and answers with what came back.
WEB = """
import json, os, socket
from dataclasses import asdict
from appliance.attachments.client import FileReader
reader = FileReader(socket.socket(fileno=int(os.environ["APPLIANCE_READER_FD"])), timeout_s=20)
def app(environ, start_response):
    name, data = environ["PATH_INFO"][1:], environ["wsgi.input"].read()
    answer = reader.read(name, data, max_chars=50_000) if name else None
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(None if answer is None else asdict(answer)).encode()]
"""
# A reader whose parser does what the file tells it to, as one would that the file has taken over.
HOSTILE = """
import ctypes, errno, json, os, signal, socket, sys, threading
from appliance.attachments import server
from appliance.attachments.bounds import MIB, Bounds
from appliance.attachments.wire import ReadFile

def sockets():
    found = []
    for fd in range(3, 64):
        try:
            os.lseek(fd, 0, os.SEEK_CUR)
        except OSError as exc:
            if exc.errno == errno.ESPIPE:
                found.append(fd)
    return found

def dared(*ways):
    answers = {}
    for way in ways:
        try:
            answers[way] = repr(eval(way))
        except OSError as exc:
            answers[way] = errno.errorcode[exc.errno]
        except RuntimeError as exc:
            answers[way] = str(exc)
    return json.dumps(answers)

def hang():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def hostile(name, data, max_chars):
    if name == "dare":
        return ReadFile("text", dared(*data.decode().split(";;")))
    if name == "forge":
        for fd in sockets():
            try:
                os.write(fd, data)
            except OSError:
                pass
        os._exit(0)
    exec(data.decode())
    return ReadFile("text", "still here")

server.main(hostile, Bounds(memory_bytes=96 * MIB, cpu_s=1, whole_s=4))
"""


def _serving(home: Path, **options: Any) -> AbstractContextManager[Site]:
    home.joinpath("current").mkdir(parents=True)
    home.joinpath("current", "readweb.py").write_text(WEB)
    return supervised(home, web="readweb:app", recorder=RECORDER, **options)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The reader as it is shipped."""
    code = "from appliance.attachments.server import main; main()"
    with _serving(tmp_path_factory.mktemp("reader") / "site", reader=code) as running:
        yield running


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A reader whose parser the files have taken over."""
    with _serving(tmp_path_factory.mktemp("taken") / "site", reader=HOSTILE) as running:
        yield running


def ask(site: Site, name: str, data: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(f"{site.url}/{name}", data, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def dare(site: Site, *ways: str) -> dict[str, str]:
    """What the parser's attempts came to."""
    found: dict[str, str] = json.loads(ask(site, "dare", ";;".join(ways).encode())["text"])
    return found


def attempted(site: Site, call: str) -> bool:
    return any(one["event"] == "attempt_refused" and one["call"] == call for one in site.recorded())


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.txt", b"plain", "text"), ("a.pdf", pdf(["page"]), "pdf"), ("a.docx", word(paragraph("words")), "word"),
        ("a.xlsx", spreadsheet({"S": [["v", 1.5]]}), "spreadsheet"), ("latin.txt", b"caf\xe9", "text"),
    ],
)  # fmt: skip
def test_reads_each_format_in_confinement(site: Site, name: str, data: bytes, form: str) -> None:
    assert ask(site, name, data)["form"] == form


def test_the_reader_knows_neither_database_nor_web(site: Site) -> None:
    code = "import sys, appliance.attachments.server as s; s._rehearsed(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sqlalchemy", "flask", "gunicorn", "openai_harmony", "pydantic"} & set(loaded)
    assert {"pypdfium2", "python_calamine"} <= set(loaded)


def test_many_files_are_read_one_after_the_other(site: Site) -> None:
    texts = [ask(site, "a.txt", f"file {number}".encode())["text"] for number in range(12)]
    assert texts == [f"file {number}" for number in range(12)]


def test_a_bomb_in_a_word_file_ends_its_process_and_no_other(site: Site) -> None:
    """A gigabyte of one paragraph, whose size the archive's directory understates."""
    bomb = _understated(b"x" * (64 * 1024 * 1024))
    assert ask(site, "bomb.docx", bomb)["code"] in ("broken", "too_long", "out_of_memory", "reader_ended")
    assert ask(site, "a.docx", word(paragraph("MARK")))["text"] == "MARK"


def test_a_spreadsheet_that_names_its_last_cell_ends_its_process_alone(site: Site) -> None:
    far = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    far += '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    data = spreadsheet({"S": []}, {"xl/worksheets/sheet2.xml": ""})
    bomb = _with_part(data, "xl/worksheets/sheet1.xml", far + "</sheetData></worksheet>")
    assert ask(site, "far.xlsx", bomb)["code"] in ("out_of_memory", "out_of_time", "reader_ended", "broken")
    assert ask(site, "a.txt", b"next")["text"] == "next"


@pytest.mark.parametrize(
    "objects",
    [
        ["<</Type/Pages/Kids[2 0 R]/Count 1>>"],
        ["<</Length 7 0 R>>", "<</Length 6 0 R>>"],
        ["[" * 100_000],
        ["<</A" * 100_000],
    ],
    ids=["a page of pages", "lengths in a circle", "deep arrays", "deep dictionaries"],
)
def test_a_twisted_pdf_hurts_nobody(site: Site, objects: list[str]) -> None:
    answer = ask(site, "twisted.pdf", pdf(["x"], objects=objects))
    assert answer.get("text") == "[Page 1]\nx" or answer["code"] in ("broken", "reader_ended", "out_of_memory")
    assert ask(site, "a.txt", b"next")["text"] == "next"


def test_a_pdf_with_a_huge_stream_and_a_huge_page_hurts_nobody(site: Site) -> None:
    stream = zlib.compress(b"(x) Tj " * 10_000_000, 9).decode("latin-1")
    big = f"<</Filter/FlateDecode/Length {len(stream)}>>\nstream\n{stream}\nendstream"
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 1e12 1e12]/Contents 6 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
    data = pdf(["x"], objects=[big, page]).replace(b"/Kids[5 0 R ]", b"/Kids[7 0 R ]")
    answer = ask(site, "huge.pdf", data)
    assert answer["code"] in ("too_long", "no_text", "out_of_memory", "out_of_time", "reader_ended")
    assert ask(site, "a.txt", b"next")["text"] == "next"


def test_a_parser_that_was_taken_over_reaches_nothing(taken: Site) -> None:
    ways = {
        "socket.socket()": "EPERM", "socket.socketpair()": "EPERM",
        "os.open('/etc/passwd', os.O_RDONLY)": "EPERM", "os.open('/dev/null', os.O_RDONLY)": "EPERM",
        "os.open('current/release.json', os.O_RDONLY)": "EPERM", "os.listdir('/')": "EPERM",
        "os.stat('/etc/passwd')": "EPERM", "os.mkdir('x')": "EPERM", "os.unlink('current/release.json')": "EPERM",
        "os.fork()": "EPERM", "threading.Thread(target=print).start()": "can't start new thread",
        "os.execve(sys.executable, ['x'], {})": "EPERM",
        "os.kill(os.getppid(), signal.SIGTERM)": "EPERM", "os.kill(os.getpid(), signal.SIGTERM)": "EPERM",
        "os.dup2(0, 9)": "EPERM", "os.pipe()": "EPERM", "os.memfd_create('x')": "EPERM",
        "os.setsid()": "EPERM", "os.chdir('/')": "EPERM",
    }  # fmt: skip
    assert dare(taken, *ways) == ways


def test_what_leads_out_is_recorded(taken: Site) -> None:
    dare(taken, "socket.socket()", "os.execve(sys.executable, ['x'], {})")
    taken.until(lambda: attempted(taken, "socket") and attempted(taken, "execve"))
    refused = [one for one in taken.recorded() if one["event"] == "attempt_refused"]
    assert {one["kind"] for one in refused} == {"reader"}


def test_the_process_holds_one_socket_and_one_pipe(taken: Site) -> None:
    assert len(json.loads(dare(taken, "sockets()")["sockets()"])) == 2


def test_before_its_first_file_it_reaches_no_file_of_the_site(tmp_path_factory: pytest.TempPathFactory) -> None:
    require(landlock_abi() >= FILES_ABI, "a kernel with Landlock")
    code = (
        """
import os, sys
for path in ("state/config", "state/database", "state/signer", "/etc/hosts", "/home"):
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("OPENED", path, flush=True)
    except OSError as exc:
        print("closed", path, flush=True)
"""
        + "from appliance.attachments.server import main; main()"
    )
    with _serving(tmp_path_factory.mktemp("files") / "site", reader=code) as site:
        assert ask(site, "a.txt", b"x")["text"] == "x"
        assert site.wait_for("closed /home|OPENED /home")
        assert "OPENED" not in site.said()


def test_a_host_without_a_watcher_confines_as_well(tmp_path: Path) -> None:
    with _serving(tmp_path / "site", reader=HOSTILE, leave_out=["watcher"]) as site:
        ways = {"socket.socket()": "EPERM", "os.execve(sys.executable, ['x'], {})": "EPERM", "os.listdir('/')": "EPERM"}
        assert dare(site, *ways) == ways


@pytest.mark.parametrize(
    ("what", "codes"),
    [
        ("while True: pass", ("out_of_time",)),
        ("signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", ("reader_ended",)),
        ("hang()", ("reader_ended",)),
        ("x = bytearray(2**30)", ("out_of_memory",)),
        ("ctypes.string_at(0)", ("reader_ended",)),
        ("os._exit(0)", ("reader_ended",)),
        ("for fd in sockets(): os.close(fd)\nhang()", ("reader_ended",)),
        ("raise SystemExit", ("broken",)),
        ("raise RecursionError", ("broken",)),
    ],
)
def test_a_process_that_hangs_or_dies_takes_its_file_with_it(taken: Site, what: str, codes: tuple[str, ...]) -> None:
    assert ask(taken, "run", what.encode())["code"] in codes
    assert ask(taken, "run", b"pass")["text"] == "still here"


def _answer(text: str, encoding: str = "null") -> bytes:
    facts = f'"parts": null, "encoding": {encoding}, "left_out": []'
    return f'{{"type": "ReadFile", "form": "text", "text": "{text}", {facts}}}\n'.encode()


FORGED = {
    "no JSON": b"hello\n",
    "another record": b'{"type": "ReadRequest", "name": "", "size_bytes": 1, "max_chars": 1}\n',
    "an unknown code": b'{"type": "Refusal", "code": "Click here: http://evil"}\n',
    "an unknown field": b'{"type": "Refusal", "code": "broken", "html": "<b>"}\n',
    "NUL": _answer("a\\u0000"),
    "a surrogate": _answer("\\ud800"),
    "a sentence": _answer("a", encoding='"Click here"'),
    "nothing": _answer(" "),
    "too long": _answer("a" * (MAX_CHARS + 1)),
    "endless": b"a" * (longest_answer_bytes(MAX_CHARS) + 1),
    "deep": b"[" * 100_000 + b"\n",
}


def test_the_form_of_the_forged_answers_is_right(taken: Site) -> None:
    assert ask(taken, "forge", _answer("said"))["text"] == "said"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_answer_is_no_answer(taken: Site, name: str) -> None:
    assert ask(taken, "forge", FORGED[name]) == {"code": "reader_ended"}


def test_a_reader_that_dies_is_started_again(taken: Site) -> None:
    """A file cannot do this; whoever holds the machine can."""
    ask(taken, "run", b"pass")
    readers = {pid for pid in taken.descendants() if "\0-c\0" in command_line(pid) and HOSTILE in command_line(pid)}
    os.kill(min(readers), signal.SIGKILL)
    assert taken.until(lambda: ask(taken, "run", b"pass").get("text")) == "still here"


def _understated(content: bytes) -> bytes:
    """A Word file whose document unpacks to far more than its directory says."""
    data = word("<w:p><w:r><w:t>" + content.decode() + "</w:t></w:r></w:p>")
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 46 + 17] != b"word/document.xml":
        at = data.index(b"PK\x01\x02", at + 1)
    return data[: at + 24] + (1000).to_bytes(4, "little") + data[at + 28 :]


def _with_part(data: bytes, name: str, body: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts: dict[str, str | bytes] = {one: archive.read(one) for one in archive.namelist()}
    return packed({**parts, name: body})
