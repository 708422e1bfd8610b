"""What an operator set about the broker, and the files that let us in: password, authorities, certificate and key.

Each is read when asked for, so that what was put right or renewed on disk holds from the next session. A file that
cannot be used is a ValueError that names its key. It opens no line to anybody.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol


class MqttSettings(Protocol):
    """What an operator sets about the broker; `protocol` is 5 or 311."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def username(self) -> str | None: ...
    @property
    def password_file(self) -> Path | None: ...
    @property
    def tls(self) -> bool | None: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def keepalive_s(self) -> int: ...
    @property
    def max_inflight(self) -> int: ...


def check_host(host: str) -> None:
    """Raises ValueError for a name no resolver can be asked for; it would kill paho's thread without a word."""
    try:
        host.encode("idna")
    except UnicodeError as fault:
        raise ValueError(f"mqtt.host = {host!r}: it cannot be a host's name ({fault})") from fault


def read_password(path: Path | None) -> str | None:
    """The password in the file, without the newline editors put at its end; raises ValueError naming the key."""
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except OSError as fault:
        raise ValueError(f"mqtt.password_file = {str(path)!r}: {fault.strerror}") from fault
    except UnicodeDecodeError:
        raise ValueError(f"mqtt.password_file = {str(path)!r}: it is no text in UTF-8") from None  # shows no byte of it


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """A context that checks the broker's name against `ca_file`, or the system's authorities.

    Raises ValueError naming the key of a file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as fault:  # also ssl.SSLError
        raise ValueError(f"mqtt.ca_file = {str(settings.ca_file)!r}: {_file_fault(fault, 'certificates')}") from fault
    if settings.cert_file is not None:
        pair = f"mqtt.cert_file = {str(settings.cert_file)!r}, mqtt.key_file = {_name(settings.key_file)}"
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file, _no_passphrase)
        except OSError as fault:
            raise ValueError(f"{pair}: {_file_fault(fault, 'a certificate and the key that belongs to it')}") from fault
    return context


def _no_passphrase() -> str:
    """OpenSSL would ask at the terminal and wait."""
    raise ValueError("mqtt.key_file is encrypted; a daemon has nobody to ask: give it a key without a passphrase")


def _name(path: Path | None) -> str:
    return "not set" if path is None else repr(str(path))


def _file_fault(fault: OSError, wanted: str) -> str:
    """OpenSSL names no file, and calls most things PEM."""
    if isinstance(fault, ssl.SSLError):
        return f"it does not hold {wanted} in PEM ({fault.reason or fault})"
    return str(fault.strerror)
