"""The Dockerfile front end: dockerfile.v0 of BuildKit. Instructions become the build graph."""
