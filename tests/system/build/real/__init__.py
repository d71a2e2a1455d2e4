"""Images of the kind that people build, each a directory of its own, held against what BuildKit makes of it."""
