"""Why there is no session with the broker, in words an operator can act on: the cause, and the key to look at.

OpenSSL and the sockets tell what they saw; a lab's engineer needs to know which line of the configuration, or which
file, to look at. This room knows errors and reason codes; it opens nothing and decides nothing.
"""

from __future__ import annotations

import socket
import ssl

from monitor.mqtt_login import MqttSettings

NOT_AUTHORIZED = 135

# OpenSSL's X509_V_ERR_*
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNTRUSTED = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)

# what the broker's TLS answers when it asks for a certificate and gets none, or one it does not like
_NEEDS_CERTIFICATE = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")
_DISLIKES_CERTIFICATE = (
    *("TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"),
    *("SSLV3_ALERT_CERTIFICATE_REVOKED", "SSLV3_ALERT_CERTIFICATE_EXPIRED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"),
    *("TLSV1_ALERT_ACCESS_DENIED", "TLSV1_ALERT_DECRYPT_ERROR"),
)

_REMEDIES = {  # reason codes of CONNACK; paho gives those of 3.1.1 the same numbers
    132: "look at mqtt.protocol (5 or 311)",
    133: "it does not like the client id, made of site.name and site.node",
    134: "look at mqtt.username and mqtt.password_file",
    NOT_AUTHORIZED: "look at mqtt.username and mqtt.password_file, and at what the broker allows this user and client",
    138: "the broker has banned this client",
    140: "look at mqtt.username and mqtt.password_file",
}


def refused(reason: str, code: int) -> str:
    """A CONNACK that says no; `reason` is the code's name."""
    remedy = _REMEDIES.get(code)
    return f"the broker refused the connection: {reason} ({code})" + (f"; {remedy}" if remedy else "")


def not_taken(reason: str, code: int) -> str:
    """A PUBACK that says no; `reason` is the code's name."""
    remedy = ": the broker's ACL does not let mqtt.username write there" if code == NOT_AUTHORIZED else ""
    return f"{reason} ({code}){remedy}"


def no_connection(error: BaseException | None, line: MqttSettings) -> str:
    """No line, or no TLS on it: the broker never saw a CONNECT."""
    return f"no connection: {_cause(error, line)}"


def hung_up(error: BaseException | None, line: MqttSettings) -> str:
    """The line went down after CONNECT and before any answer: in TLS 1.3 a client certificate is judged only then."""
    if isinstance(error, ssl.SSLError):
        return no_connection(error, line)
    asked = "is mqtt.port the broker's?" if line.tls else "does this port want TLS (mqtt.tls, mqtt.ca_file, mqtt.port)?"
    return f"the connection ended before the broker answered; {asked}"


def _cause(error: BaseException | None, line: MqttSettings) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error, line)
    if isinstance(error, ssl.SSLError):
        return _tls_fault(error, line)
    if isinstance(error, socket.gaierror):
        return f"mqtt.host = {line.host!r}: {error.strerror}"
    if isinstance(error, TimeoutError):
        return f"no answer from {line.host}:{line.port}; look at mqtt.host, mqtt.port and the firewalls between"
    if isinstance(error, ConnectionResetError) and line.tls:
        return "cut off in the TLS handshake; does this port speak TLS (mqtt.port, mqtt.tls)?"
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return f"{text}; look at mqtt.host and mqtt.port"


def _distrust(error: ssl.SSLCertVerificationError, line: MqttSettings) -> str:
    """We do not believe the broker's certificate."""
    trusted = "the system's authorities (mqtt.ca_file is not set)"
    if line.ca_file is not None:
        trusted = f"mqtt.ca_file = {str(line.ca_file)!r}"
    said = error.verify_message.rstrip(".")
    if error.verify_code in _OTHER_NAME:
        return f"mqtt.host = {line.host!r} is not the name in the broker's certificate ({said})"
    if error.verify_code in _UNTRUSTED:
        return f"the broker's certificate is not signed by {trusted} ({said})"
    if error.verify_code == _EXPIRED:
        return f"the broker's certificate, or its authority's in {trusted}, has expired; renew it on the broker"
    if error.verify_code == _NOT_YET_VALID:
        return "the broker's certificate is not valid yet; look at the clocks of this machine and of the broker"
    return f"the broker's certificate does not verify against {trusted}: {said}"


def _tls_fault(error: ssl.SSLError, line: MqttSettings) -> str:
    """The broker's TLS, or what is no TLS, answered with something else than a handshake."""
    reason = getattr(error, "reason", None) or str(error)
    if reason in _NEEDS_CERTIFICATE and line.cert_file is None:
        return f"the broker demands a client certificate: set mqtt.cert_file and mqtt.key_file ({reason})"
    if reason in (*_NEEDS_CERTIFICATE, *_DISLIKES_CERTIFICATE) and line.cert_file is not None:
        return f"the broker does not accept mqtt.cert_file = {str(line.cert_file)!r} ({reason})"
    return f"TLS failed; does this port speak TLS (mqtt.port, mqtt.tls)? ({reason})"
