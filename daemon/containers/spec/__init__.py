"""From a container's configuration to its OCI bundle: see `build.build`."""
