"""Which files each kind of process may use: a section of the policy, which Landlock enforces and the proof reads.

    places = places_of(config)
    for rule in file_rules(Kind.WEB, places): ..      # everything else is refused

Three rules hold for every kind. It can read the release and the interpreter, and never write them. It can execute only
the interpreter and the loader that the interpreter names, so it can execute nothing that any kind can write. It cannot
reach the other files of this user on this host.
"""

from __future__ import annotations

import glob
import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.config import Config
from appliance.isolation.kernel import SilenceError
from appliance.isolation.landlock import Right, Rule
from appliance.isolation.policy import Kind

READ = Right.READ_FILE | Right.READ_DIR
RUN = Right.READ_FILE | Right.EXECUTE
WRITE = (
    READ | Right.WRITE_FILE | Right.TRUNCATE
    | Right.MAKE_REG | Right.REMOVE_FILE | Right.MAKE_DIR | Right.REMOVE_DIR
)  # fmt: skip
OVERWRITE = Right.READ_FILE | Right.WRITE_FILE | Right.TRUNCATE  # one file
DEVICE = Right.READ_FILE | Right.WRITE_FILE
_GPU = DEVICE | Right.READ_DIR | Right.IOCTL_DEV

# Every program of ours reads these: shared libraries, time zones, the names of users, a description of the machine.
_HOST = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/ld.so.preload"),
    *("/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/usr/share/locale", "/etc/ssl/openssl.cnf"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/mime.types", "/usr/share/mime"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/mounts"),
    *("/proc/sys/vm/overcommit_memory", "/proc/sys/kernel", "/sys/devices/system", "/sys/fs/cgroup"),
)
_DEVICES = {
    "/dev/null": DEVICE, "/dev/zero": DEVICE, "/dev/full": DEVICE,
    "/dev/urandom": Right.READ_FILE, "/dev/random": Right.READ_FILE,
}  # fmt: skip
# CUDA needs the devices of the driver and its view of the machine. It writes the names of threads into /proc/self.
_GPU_DEVICES = ("/dev/nvidia*",)
_GPU_READS = ("/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/proc/sys", "/usr/share/nvidia")


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the programs. ``libraries`` are directories that only the environment names, for CUDA."""

    program: Path
    code: tuple[Path, ...]  # directories that it imports from
    libraries: tuple[Path, ...]


@dataclass(frozen=True)
class Places:
    """Where the files of one site are."""

    interpreter: Interpreter
    release: Path
    state: Path
    database: Path | None  # None: a database server
    engine: Kind = Kind.ENGINE_CPU  # which engine the site starts
    web_reads: tuple[Path, ...] = ()  # directories of the operator's own certificate and key

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of process that the supervisor starts."""
        return (Kind.RECORDER, Kind.WEB, Kind.PACKER, self.engine, Kind.READER, Kind.ADMINISTRATION)

    @property
    def database_dir(self) -> Path:
        """The directory of the database. SQLite makes files beside the database.

        Raises:
            SilenceError: other things of the site lie in it.
        """
        if self.database is None:
            raise SilenceError("a database server has no file that could be allowed")
        directory = self.database.parent
        if directory in (self.state, *self.state.parents):
            raise SilenceError(f"{self.database}: the database needs a directory apart from the rest of the site")
        return directory


def selftest_rules(release: Path, *, engine: Kind, reads: Iterable[Path], writes: Iterable[Path]) -> tuple[Rule, ...]:
    """What a self-test of one release may use: the release, what an engine of its kind needs of the host, and the
    files named on the command line. Files to be written must exist already."""
    return (
        *reader_rules(), *_rules(READ, release, *reads), *_rules(OVERWRITE, *writes),
        *_hardware(engine, _interpreter()),
    )  # fmt: skip


def reader_rules() -> tuple[Rule, ...]:
    """What a program needs to run at all."""
    return tuple(_common(_interpreter()))


def places_of(config: Config, *, engine: Kind = Kind.ENGINE_CPU) -> Places:
    """The places of a site, for programs of the interpreter that runs now."""
    certificate = (path for path in (config.tls_certificate, config.tls_key) if path is not None)
    return Places(
        _interpreter(), config.release_dir, config.state_dir, config.database_file, engine,
        tuple(directory for path in certificate for directory in _directories_of(path)),
    )  # fmt: skip


def _directories_of(path: Path) -> tuple[Path, ...]:
    """The directories of a file and of its link target. A rule for the file itself would not cover its replacement."""
    return tuple(dict.fromkeys((path.parent, path.resolve().parent)))


def scratch_dir(state: Path, kind: Kind) -> Path:
    """The directory for temporary files of one kind of process. Some kinds have none."""
    return state / "tmp" / kind.value


def file_rules(kind: Kind, places: Places) -> tuple[Rule, ...]:
    """Everything that a process of this kind may use.

    Raises:
        SilenceError: the database has no directory of its own, or the interpreter is no program of this machine.
    """
    if kind is Kind.SUPERVISOR:  # domains nest: it needs the rights of all its programs, and each has a /proc/self
        programs = tuple(rule for other in places.kinds for rule in file_rules(other, places))
        return (*programs, Rule(Path("/proc"), OVERWRITE if places.engine is Kind.ENGINE_CUDA else READ))
    return (*_common(places.interpreter), *_own(kind, places))


def administration_rules(places: Places, *, signs: bool) -> tuple[Rule, ...]:
    """What an administrator's command may use. If it ``signs``, it may also write what a signer writes."""
    rules = file_rules(Kind.ADMINISTRATION, places)
    return (*rules, *_rules(WRITE, *_signing(places))) if signs else rules


def _interpreter() -> Interpreter:
    """The interpreter that runs this process."""
    named = os.environ.get("LD_LIBRARY_PATH", "")
    own = library_path(Kind.WEB, named)
    return Interpreter(Path(sys.executable), (*_code(), *_directories(own)), _directories(named))


def library_path(kind: Kind, named: str) -> str:
    """The part of the caller's ``LD_LIBRARY_PATH`` that a kind of process gets: the engine on CUDA gets all of it. The
    others get only the directory of the interpreter's library, and only if the variable names it."""
    if kind is Kind.ENGINE_CUDA:
        return named
    mapped = {Path(line.split(maxsplit=5)[-1]) for line in Path("/proc/self/maps").read_text().splitlines()}
    own = {path.parent for path in mapped if path.name.startswith("libpython")}
    return ":".join(str(directory) for directory in _directories(named) if directory.resolve() in own)


def _directories(named: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in named.split(":") if part)


def _code() -> tuple[Path, ...]:
    """The standard library with what it links, a virtual environment, and the directories of ``sys.path``, except the
    one that Python puts first by itself. In a checkout only our packages count, because a site may lie in it."""
    own = Path(__file__).parents[1]
    imported = [Path(entry) for entry in sys.path[0 if sys.flags.safe_path else 1 :] if entry]
    if (own.parent / "pyproject.toml").exists():
        ours = [own.parent / room for room in ("appliance", "webui", "installer")]
        imported = [*(path for path in imported if path != own.parent), *ours]
    environment = [Path(sys.prefix)] if sys.prefix != sys.base_prefix else []
    return (Path(os.__file__).parent, Path(sys.base_prefix, "lib"), *environment, *imported)


def _common(interpreter: Interpreter) -> list[Rule]:
    rules = _rules(READ, *map(Path, _HOST), *interpreter.code)
    rules += _rules(Right.READ_DIR, Path(__file__).parents[2])  # Python lists the directories that it imports from
    rules += _rules(RUN, interpreter.program, loader_of(interpreter.program))
    return rules + [Rule(Path(name), rights) for name, rights in _DEVICES.items()]


def _hardware(engine: Kind, interpreter: Interpreter) -> list[Rule]:
    """What an engine needs of the host besides the common rules."""
    rules = _rules(READ, Path("/sys"))  # ONNX Runtime looks for devices there
    if engine is Kind.ENGINE_CUDA:
        rules += _rules(READ, *map(Path, _GPU_READS), *interpreter.libraries)
        rules += _rules(_GPU, *(Path(name) for pattern in _GPU_DEVICES for name in glob.glob(pattern)))
        rules += _rules(OVERWRITE, Path("/proc/self"))
    return rules


def _own(kind: Kind, places: Places) -> list[Rule]:
    state = places.state
    if kind is Kind.READER:  # the code that it runs, to start, and nothing of the site
        return _rules(READ, places.release)
    rules = _rules(READ, places.release, state / "config")
    match kind:
        case Kind.RECORDER:
            rules += _rules(READ, state / "packed")
            rules += _rules(WRITE, places.database_dir, *_signing(places), scratch_dir(state, kind))
        case Kind.WEB:
            rules += _rules(READ, state / "keys", state / "audit", state / "tls", *places.web_reads)
            rules += _rules(WRITE, places.database_dir, scratch_dir(state, kind))
        case Kind.ENGINE_CPU | Kind.ENGINE_CUDA:
            rules += [*_rules(READ, state / "packed"), *_hardware(kind, places.interpreter)]
        case Kind.PACKER:
            rules += _rules(WRITE, state / "packed")
        case Kind.ADMINISTRATION:
            rules += _rules(READ, state / "keys", state / "audit", state / "tls", state / "supervisor.lock")
            rules += _rules(READ, *places.web_reads)
            rules += _rules(WRITE, places.database_dir, scratch_dir(state, kind))
    return rules


def _signing(places: Places) -> tuple[Path, ...]:
    return tuple(places.state / name for name in ("signer", "keys", "audit", "tls"))


def _rules(rights: Right, *paths: Path) -> list[Rule]:
    return [Rule(path, rights) for path in paths]


_PT_INTERP = 3


def loader_of(program: Path) -> Path:
    """The dynamic loader that an ELF program names and the kernel executes with it; the program itself if it is static.

    Raises:
        SilenceError: it cannot be read, or is not a 64-bit ELF program.
    """
    try:
        with program.open("rb") as file:
            header = file.read(64)
            if header[:5] != b"\x7fELF\x02":
                raise SilenceError(f"{program} is not a program of this machine")
            table, size, count = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
            file.seek(table)
            entries = file.read(size * count)
            for start in range(0, size * count, size):
                if struct.unpack_from("<I", entries, start)[0] == _PT_INTERP:
                    offset, length = struct.unpack_from("<Q16xQ", entries, start + 8)
                    file.seek(offset)
                    return Path(os.fsdecode(file.read(length).rstrip(b"\0")))
    except OSError as exc:
        raise SilenceError(f"{program}: cannot be read: {exc.strerror}") from exc
    return program
