"""Which devices a container may use: rules in one normal form, written to v1 files or compiled to eBPF."""
