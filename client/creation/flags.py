"""The flags that describe a container, shared by `run` and `create`, and the converters of their kinds."""

from __future__ import annotations

from client.creation import devices, validators
from client.creation.mounts import parse_mount
from client.creation.networks import parse_network
from client.values import Converter

CONTAINER_FLAGS = """
 |add-host|list:add-host||Add a host name and its address (host:ip)
 |annotation|map||Add an annotation, handed to the OCI runtime
a|attach|list:attach||Attach to STDIN, STDOUT or STDERR
 |blkio-weight|uint16|0|Relative weight of block IO, 10 to 1000, or 0 to leave it alone
 |blkio-weight-device|list:weight-device||Relative weight of block IO for a device (path:weight)
 |cap-add|list||Add Linux capabilities
 |cap-drop|list||Drop Linux capabilities
 |cgroup-parent|string||Parent cgroup of the container
 |cgroupns|string||Cgroup namespace to use (host|private)
 |cidfile|string||Write the container's ID to this file
 |!cpu-count|int||Windows only
 |!cpu-percent|int||Windows only
 |cpu-period|int||Length of a CFS period in microseconds
 |cpu-quota|int||CPU time in each CFS period in microseconds
 |cpu-rt-period|int||Length of a real-time period in microseconds
 |cpu-rt-runtime|int||Real-time CPU time in each period in microseconds
c|cpu-shares|int||Relative weight of CPU time
 |cpus|decimal||Number of CPUs
 |cpuset-cpus|string||CPUs to run on (0-3, 0,1)
 |cpuset-mems|string||Memory nodes to use (0-3, 0,1)
 |device|list||Add a device of the host, or one by its CDI name
 |device-cgroup-rule|list:device-rule||Add a rule to the allowed devices ("c 1:3 rwm")
 |device-read-bps|list:throttle-bps||Limit bytes read per second from a device
 |device-read-iops|list:throttle-iops||Limit reads per second from a device
 |device-write-bps|list:throttle-bps||Limit bytes written per second to a device
 |device-write-iops|list:throttle-iops||Limit writes per second to a device
 |disable-content-trust|bool|true|Skip image verification
 |dns|list:dns||Set name servers
 |!dns-opt|list||Set resolver options
 |dns-option|list||Set resolver options
 |dns-search|list:dns-search||Set search domains
 |domainname|string||NIS domain name of the container
 |entrypoint|string||Replace the image's ENTRYPOINT
e|env|list:env||Set environment variables
 |env-file|list||Read environment variables from a file
 |expose|list||Expose a port or a range of ports
 |gpus|gpu-request*||GPUs to hand to the container ('all' for all of them)
 |group-add|list||Join additional groups
 |health-cmd|string||Command that checks the container's health
 |health-interval|duration|0s|Time between two checks (ms|s|m|h)
 |health-retries|int||Failures in a row that make the container unhealthy
 |health-start-interval|duration|0s|Time between two checks during the start period (ms|s|m|h)
 |health-start-period|duration|0s|Time to start before failures count (ms|s|m|h)
 |health-timeout|duration|0s|Time that one check may take (ms|s|m|h)
h|hostname|string||Host name of the container
 |init|bool||Run an init that forwards signals and reaps processes
i|interactive|bool||Keep STDIN open even if not attached
 |!io-maxbandwidth|bytes||Windows only
 |!io-maxiops|uint||Windows only
 |ip|string||IPv4 address (172.30.100.104)
 |ip6|string||IPv6 address (2001:db8::33)
 |ipc|string||IPC namespace to use
 |isolation|string||Isolation technology
 |kernel-memory|bytes||Kernel memory limit (the kernel has none any more)
l|label|list:label||Set metadata
 |label-file|list||Read metadata from a file
 |link|list:link||Add a link to another container
 |link-local-ip|list:address||Link-local addresses
 |log-driver|string||Log driver
 |log-opt|list||Options of the log driver
 |mac-address|string||MAC address (92:d0:c6:0a:29:33)
m|memory|bytes||Memory limit
 |memory-reservation|bytes||Soft memory limit
 |memory-swap|bytes:swap||Limit of memory and swap together, -1 for unlimited swap
 |memory-swappiness|int|-1|Tendency to swap (0 to 100)
 |mount|mount*||Attach a file system
 |name|string||Name of the container
 |!net|network*||Connect to a network
 |!net-alias|list||Name of the container in the network
 |network|network*||Connect to a network
 |network-alias|list||Name of the container in the network
 |no-healthcheck|bool||Turn the image's HEALTHCHECK off
 |oom-kill-disable|bool||Do not kill on out of memory
 |oom-score-adj|int||Bias of the OOM killer (-1000 to 1000)
 |pid|string||PID namespace to use
 |pids-limit|int||Limit of processes (-1 for unlimited)
 |platform|string||Platform of the image
 |privileged|bool||Give extended privileges
p|publish|list||Publish a port or a range of ports on the host
P|publish-all|bool||Publish all exposed ports on ports of the host's choice
 |pull|string|missing|When to pull the image ("always", "missing", "never")
q|quiet|bool||Do not show the progress of the pull
 |read-only|bool||Mount the root file system read-only
 |restart|string|no|What to do when the container exits
 |rm|bool||Remove the container and its anonymous volumes when it exits
 |runtime|string||OCI runtime to use
 |security-opt|list||Security options
 |shm-size|bytes||Size of /dev/shm
 |stop-signal|string||Signal that stops the container
 |stop-timeout|int||Seconds between that signal and SIGKILL
 |storage-opt|list||Options of the storage driver
 |sysctl|map:sysctl||Set namespaced kernel parameters
 |tmpfs|list||Mount a tmpfs
t|tty|bool||Give the container a terminal
 |ulimit|ulimit*||Resource limits (name=soft:hard)
 |use-api-socket|bool||Mount the engine's socket and credentials
u|user|string||User name or ID (<name|uid>[:<group|gid>])
 |userns|string||User namespace to use
 |uts|string||UTS namespace to use
v|volume|list||Mount a volume or a directory
 |volume-driver|string||Volume driver
 |volumes-from|list||Mount the volumes of another container
w|workdir|string||Working directory
"""

CONVERTERS: dict[str, Converter] = {
    "add-host": validators.extra_host,
    "address": validators.address,
    "attach": validators.attach,
    "device-rule": devices.cgroup_rule,
    "dns": validators.address,
    "dns-search": validators.search_domain,
    "env": validators.environment,
    "gpu-request": devices.parse_gpus,
    "label": validators.label,
    "link": validators.link,
    "mount": parse_mount,
    "network": parse_network,
    "sysctl": validators.sysctl,
    "throttle-bps": devices.throttle_bytes,
    "throttle-iops": devices.throttle_operations,
    "ulimit": devices.parse_ulimit,
    "weight-device": devices.weight,
}
