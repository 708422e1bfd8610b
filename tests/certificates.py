"""A certificate authority of the test's own, made with the `openssl` command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine (apt install openssl)")

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM files."""

    cert_file: Path
    key_file: Path


class Authority:
    """Signs certificates; its own is in `ca_file`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder / name, name
        self._folder.mkdir(parents=True)
        self.ca_file = self._folder / "ca.crt"
        self._key_file = self._folder / "ca.key"
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", "-days", "30"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-keyout", self._key_file, "-out", self.ca_file),
        )

    def issue(self, name: str, hosts: str = "IP:127.0.0.1,DNS:localhost", days: int = 30) -> Certificate:
        """A certificate for `hosts` (an X.509 subjectAltName); one of -1 `days` has expired."""
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request, names = self._folder / f"{name}.csr", self._folder / f"{name}.names"
        names.write_text(f"subjectAltName={hosts}\n")
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", made.key_file, "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", self._key_file, "-CAcreateserial"),
            *("-days", str(days), "-extfile", names, "-out", made.cert_file),
        )
        return made


def _openssl(*arguments: object) -> None:
    assert OPENSSL is not None
    done = subprocess.run([OPENSSL, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
