"""One connection to a mail server: `smtplib` under a deadline that holds whatever the server does."""

from __future__ import annotations

import io
import smtplib
import socket
import ssl
import time
from typing import TYPE_CHECKING

from plugins.channels.email.addresses import Server
from plugins.channels.email.troubles import NotTold, Step, refused, trouble

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_S = 10.0
ADDRESSES = 4
"""How many addresses of a host are tried."""
MAX_BYTES = 256 * 1024
"""More than that no server has to say about one message."""
_GOODBYE_S = 2.0


class _Answers(io.RawIOBase):
    """What the server says, read under the session's deadline: a server that drips cannot prolong it."""

    def __init__(self, session: Session, sock: socket.socket) -> None:
        self._session, self._sock = session, sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._sock.settimeout(self._session.left_s())
        count = self._sock.recv_into(buffer)
        self._session.heard(count)
        return count


class Session(smtplib.SMTP):
    """A session with a server that is ready to take a message. `Trouble` says why there is none; then nothing was sent."""

    def __init__(self, server: Server, hello: str, timeout_s: float) -> None:
        self._server = server
        self._until = time.monotonic() + timeout_s
        self._room = MAX_BYTES
        step = Step.CONNECT
        try:
            # It calls `connect`, and reads the greeting.
            super().__init__(server.host, server.port, local_hostname=hello)
            self.ehlo_or_helo_if_needed()
            if server.security == "starttls":
                step = Step.TLS
                self.starttls(context=ssl.create_default_context())
                self.ehlo_or_helo_if_needed()
            if server.user:
                step = Step.LOGIN
                self.login(server.user, server.password)
        except (OSError, UnicodeError) as exc:
            # smtplib's own exceptions are OSErrors, too.
            self.close()
            raise trouble(exc, step, server.host) from exc

    # -- under the deadline ----------------------------------------------------------------------------------------
    def left_s(self) -> float:
        """Seconds that are left; `TimeoutError` if there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this message is over")
        return left

    def heard(self, count: int) -> None:
        """Count what the server said; `OSError` when it is more than it can have to say."""
        self._room -= count
        if self._room < 0:
            raise OSError("the server says more than it can have to say")

    def connect(self, host: str = "", port: int = 0, source_address: object = None) -> tuple[int, bytes]:  # noqa: ARG002
        self.sock = self._open(host, port)
        self.file = None
        return self.getreply()

    def _open(self, host: str, port: int) -> socket.socket:
        failed: OSError | None = None
        for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:ADDRESSES]:
            try:
                sock = socket.create_connection((str(place[0]), port), min(CONNECT_S, self.left_s()))
            except OSError as exc:
                failed = exc
                continue
            if self._server.security != "tls":
                return sock
            try:
                sock.settimeout(self.left_s())
                return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
            except BaseException:
                sock.close()
                raise
        raise failed or OSError("the host has no address")

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = io.BufferedReader(_Answers(self, self.sock))
        return super().getreply()

    def send(self, s: object) -> None:
        if self.sock is not None:
            # It counts for all of the bytes, however many pieces they go in.
            self.sock.settimeout(self.left_s())
        super().send(s)  # type: ignore[arg-type]

    # -- a message -------------------------------------------------------------------------------------------------
    def hand_over(self, sender: str, recipient: str, data: bytes) -> None:
        """Hand a message over. `Trouble` if the server certainly does not have it, `NotTold` if it may."""
        step = Step.SENDER
        try:
            self._expect(step, self.mail(sender), 250)
            step = Step.RECIPIENT
            self._expect(step, self.rcpt(recipient), 250, 251, 252)
            step = Step.MESSAGE
            self._expect(step, self.docmd("DATA"), 354)
            self.send(data)
        except OSError as exc:
            raise trouble(exc, step, self._server.host) from exc
        # A message without its last line is none: only from here on may the server have it.
        try:
            self.send(b".\r\n")
            code, words = self.getreply()
        except OSError as exc:
            raise NotTold from exc
        if not 200 <= code < 600 or 300 <= code < 400:
            raise NotTold
        self._expect(step, (code, words), *range(200, 300))

    @staticmethod
    def _expect(step: Step, reply: tuple[int, bytes], *codes: int) -> None:
        if reply[0] not in codes:
            raise refused(step, *reply)

    def leave(self) -> None:
        """Say goodbye, and do not wait long for the answer."""
        self._until = min(self._until, time.monotonic() + _GOODBYE_S)
        try:
            self.quit()
        except OSError:
            # What was to be told is told.
            self.close()
