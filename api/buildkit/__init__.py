"""BuildKit's gRPC services, on connections that were hijacked from POST /grpc.

    server    HTTP/2 on a raw socket, until the client goes
    control   builds, their status, the cache, the history
    bridge    what a front end asks for while it builds; buildx is one
    content   the logs that the history names
    caps      what clients are told that this engine can do

Nothing of this is imported before the first such connection: protobuf and the builder cost some megabytes.
"""
