"""Images built from Dockerfiles and from BuildKit's definitions.

doors      who asks: POST /build, BuildKit's clients; one build from its order to its answer
frontend   a Dockerfile, its contexts and options → the build graph and image configurations
dockerfile   its language: lexer, parser, words, checks, .dockerignore                          pure
llb        the build graph ↔ BuildKit's definitions                                             pure
solver     the graph → layers: cache keys, steps run once, processes of RUN
sources    where trees come from that no step made: images, git, URLs, layouts
files      what the worker does to users' files: copy, unpack, hash, pack
session    what a client is asked for while it builds: directories, secrets, credentials
export, attest, remotecache   what comes of it: images, archives, statements, caches elsewhere
upkeep     what builds keep: the cache's index, cache mounts, lists, prunes, collection

service    what the engine calls; loads the rest with the first build
bench      what all builds share        workshop, worker   the process that touches users' files
graph      the vertices                 steps              what a build tells of itself
request    an order of POST /build      imageconfig, epoch, outcome   words that the packages share
"""
