"""The `pyd` command: docker's command line over HTTP.

    main ── registry (names) ── options (flag tables) ── commands/<verb> ── http / hijack ── daemon
                                                             └── render (tables, progress, units), templates

Start-up time is a feature: `main` imports only the module of the command that was asked for, and httpx only
when a request is made. Nothing here imports `api`, `daemon` or `storage`; the daemon is known by HTTP alone.
"""

PROGRAM = "pyd"
VERSION = "0.1.0"
