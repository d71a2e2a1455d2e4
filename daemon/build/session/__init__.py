"""BuildKit sessions: what a client offers a build over a connection of its own, on which it is the server.

    pydd                                            build worker
    sessions    who is there, what builds ask  ──►  operations   the same questions, answered on the connection
    contexts    local directories that are kept     receive      directories that come (fsutil)
                                                    send         trees and files that go
                                                    agent        ssh agents, as sockets for RUN steps

Nothing here but sessions.py is imported by a daemon without sessions.
"""
