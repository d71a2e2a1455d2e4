"""pyd-keeper: the process that holds every container's stdio, so that nothing is lost when others die.

Model
    It listens at `exec_root/keeper.sock`. The supervisor hands it the parent's ends of each process'
    stdio (`stdio`), its pidfd, asks it to `drain` and `release` after an exit. The daemon hands it clients'
    connections (`attach`), also before the start, or held back until it has replayed a log (`let_loose`).
    It copies output to log files and clients, and clients' input to stdin (stdio.py, attach.py); one thread,
    no timers for idle containers.

Who survives whom
    daemon or supervisor killed   the keeper goes on; a new supervisor says `hello` with role "supervisor"
                                  and gets duplicates of everything (`held` events, then the reply)
    keeper killed                 the supervisor starts another with the listening socket and the journal it
                                  keeps duplicates of, and hands over its duplicates of the stdio: logs go on
                                  without a gap (journal.py), attached clients are dropped

Run as `python -I -S keeper.py --socket PATH --listen-fd N [--journal-fd N]`. The standard library only,
and little of it.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from daemon.runtime import protocol
from daemon.runtime.journal import Journal
from daemon.runtime.logfile import LogError
from daemon.runtime.loop import Loop
from daemon.runtime.server import RequestError, Server
from daemon.runtime.stdio import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.attach import Client
    from daemon.runtime.protocol import Connection, Message
    from daemon.runtime.stdio import Key

FORGOTTEN_SECONDS = 10.0
DRAIN_SECONDS = 2.0
"""How long an exit waits for output that other processes hold open; containerd's shim waits as long."""


def key_of(message: Message) -> Key:
    return message["id"], message.get("exec_id")


class Keeper:
    def __init__(self, listener: socket.socket, journal: Journal) -> None:
        self.loop = Loop()
        self.journal = journal
        self.processes: dict[Key, Process] = {}
        self._held: dict[int, tuple[Connection, Process, Client]] = {}
        self._held_clients = 0
        self._server = Server(self.loop, listener, self._serve)
        self._server.on_lost = self._lost
        self._sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def run(self) -> None:
        self.loop.run()

    # -- requests ----------------------------------------------------------------------------------------

    def _serve(self, connection: Connection, message: Message, fds: list[int]) -> None:
        seq = message.get("seq")
        try:
            operation = getattr(self, f"_do_{message.get('op')}", None)
            if operation is None:
                protocol.close_all(fds)
                raise RequestError("refused", f"unknown operation {message.get('op')!r}")
            reply = operation(connection, message, fds)
        except RequestError as error:
            reply = error.reply()
        except (KeyError, TypeError, ValueError, OSError) as error:
            reply = {"error": {"kind": "internal", "message": f"{type(error).__name__}: {error}"}}
        if seq is not None and reply is not None:
            self._server.send(connection, {"seq": seq, **reply})

    def _do_hello(self, connection: Connection, message: Message, fds: list[int]) -> Message | None:
        if message.get("role") != "supervisor":
            return {"pid": os.getpid()}
        connection.data = "supervisor"
        for process in self.processes.values():
            if process.description is not None:
                names, held = process.descriptors()
                self._server.send(connection, {"event": "held", **process.description, "names": names}, held)
        reply = {"seq": message["seq"], "pid": os.getpid()}
        self._server.send(connection, reply, [self.journal.fd, self._server.listener.fileno()])
        return None

    def _process(self, key: Key) -> Process:
        process = self.processes.get(key)
        if process is None:
            process = Process(
                key, self.loop, self.journal, self._sink, self._detached, self._stdin_closed, self._idle
            )
            self.processes[key] = process
        return process

    def _do_stdio(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        description = {
            name: message[name] for name in ("id", "exec_id", "tty", "closes_stdin", "log", "names")
        }
        description["slots"] = message.get("slots") or {}
        process = self._process(key_of(message))
        if process.description is not None:
            protocol.close_all(fds)
            raise RequestError("refused", f"the stdio of {message['id']} is held already")
        try:
            process.adopt(description, fds, recover=bool(message.get("recover")))
        except LogError as error:
            protocol.close_all(fds)
            raise RequestError("launch", f"failed to initialize logging driver: {error}") from None
        return {"slots": description["slots"]}

    def _do_pidfd(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        process = self.processes.get(key_of(message))
        if process is None:
            protocol.close_all(fds)
        else:
            process.note_pidfd(fds[0])
        return {}

    def _do_attach(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        if len(fds) != 1:
            protocol.close_all(fds)
            raise RequestError("refused", "attach needs one descriptor")
        process = self._process(key_of(message))
        try:
            client = process.attach(fds[0], message)
        except OSError:
            protocol.close_all(fds)
            raise
        if not client.held:
            return {}
        self._held_clients += 1
        self._held[self._held_clients] = (connection, process, client)
        return {"held": self._held_clients, **process.hold(client, message["replay"])}

    def _do_let_loose(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        """The log is replayed up to where `attach` said; with `drop` the client is gone meanwhile."""
        held = self._held.pop(message["held"], None)
        if held is not None and held[0] is connection:
            held[1].let_loose(held[2], drop=bool(message.get("drop")))
        return {}

    def _do_drain(self, connection: Connection, message: Message, fds: list[int]) -> Message | None:
        process = self.processes.get(key_of(message))
        if process is None or process.description is None:
            return {}
        timer = self.loop.later(DRAIN_SECONDS, process.give_up_draining)

        def done() -> None:
            timer.cancel()
            self._server.send(connection, {"seq": message["seq"]})

        process.drain(done)
        return None

    def _do_release(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        process = self.processes.get(key_of(message))
        if process is not None and process.description is not None:
            del self.processes[key_of(message)]
            process.release()
        return {}

    def _do_forget(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        """Drops a process that never started, with the clients that wait for it; all of a container's
        with `all`. With `hand_back` only our copies of the connections are closed: the daemon, which has
        its own until it has answered, goes on with them."""
        wanted = key_of(message)
        for key in [k for k in self.processes if k == wanted or (message.get("all") and k[0] == wanted[0])]:
            self.processes.pop(key).discard(hand_back=bool(message.get("hand_back")))
        return {}

    def _do_shutdown(self, connection: Connection, message: Message, fds: list[int]) -> Message:
        self.loop.defer(self.loop.stop)
        return {}

    # -- what happens to others ----------------------------------------------------------------------------

    def _lost(self, connection: Connection) -> None:
        """Without containers a keeper whose supervisor does not come back is of no use. And what a daemon
        began to replay, no other goes on with."""
        for number, (owner, process, client) in list(self._held.items()):
            if owner is connection:
                del self._held[number]
                process.let_loose(client, drop=True)
        if connection.data == "supervisor" and not self.processes:
            self.loop.later(FORGOTTEN_SECONDS, self._exit_if_forgotten)

    def _exit_if_forgotten(self) -> None:
        if not self.processes and not self._server.connected("supervisor"):
            self.loop.stop()

    # -- what processes report -----------------------------------------------------------------------------

    def _detached(self, process: Process) -> None:
        self._server.publish("daemon", {"event": "detach", "id": process.key[0], "exec_id": process.key[1]})

    def _stdin_closed(self, process: Process) -> None:
        """The supervisor has a duplicate, which must go for the container to see the end."""
        self._server.publish(
            "supervisor", {"event": "stdin_closed", "id": process.key[0], "exec_id": process.key[1]}
        )

    def _idle(self, process: Process) -> None:
        """The last client that waited for a start is gone."""
        if self.processes.get(process.key) is process:
            del self.processes[process.key]


def option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def raise_descriptor_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: list[str]) -> None:
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise_descriptor_limit()
    inherited = [int(option(arguments, name) or -1) for name in ("--listen-fd", "--journal-fd")]
    for fd in inherited:
        if fd >= 0:
            os.set_inheritable(fd, False)
    listener = socket.socket(fileno=inherited[0])
    listener.setblocking(False)
    Keeper(listener, Journal(inherited[1] if inherited[1] >= 0 else None)).run()


if __name__ == "__main__":
    import gc

    gc.collect()
    gc.freeze()
    main(sys.argv[1:])
