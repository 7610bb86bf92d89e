"""The site's own authority, and one sentence for every fault of a certificate."""

from __future__ import annotations

import base64
import os
import random
import shutil
import ssl
import subprocess
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from appliance.authority import keep_certificate, names_of
from appliance.certificates import CertificateError, load_pair
from appliance.config import Config, ConfigError, init_state, load_config, parse_config
from appliance.transport import (
    CertificateFiles,
    Transport,
    authority_certificate,
    certificate_files,
    local_files,
    pem_fingerprint,
    transport_of,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    init_state(tmp_path)
    return replace(load_config(tmp_path), tls_names=("chat.example", "10.0.0.7"), listen_host="0.0.0.0")  # noqa: S104


def test_the_first_start_makes_an_authority_and_a_certificate_for_every_name(config: Config) -> None:
    made = keep_certificate(config, NOW, "Box")
    assert set(made.names) == {"box", "chat.example", "10.0.0.7", "localhost", "127.0.0.1", "::1"}
    assert made.problem(NOW) is None
    assert timedelta(days=390) < made.ends - NOW < timedelta(days=398)
    for path in (local_files(config).key, config.signer_dir / "tls-authority.key"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_openssl_accepts_the_chain_and_the_names(config: Config) -> None:
    keep_certificate(config, datetime.now(UTC), "box")
    command = [
        "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "chat.example",
        "-CAfile", str(authority_certificate(config)), str(local_files(config).certificate),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_authority_can_sign_no_further_authority(config: Config) -> None:
    keep_certificate(config, NOW, "box")
    authority = x509.load_pem_x509_certificate(authority_certificate(config).read_bytes())
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert (limits.value.ca, limits.value.path_length) == (True, 0)


def test_the_fingerprint_is_the_one_that_openssl_shows(config: Config) -> None:
    keep_certificate(config, NOW, "box")
    path = authority_certificate(config)
    command = ["openssl", "x509", "-in", str(path), "-noout", "-fingerprint", "-sha256"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert shown.partition("=")[2] == pem_fingerprint(path.read_text())


def test_the_certificate_stays_until_thirty_days_before_its_end_and_the_authority_longer(config: Config) -> None:
    first = keep_certificate(config, NOW, "box")
    authority = authority_certificate(config).read_bytes()
    assert keep_certificate(config, first.ends - timedelta(days=31), "box") == first
    renewed = keep_certificate(config, first.ends - timedelta(days=29), "box")
    assert renewed.ends > first.ends
    assert authority_certificate(config).read_bytes() == authority


def test_a_new_name_makes_a_new_certificate(config: Config) -> None:
    first = keep_certificate(config, NOW, "box")
    second = keep_certificate(replace(config, tls_names=("other.example",)), NOW, "box")
    assert second.fingerprint != first.fingerprint
    assert "other.example" in second.names


def test_a_stop_between_key_and_certificate_is_mended(config: Config) -> None:
    keep_certificate(config, NOW, "box")
    shutil.copy(config.signer_dir / "tls-authority.key", local_files(config).key)
    with pytest.raises(CertificateError, match="does not belong"):
        load_pair(local_files(config))
    keep_certificate(config, NOW, "box")
    load_pair(local_files(config))


def test_an_authority_without_its_key_is_not_replaced_silently(config: Config) -> None:
    keep_certificate(config, NOW, "box")
    (config.signer_dir / "tls-authority.key").unlink()
    local_files(config).certificate.unlink()
    with pytest.raises(CertificateError, match=r"tls-authority\.key or .* cannot be read"):
        keep_certificate(config, NOW, "box")
    shutil.copy(local_files(config).key, config.signer_dir / "tls-authority.key")
    with pytest.raises(CertificateError, match="bring the right key back"):
        keep_certificate(config, NOW, "box")


def _no_certificate(files: CertificateFiles) -> None:
    files.certificate.unlink()


def _no_pem(files: CertificateFiles) -> None:
    files.certificate.write_text("hello")


def _open_key(files: CertificateFiles) -> None:
    files.key.chmod(0o644)


def _no_key(files: CertificateFiles) -> None:
    files.key.write_text("hello")


def _encrypted_key(files: CertificateFiles) -> None:
    command = ["openssl", "pkcs8", "-topk8", "-in", str(files.key), "-passout", "pass:x", "-out", f"{files.key}.new"]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(f"{files.key}.new", files.key)
    files.key.chmod(0o600)


def _other_key(files: CertificateFiles) -> None:
    files.key.write_bytes((files.key.parents[1] / "signer" / "tls-authority.key").read_bytes())


def _wrong_order(files: CertificateFiles) -> None:
    authority = files.certificate.with_name("authority.pem").read_bytes()
    files.certificate.write_bytes(authority + files.certificate.read_bytes())


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_no_certificate, r"server\.pem: cannot be read: No such file"),
        (_no_pem, r"server\.pem holds no certificate in PEM form"),
        (_open_key, r"server\.key is open to every user of this host; close it with: chmod 600"),
        (_no_key, r"server\.key is not a private key in PEM form"),
        (_encrypted_key, r"server\.key has a passphrase, which nobody can type here; remove it with: openssl pkey"),
        (_other_key, r"server\.key does not belong to the first certificate in .*server\.pem"),
        (_wrong_order, r"server\.key does not belong to the first certificate in .*its issuers after it"),
    ],
)  # fmt: skip
def test_refuses(config: Config, damage: Callable[[CertificateFiles], None], sentence: str) -> None:
    keep_certificate(config, NOW, "box")
    damage(local_files(config))
    with pytest.raises(CertificateError, match=sentence):
        load_pair(local_files(config))


def test_the_end_is_said_thirty_days_ahead(config: Config) -> None:
    made = keep_certificate(config, NOW, "box")
    assert made.problem(made.ends - timedelta(days=31)) is None
    assert "in 29 days" in str(made.problem(made.ends - timedelta(days=29, hours=12)))
    assert "expired on" in str(made.problem(made.ends))
    assert "is the clock right?" in str(made.problem(datetime(1970, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("host", "changes", "transport"),
    [
        ("127.0.0.1", {}, Transport.LOOPBACK),
        ("127.9.9.9", {}, Transport.LOOPBACK),
        ("::1", {}, Transport.LOOPBACK),
        ("::ffff:127.0.0.1", {}, Transport.LOOPBACK),
        (None, {}, Transport.LOOPBACK),
        ("0.0.0.0", {}, Transport.LOCAL_AUTHORITY),  # noqa: S104
        ("::", {}, Transport.LOCAL_AUTHORITY),
        ("10.0.0.7", {}, Transport.LOCAL_AUTHORITY),
        ("10.0.0.7", {"tls_plain_http": True}, Transport.PLAIN),
        ("127.0.0.1", {"tls_plain_http": True}, Transport.LOOPBACK),
        ("10.0.0.7", {"tls_certificate": Path("/c"), "tls_key": Path("/k")}, Transport.CERTIFICATE),
        ("127.0.0.1", {"tls_certificate": Path("/c"), "tls_key": Path("/k")}, Transport.CERTIFICATE),
    ],
)  # fmt: skip
def test_a_network_has_tls_unless_plain_http_is_typed(
    config: Config, host: str | None, changes: dict[str, object], transport: Transport
) -> None:
    changed = replace(config, **changes)  # type: ignore[arg-type]
    assert transport_of(changed, host) is transport
    assert (certificate_files(changed, transport) is None) == (transport in (Transport.LOOPBACK, Transport.PLAIN))


def test_a_certificate_below_state_is_found(tmp_path: Path) -> None:
    init_state(tmp_path)
    text = '[tls]\ncertificate = "tls/mine.pem"\nkey = "/etc/ssl/mine.key"\n'
    (tmp_path / "state" / "config" / "appliance.toml").write_text(text)
    config = load_config(tmp_path)
    assert (config.tls_certificate, config.tls_key) == (tmp_path / "state/tls/mine.pem", Path("/etc/ssl/mine.key"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[tls]\ncertificate = "a"\n', "tls.certificate and tls.key go together"),
        ('[tls]\nkey = "a"\n', "tls.certificate and tls.key go together"),
        ('[tls]\ncertificate = "a"\nkey = "b"\nplain_http = true\n', "contradict each other"),
        ('[tls]\nplain_http = "yes"\n', "tls.plain_http must be true or false"),
        ('[tls]\nnames = ["a b"]\n', "tls.names must be a list of at most 50 host names"),
        ('[proxy]\ntrusted = "10.0.0.5"\n', "proxy.trusted must be a list of IP addresses and networks"),
        ('[proxy]\ntrusted = ["10.0.0.5/8"]\n', "proxy.trusted must be a list of IP addresses and networks"),
        ('[proxy]\ntrusted = [5]\n', "proxy.trusted must be a list of IP addresses and networks"),
        ('[proxy]\nheaders = "all"\n', 'proxy.headers must be "any", "x-forwarded" or "forwarded"'),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_config(text, Path("/site"))


def test_names_begin_with_the_host_and_hold_no_wildcard_address(config: Config) -> None:
    assert names_of(config, "Box")[0] == "box"
    assert config.listen_host not in names_of(config, "Box")
    assert "10.9.9.9" in names_of(replace(config, listen_host="10.9.9.9"), "Box")


def test_the_pair_loads_into_openssl(config: Config) -> None:
    keep_certificate(config, NOW, "box")
    files = local_files(config)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def _with_other_bytes(pem: str, dice: random.Random) -> str:
    """The first block of a PEM file, still PEM, with a few bytes of its contents changed."""
    first, _, rest = pem.partition("\n")
    body, _, last = rest.partition("-----END")
    der = bytearray(base64.b64decode(body))
    for _ in range(dice.choice((1, 2, 5))):
        der[dice.randrange(len(der))] = dice.randrange(256)
    lines = textwrap.fill(base64.b64encode(der).decode(), 64)
    return f"{first}\n{lines}\n-----END{last.partition(chr(10))[0]}\n"


@pytest.mark.filterwarnings("ignore")  # the parser warns about what it reads all the same
@pytest.mark.parametrize("damaged", ["certificate", "key"])
def test_whatever_lies_in_the_files_is_one_error(config: Config, damaged: str) -> None:
    """The parser has errors of many kinds. An unforeseen one would be a page that fails, or a traceback."""
    keep_certificate(config, datetime.now(UTC), "box")
    files = local_files(config)
    path: Path = getattr(files, damaged)
    whole, dice, refused = path.read_text(), random.Random(11), 0
    for _ in range(1500):
        path.write_text(_with_other_bytes(whole, dice))
        with suppress(CertificateError):
            load_pair(files)
            continue
        refused += 1
    assert refused > 300
