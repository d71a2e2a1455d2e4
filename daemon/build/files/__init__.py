"""What File vertices do to trees: copying, making, removing, hashing; and layers out of what they did.

Everything here is synchronous, takes and returns plain values, and runs in the build's worker process
(daemon.build.worker): it reads what users send. Every path is resolved beneath a root by the kernel.
"""
