"""gRPC on connections that are there already: a hijacked request, a socket pair, a session that is handed around.

    http2     frames, streams and flow control, either side (RFC 9113)
    calls     calls that we make
    serving   calls that we answer
    status    how a call ends

The field's libraries open their own sockets, and cost a hundred microseconds and more for each small call; a build is
dozens of them, one after the other.
"""
