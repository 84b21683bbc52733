"""Exec, attach, logs and port-forward through the Python client, which speaks WebSocket v4.

Run with the paths of a kubeconfig and the name of a pod with the containers `cat` (which repeats what it reads) and
`echo` (a web server on port 8080); asserts, and says nothing if all is well.
"""

import sys

from kubernetes import client, config, watch
from kubernetes.stream import portforward, stream

config.load_kube_config(config_file=sys.argv[1])
core, pod = client.CoreV1Api(), sys.argv[2]


def run(command, **options):
    options = {"stdout": True, "stderr": True, "stdin": False, "tty": False, **options}
    return stream(core.connect_get_namespaced_pod_exec, pod, "default", container="cat", command=command, **options)


def exec_at_once_and_step_by_step():
    assert run(["echo", "hello"]) == "hello\n"
    talk = run(["sh", "-c", "read a; echo out $a; echo err $a >&2; exit 7"], stdin=True, _preload_content=False)
    talk.write_stdin("there\n")
    talk.run_forever(timeout=30)
    assert talk.read_stdout() == "out there\n" and talk.read_stderr() == "err there\n"
    assert talk.returncode == 7, talk.returncode


def attach():
    talk = stream(
        core.connect_get_namespaced_pod_attach, pod, "default", container="cat",
        stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
    )
    talk.write_stdin("python\n")
    heard = talk.readline_stdout(timeout=30)
    assert heard == "heard python", heard
    talk.close()


def ports():
    forward = portforward(core.connect_get_namespaced_pod_portforward, pod, "default", ports="8080")
    socket = forward.socket(8080)
    socket.settimeout(30)
    socket.sendall(b"GET /forwarded HTTP/1.0\r\n\r\n")
    answer = b""
    while part := socket.recv(4096):
        answer += part
    assert b"GET /forwarded" in answer and forward.error(8080) is None, (answer, forward.error(8080))


def logs():
    # As it is: the client would make a text of the bytes' notation.
    log = core.read_namespaced_pod_log(pod, "default", container="cat", tail_lines=1, _preload_content=False)
    assert log.data == b"heard python\n", log.data
    lines = watch.Watch()
    for line in lines.stream(core.read_namespaced_pod_log, pod, "default", container="cat"):
        if line == "heard python":
            lines.stop()


exec_at_once_and_step_by_step()
attach()
ports()
logs()
