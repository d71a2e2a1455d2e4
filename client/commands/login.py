"""`pyd login` and `pyd logout`: credentials, checked by the daemon and kept in docker's configuration file."""

from __future__ import annotations

import sys

from client.config import HUB, Credentials, bare_host
from client.errors import ApiError, ClientError
from client.options import Command, Parsed
from client.session import Session, say, warn
from client.terminal import is_terminal

FLAGS = """
p|password|string||Password or token
 |password-stdin|bool||Take the password from stdin
u|username|string||User name
"""


def server_of(arguments: list[str]) -> str:
    """The key under which a registry's credentials are kept."""
    if not arguments or arguments[0] in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        return HUB
    return arguments[0] if arguments[0] == HUB else bare_host(arguments[0])


def _read_password(parsed: Parsed) -> str:
    user, password = parsed.text("username"), parsed.text("password")
    if password:
        if parsed.on("password-stdin"):
            raise ClientError("--password and --password-stdin are mutually exclusive")
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if parsed.on("password-stdin"):
        if not user:
            raise ClientError("Must provide --username with --password-stdin")
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    return password


def _ask(user: str, password: str, known: str) -> tuple[str, str]:
    """Ask for what is missing, on a terminal only."""
    if user and password:
        return user, password
    if not is_terminal(0):
        raise ClientError("Error: Cannot perform an interactive login from a non TTY device")
    import getpass

    if not user:
        user = input(f"Username ({known}): " if known else "Username: ").strip() or known
    if not user:
        raise ClientError("Error: Non-null Username Required")
    password = password or getpass.getpass("Password: ")
    if not password:
        raise ClientError("Error: Password Required")
    return user, password


def login(session: Session, parsed: Parsed) -> int:
    server = server_of(parsed.arguments)
    user, password = parsed.text("username"), _read_password(parsed)
    known = session.config.find(server)
    if not user and not password and (known.username or known.identity_token):
        try:
            return _check(session, known, parsed, "Authenticating with existing credentials...")
        except ApiError:
            warn("Login did not succeed, error: the stored credentials were refused")
    user, password = _ask(user, password, known.username)
    return _check(session, Credentials(server, user, password), parsed, "")


def _check(session: Session, found: Credentials, parsed: Parsed, note: str) -> int:
    if note:
        say(note)
    body = {"username": found.username, "password": found.password, "serveraddress": found.server}
    if found.identity_token:
        body = {"identitytoken": found.identity_token, "serveraddress": found.server}
    answer = session.api.json("POST", "/auth", json=body) or {}
    if answer.get("IdentityToken"):
        found = Credentials(found.server, found.username, "", answer["IdentityToken"])
    if session.config.store(found) and not note:
        warn(f"\nWARNING! Your credentials are stored unencrypted in '{session.config.path}'.\n"
             "Configure a credential helper to remove this warning. See\n"
             "https://docs.docker.com/go/credential-store/\n")  # fmt: skip
    say(answer.get("Status") or "Login Succeeded")
    return 0


def logout(session: Session, parsed: Parsed) -> int:
    server = server_of(parsed.arguments)
    say(f"Removing login credentials for {server}")
    session.config.forget(server)
    return 0


COMMANDS = (
    Command(("login",), "[SERVER]", "Authenticate to a registry", login, FLAGS, most=1),
    Command(("logout",), "[SERVER]", "Log out from a registry", logout, most=1),
)
