"""The OCI distribution protocol, client side. Runs in the transfer worker: httpx is imported only there.

    endpoints   where a repository may be found: mirrors, HTTPS, plain HTTP for insecure registries
    auth        challenges, basic credentials, bearer tokens and their cache
    client      one repository on one endpoint: manifests and blobs, both ways
    errors      what a registry's answers mean, in the words of dockerd

Source: github.com/opencontainers/distribution-spec, spec.md.
"""
