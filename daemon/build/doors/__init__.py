"""Who asks for builds, and how each is told what comes of it: POST /build (classic), BuildKit's clients (gateway)."""
