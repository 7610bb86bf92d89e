"""The proof against the running kernel: it passes when the door is shut, and fails when any part of it stays open."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.doctor import proof_lines
from appliance.isolation import AttemptResult, Silence

PROGRAMS = ("recorder", "engine-cpu", "web", "packer", "reader", "administration")
# Isolation cannot be undone and needs a process of one thread, so it happens in children of a separate process.
_TRY_ALL = """
import json, sys
from dataclasses import asdict
from appliance.isolation import SilenceError
from appliance.isolation.policy import Kind
from appliance.isolation.trial import try_silence
results = {}
for name in json.load(sys.stdin):
    kinds = sys.argv[1:] if name != "cuda" else ["engine-cuda"]
    programs = [Kind(kind) for kind in kinds]
    try:
        silence = try_silence(become=None, programs=programs, leave_out=name.split("+"))
        results[name] = asdict(silence)
    except SilenceError as exc:
        results[name] = str(exc)
json.dump(results, sys.stdout)
"""

# The parts left out of the filter, and the ways that must then be reported.
OPENED = {
    "socket": ["netlink (OPEN", "vsock", "every other socket family"],
    "socketpair": ["Unix datagrams (syslog) (OPEN", "Unix raw (datagrams too) (OPEN"],
    "connect": ["Unix socket, by path", "inherited listener, connected", "accepted socket, dissolved (OPEN"],
    "socket+connect": ["TCP over IPv4", "TCP over IPv6", "Multipath TCP", "UDP over IPv4", "UDP over IPv6"],
    "bind": ["Unix listener (bind) (OPEN"],
    "sendto": ["sendto with an address", "TCP Fast Open, sendto (OPEN"],
    "sendmsg": ["TCP Fast Open, sendmsg (OPEN"],
    "sendmmsg": ["TCP Fast Open, sendmmsg"],
    "setsockopt": [
        "IPv6 routing header (SRv6)", "IPv6 group joined (MCAST)", "IPv6 group joined, one source", "IPv4 group joined",
        "IPv4 group joined (MCAST)", "IPv4 group joined, one source", "IPv4 group joined, one source (old)",
        "IPv4 source route", "interface chosen", "packet filter attached", "BPF program attached", "TCP repair",
    ],
    "ioctl": ["list of interfaces (SIOCGIFCONF)", "tunnel attached (TUNSETIFF)", "typing into the terminal"],
    "clone": ["clone into a namespace"],
    "unshare": ["unshare (OPEN"],
    "process_vm_readv": ["process_vm_readv (OPEN"],
    "process_vm_writev": ["process_vm_writev (OPEN"],
    "request_key": ["request_key (kernel DNS)"],
    "mknodat": ["device node made (mknodat)"],
    "fchmodat": ["rights of a file changed (fchmodat)"],
    "fchownat": ["file given away (fchownat)"],
    "fchmod": ["rights of an open file changed"],
    "fchown": ["open file given away"],
    "prctl": ["memory opened to others (prctl)"],
    "fcntl": ["signals from a descriptor (fcntl)"],
    "setresuid": ["setresuid (OPEN"],
    "personality": ["personality (OPEN"],
    **{
        name: [name]
        for name in (
            *("io_uring_setup", "io_uring_enter", "io_uring_register", "setns", "clone3", "mount", "open_tree"),
            *("ptrace", "pidfd_getfd", "bpf", "perf_event_open", "userfaultfd", "add_key", "keyctl", "umount2"),
            *("pivot_root", "chroot", "move_mount", "fsopen", "open_by_handle_at", "pidfd_open", "pidfd_send_signal"),
            *("process_madvise", "kcmp", "execveat", "finit_module", "kexec_load", "capset", "fanotify_init"),
            *("memfd_create", "shutdown"),
        )
    },
}  # fmt: skip
# Calls that the supervisor needs and its programs do not. The programs' own filters refuse them when they prove it.
OPENED_TO_PROGRAMS = {
    "tgkill": ["signal to who started it"],
    "execve": ["another program (execve)"],
    "kill": ["signal to every process"],
    "seccomp": ["a filter with a listener"],
}
X86_ONLY = {"32-bit": ["32-bit system call"], "x32": ["x32 system call"]}
HOSTS = ["", "namespace", "landlock", "namespace+landlock", "watcher"]  # what a host may refuse


@pytest.fixture(scope="module")
def tried() -> dict[str, Any]:
    """The result or the error of `shut_the_door`, for each part left out."""
    names = json.dumps([*OPENED, *OPENED_TO_PROGRAMS, *X86_ONLY, *HOSTS, "cuda"])
    command = [sys.executable, "-c", _TRY_ALL, *PROGRAMS]
    done = subprocess.run(command, input=names, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("left_out", "ways"), [*OPENED.items(), *OPENED_TO_PROGRAMS.items()])
def test_refuses_to_start_when_a_part_of_the_filter_is_left_out(
    tried: dict[str, Any], left_out: str, ways: list[str]
) -> None:
    said = tried[left_out]
    assert isinstance(said, str), "the proof passed with a way out left open"
    assert "nothing may start" in said
    for way in ways:
        assert way in said


@pytest.mark.skipif("platform.machine() != 'x86_64'", reason="calls of another ABI exist on x86 only")
def test_refuses_to_start_when_another_abi_is_open(tried: dict[str, Any]) -> None:
    if isinstance(tried["32-bit"], str):
        assert "32-bit system call (OPEN" in tried["32-bit"]
    else:  # this kernel has none, so none was tried
        assert "32-bit system call" not in {attempt["way"] for attempt in tried[""]["attempts"]}
    assert "x32" in tried["x32"]


def test_every_row_is_reported_when_its_rule_is_left_out(tried: dict[str, Any]) -> None:
    left_out = [*OPENED, *OPENED_TO_PROGRAMS, *X86_ONLY]
    said = " ".join(tried[name] for name in left_out if isinstance(tried[name], str))
    for attempt in tried[""]["attempts"]:
        assert f"{attempt['way']} (" in said or attempt["way"] == "x32 system call", attempt["way"]


@pytest.mark.parametrize("host", HOSTS)
def test_is_silent_on_every_host(tried: dict[str, Any], host: str) -> None:
    silence = tried[host]
    assert {attempt["kind"] for attempt in silence["attempts"]} == {"supervisor", *PROGRAMS}
    for attempt in silence["attempts"]:
        assert attempt["refused"], attempt
        not_there = attempt["kind"] == "supervisor" or attempt["way"] == "clone3"
        assert attempt["answer"] == ("ENOSYS" if not_there else "EPERM")


def test_each_finding_is_tried_by_each_program(tried: dict[str, Any]) -> None:
    for kind in PROGRAMS:
        tries = {attempt["way"] for attempt in tried[""]["attempts"] if attempt["kind"] == kind}
        assert tries == {attempt["way"] for attempt in tried[""]["attempts"]}


def test_the_engine_on_cuda_is_refused_what_is_dangerous(tried: dict[str, Any]) -> None:
    silence = tried["cuda"]
    assert not isinstance(silence, str), silence
    ways = {attempt["way"] for attempt in silence["attempts"] if attempt["kind"] == "engine-cuda"}
    assert {"IPv6 routing header (SRv6)", "tunnel attached (TUNSETIFF)", "another program (execve)"} <= ways
    assert all(attempt["refused"] for attempt in silence["attempts"])


@pytest.mark.parametrize(
    ("left_out", "layer"),
    [
        ("namespace", "network namespace of its own"),
        ("landlock", "Landlock"),
        ("watcher", "watch over refused calls"),
    ],
)
def test_says_what_the_host_does_not_grant_and_how_to_enable_it(
    tried: dict[str, Any], left_out: str, layer: str
) -> None:
    layers = {found["name"]: found for found in tried[left_out]["layers"]}
    assert not layers[layer]["in_force"]
    assert layers[layer]["remedy"]
    assert layers["system call filter (seccomp)"]["in_force"]


def test_what_is_in_force_has_no_remedy(tried: dict[str, Any]) -> None:
    for layer in tried[""]["layers"]:
        assert (layer["remedy"] is None) == layer["in_force"], layer


def test_refuses_a_process_with_threads() -> None:
    code = """
import threading
from appliance.isolation import shut_the_door
from appliance.isolation.policy import Kind
threading.Thread(target=threading.Event().wait, daemon=True).start()
shut_the_door(keep=[], become=None, kind=Kind.ENGINE_CPU)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "SilenceError: silence must be entered by a process of one thread" in done.stderr


def test_closes_every_descriptor_that_nobody_accounts_for() -> None:
    code = """
import os, socket
from appliance.isolation import shut_the_door
from appliance.isolation.policy import Kind
from appliance.isolation.privileges import open_descriptors
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
kept, closed = os.pipe()
shut_the_door(keep=[kept], become=None, kind=Kind.SUPERVISOR)
assert open_descriptors() == {0, 1, 2, kept}, open_descriptors()
assert os.readlink("/proc/self/fd/0") == "/dev/null"
udp.detach()
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.PIPE)


def test_refuses_to_keep_writing_to_a_socket_that_leads_out() -> None:
    code = """
import os, socket, sys
from appliance.isolation import SilenceError, shut_the_door
from appliance.isolation.policy import Kind
report = os.dup(1)
os.dup2(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(), 2)
try:
    shut_the_door(keep=[report], become=None, kind=Kind.SUPERVISOR)
except SilenceError as exc:
    os.write(report, str(exc).encode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "descriptor 2 is a socket that leads out" in done.stdout


@pytest.mark.parametrize(
    ("made", "refused"),
    [
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", True),
        ("socket.create_connection((server := socket.create_server(('127.0.0.1', 0))).getsockname())", True),
        ("socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]", True),
        ("socket.create_server(('127.0.0.1', 0))", False),
        ("socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0]", False),
    ],
)
def test_keeps_no_socket_that_leads_out(made: str, refused: bool) -> None:
    code = f"""
import socket
from appliance.isolation import shut_the_door
from appliance.isolation.policy import Kind
shut_the_door(keep=[{made}.detach()], become=None, kind=Kind.SUPERVISOR)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ("is a socket that leads out" in done.stderr) == refused
    assert (done.returncode != 0) == refused


def test_children_inherit_silence_and_cannot_leave_core_dumps() -> None:
    code = """
import os, resource, socket
from appliance.isolation import shut_the_door
from appliance.isolation.policy import Kind
shut_the_door(keep=[], become=None, kind=Kind.WEB)
if os.fork() == 0:
    assert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    assert status["NoNewPrivs"].strip() == "1", status
    assert int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0, status
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    except PermissionError:
        print("refused")
else:
    assert os.wait()[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_documented_table_is_the_one_that_is_printed(tried: dict[str, Any]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "silence.md").read_text()
    page = page.partition("## The proof")[2].partition("\n## ")[0]
    table = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    attempts = tuple(AttemptResult(**attempt) for attempt in tried[""]["attempts"])
    printed = [line.strip() for line in proof_lines(Silence("", 0, (), attempts))]
    assert [line for line in table if not line.startswith(("32-bit", "x32"))] == [
        line for line in printed if not line.startswith(("32-bit", "x32"))
    ]


def test_a_pretence_changes_the_answer_and_nothing_else() -> None:
    """What CUDA is told: its socket seems bound, has no name, and nobody can reach it."""
    program = (
        "import socket\n"
        "from appliance.isolation import shut_the_door\n"
        "from appliance.isolation.policy import Kind\n"
        "from appliance.isolation.seccomp import pretend\n"
        "shut_the_door(keep=[], become=None, kind=Kind.ENGINE_CUDA)\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:\n"
        "    try:\n"
        "        sock.bind('\\0cuda')\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
        "    pretend(('bind', 'listen'))\n"
        "    sock.bind('\\0cuda')\n"
        "    sock.listen()\n"
        "    print(repr(sock.getsockname()))\n"
        "    try:\n"
        "        sock.accept()\n"
        "    except OSError as exc:\n"
        "        print(exc.strerror)\n"
        "    try:\n"
        "        sock.connect('\\0cuda')\n"
        "    except PermissionError:\n"
        "        print('still refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["refused", "''", "Invalid argument", "still refused"]
