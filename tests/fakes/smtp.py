"""A mail server on 127.0.0.1 that keeps what it is given, knows STARTTLS and signing in, and fails at will.

    with FakeSmtp() as mail:
        mail.faults.append(SmtpFault("RCPT", reply="450 4.2.1 Try later"))
        …                                              # refused for the moment
        assert mail.letters == []

It speaks as much of RFC 5321, 3207 and 4954 as a client needs, written apart from `smtplib`. Faults are consumed one per
command that they are about, oldest first.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import socket
import socketserver
import ssl
import threading
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "bot", "correct horse"
_LONGEST_LINE = 1000


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that was taken: its envelope, and its bytes as the recipient gets them."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes

    @property
    def message(self) -> EmailMessage:
        """The message as a mail program reads it."""
        return message_from_bytes(self.data, policy=default)

    @property
    def text(self) -> str:
        """Its text, with the line ends of this system."""
        return str(self.message.get_content()).replace("\r\n", "\n")


@dataclass(frozen=True, slots=True)
class SmtpFault:
    """How the answer to one command goes wrong. `at` is the command's word; `CONNECT` is the greeting, `END` the dot that
    ends a message.

    `reply` is sent in the place of the usual answer, and the command has no effect; a 421 hangs up. `drop` hangs up without
    an answer, `silent` says nothing more. `taken` with `END`: the message is taken all the same. `drip` sends the reply in
    single bytes, with pauses of `drip_s`.
    """

    at: str
    reply: str = ""
    drop: bool = False
    silent: bool = False
    taken: bool = False
    drip_s: float = 0.0


class FakeSmtp:
    """A mail server. `tls` is `none`, `starttls` or `tls`; certificates are made by `make_certificate`."""

    def __init__(self, *, tls: str = "none", certificate: Path | None = None, auth: tuple[str, ...] = ()) -> None:
        self.tls, self.auth = tls, auth
        self.letters: list[Letter] = []
        self.faults: list[SmtpFault] = []
        self.commands: list[str] = []
        """What clients said, line by line; of sign-ins the command alone."""
        self.secured = 0
        """How many connections were made secure."""
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        self._server = _Server(("127.0.0.1", 0), _Session)
        self._server.fake = self
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def url(self, query: str = "", *, signed_in: bool = False, host: str = "127.0.0.1") -> str:
        """The `SMTP_URL` of this server."""
        scheme = "smtps" if self.tls == "tls" else "smtp"
        who = f"{USER}:{PASSWORD.replace(' ', '%20')}@" if signed_in else ""
        return f"{scheme}://{who}{host}:{self.port}{query}"

    def fault(self, at: str) -> SmtpFault | None:
        """The next fault about this command, used up."""
        with self.lock:
            for position, fault in enumerate(self.faults):
                if fault.at == at:
                    return self.faults.pop(position)
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    # Closing waits for the threads: none outlives its test.
    block_on_close = True
    fake: FakeSmtp

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is what tests are about."""


class _HungUp(Exception):
    """The connection is over."""


@dataclass(slots=True)
class _Envelope:
    sender: str = ""
    recipients: list[str] = field(default_factory=list)


class _Session(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        self.fake = self.server.fake
        self.sock = self.request
        self.sock.settimeout(10)
        self.secure = self.signed_in = False
        self.envelope = _Envelope()
        with contextlib.suppress(_HungUp, OSError):
            if self.fake.tls == "tls":
                self._secure()
            self.reader = self.sock.makefile("rb")
            if self._fine("CONNECT"):
                self._say("220 fake.example.com ESMTP")
            while True:
                self._command(self._line().decode("utf-8", "replace").rstrip("\r\n"))

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    # -- commands --------------------------------------------------------------------------------------------------
    def _command(self, line: str) -> None:
        word = line.partition(" ")[0].upper()
        with self.fake.lock:
            self.fake.commands.append(word if word == "AUTH" else line)
        if not self._fine(word):
            return
        handler = getattr(self, f"_do_{word.lower()}", None)
        if handler is None:
            self._say("500 5.5.1 Unknown command")
        else:
            handler(line.partition(" ")[2])

    def _do_ehlo(self, _name: str) -> None:
        offers = ["fake.example.com", "SIZE 1000000", "8BITMIME"]
        if self.fake.tls == "starttls" and not self.secure:
            offers.append("STARTTLS")
        if self.fake.auth and (self.secure or self.fake.tls == "none"):
            offers.append("AUTH " + " ".join(self.fake.auth))
        for offer in offers[:-1]:
            self._say("250-" + offer)
        self._say("250 " + offers[-1])

    def _do_helo(self, _name: str) -> None:
        self._say("250 fake.example.com")

    def _do_starttls(self, _rest: str) -> None:
        if self.fake.tls != "starttls" or self.secure:
            self._say("502 5.5.1 Not offered")
            return
        self._say("220 2.0.0 Go ahead")
        self._secure()
        self.reader = self.sock.makefile("rb")

    def _secure(self) -> None:
        assert self.fake.context is not None
        self.sock = self.fake.context.wrap_socket(self.sock, server_side=True)
        self.secure = True
        self.fake.secured += 1

    def _do_auth(self, rest: str) -> None:
        method, _, first = rest.partition(" ")
        if method.upper() not in self.fake.auth:
            self._say("504 5.5.4 Unknown mechanism")
            return
        if method.upper() == "PLAIN":
            given = base64.b64decode(first or self._ask("")).decode().split("\0")[1:]
        else:
            user = base64.b64decode(first or self._ask("Username:")).decode()
            given = [user, base64.b64decode(self._ask("Password:")).decode()]
        self.signed_in = given == [USER, PASSWORD]
        self._say("235 2.7.0 Welcome" if self.signed_in else f"535 5.7.8 No, {given[0]}, that is not your password")

    def _ask(self, what: str) -> str:
        self._say("334 " + base64.b64encode(what.encode()).decode())
        return self._line().decode().strip()

    def _do_mail(self, rest: str) -> None:
        if self.fake.auth and not self.signed_in:
            self._say("530 5.7.0 Sign in first")
            return
        self.envelope = _Envelope(_path(rest, "FROM:"))
        self._say("250 2.1.0 Sender ok")

    def _do_rcpt(self, rest: str) -> None:
        self.envelope.recipients.append(_path(rest, "TO:"))
        self._say("250 2.1.5 Recipient ok")

    def _do_data(self, _rest: str) -> None:
        if not self.envelope.recipients:
            self._say("503 5.5.1 No recipients")
            return
        self._say("354 Go on")
        pieces = []
        while (line := self._line()) != b".\r\n":
            assert len(line) <= _LONGEST_LINE, "a line longer than RFC 5321 allows"
            assert line.endswith(b"\r\n"), "a line without CRLF"
            pieces.append(line.removeprefix(b"."))
        letter = Letter(self.envelope.sender, tuple(self.envelope.recipients), b"".join(pieces))
        self._do_end(letter)

    def _do_end(self, letter: Letter) -> None:
        fault = next((each for each in self.fake.faults if each.at == "END"), None)
        if fault is None or fault.taken:
            with self.fake.lock:
                self.fake.letters.append(letter)
        if self._fine("END"):
            self._say("250 2.0.0 Taken")

    def _do_rset(self, _rest: str) -> None:
        self.envelope = _Envelope()
        self._say("250 2.0.0 Ok")

    def _do_noop(self, _rest: str) -> None:
        self._say("250 2.0.0 Ok")

    def _do_quit(self, _rest: str) -> None:
        self._say("221 2.0.0 Bye")
        raise _HungUp

    # -- lines -----------------------------------------------------------------------------------------------------
    def _fine(self, at: str) -> bool:
        """Whether a command is to be answered as usual; else its fault has been."""
        fault = self.fake.fault(at)
        if fault is None:
            return True
        if fault.silent:
            self._wait_for_hang_up()
        if fault.drop:
            raise _HungUp
        if fault.drip_s:
            self._drip(fault)
        self._say(fault.reply)
        if fault.reply.startswith("421"):
            raise _HungUp
        return False

    def _drip(self, fault: SmtpFault) -> None:
        for byte in f"{fault.reply[:3]}-".encode() + b"x" * 500:
            self.sock.sendall(bytes([byte]))
            if self.fake.stopping.wait(fault.drip_s):
                raise _HungUp

    def _wait_for_hang_up(self) -> None:
        self.sock.settimeout(0.05)
        while not self.fake.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.sock.recv(1):
                    break
        raise _HungUp

    def _line(self) -> bytes:
        line = self.reader.readline()
        if not line:
            raise _HungUp
        return line

    def _say(self, line: str) -> None:
        self.sock.sendall(line.encode() + b"\r\n")


def _path(rest: str, before: str) -> str:
    """The address in `FROM:<…>` or `TO:<…>`."""
    assert rest.upper().startswith(before), rest
    return rest[len(before) :].strip().partition(">")[0].removeprefix("<")


def make_certificate(folder: Path, *names: str) -> Path:
    """A certificate for these hosts, signed by itself, and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake mail server")])
    at = datetime.datetime.now(datetime.UTC)
    alternatives = [_host_name(host) for host in names]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - datetime.timedelta(hours=1))
        .not_valid_after(at + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / f"{'-'.join(names) or 'nobody'}.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
