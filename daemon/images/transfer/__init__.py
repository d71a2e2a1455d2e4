"""The processes that move images, so that the daemon's event loop and memory don't have to.

    daemon ──JSON lines over a socket pair──► worker ──pipe──► unpack (one a layer, confined)
                                                └──HTTP──► registry

    worker      asyncio; registry conversations, and the archives of load, save, import, commit
    unpack      compressed layer on stdin → decompress → SHA-256 → extract; result as one JSON line
    parent      the daemon's end: starts a worker when one is needed, lets it go when idle
    ingest      a layer from any stream into blob and snapshot directory (inside the worker)

Neither outlives the daemon (PR_SET_PDEATHSIG, end of file on the socket). What a killed one leaves is an
unfinished file in the content store's ingest/ or an active snapshot, and both go at the next start.
"""
