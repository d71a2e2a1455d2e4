"""The Dockerfile language: text to typed instructions, with nothing of building in it.

    source        positions, excerpts, the error that carries them
    directives    `# syntax=`, `# escape=`, `# check=`
    lexer         lines, comments, continuation, heredocs → statements
    words         quoting and `$variables` in a word (BuildKit's shell lexer)
    flags         `--name=value` in front of an instruction's arguments
    instructions  what can be said, as frozen records
    mounts        RUN --mount
    readers       one reader an instruction: its statement → its record
    parser        statements → stages of instructions
    checks        the published build checks
    ignore        .dockerignore

All of it is pure: text in, records or a DockerfileError out. Every loop is bounded by the text's length, and
the text by MAX_SIZE. Behaviour follows BuildKit's frontend/dockerfile and was compared with a running one.
"""
