"""Streams through the Python client: exec with input and exit codes, and following a log.

Run with the paths of a kubeconfig and the name of a running busybox pod that says `tick N` once in a while.
"""

import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

config.load_kube_config(config_file=sys.argv[1])
core, pod = client.CoreV1Api(), sys.argv[2]


def run(command, **options):
    settings = {"stderr": True, "stdin": False, "stdout": True, "tty": False, **options}
    return stream(core.connect_get_namespaced_pod_exec, pod, "default", command=command, **settings)


assert run(["echo", "hello"]) == "hello\n"

session = run(["sh"], stdin=True, _preload_content=False)
session.write_stdin("echo to stdout; echo to stderr >&2\n")
assert session.readline_stdout(timeout=20) == "to stdout"
assert session.readline_stderr(timeout=20) == "to stderr"
session.write_stdin("exit 3\n")
session.run_forever(timeout=20)
assert session.returncode == 3, session.returncode

ticks = []
for line in watch.Watch().stream(core.read_namespaced_pod_log, pod, "default", follow=True):
    ticks.append(line)
    if len(ticks) == 3:
        break
assert all(line.startswith("tick ") for line in ticks), ticks
assert core.read_namespaced_pod_log(pod, "default", tail_lines=1).startswith("tick ")
