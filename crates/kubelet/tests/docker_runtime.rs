//! The Docker runtime against a real engine. Skipped where none answers, unless `CORACLE_TEST_DOCKER=require`.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

#[path = "docker/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use coracle_kubelet::runtime::docker::DockerRuntime;
use coracle_kubelet::runtime::{
    ContainerEventKind, ContainerFilter, ContainerState, EnvVar, ExecOptions, LogOptions, Mount, MountPropagation,
    OutputStream, PortMapping, Runtime, RuntimeError, SandboxConfig, SandboxFilter, SandboxState, SecurityContext,
    TerminalSize,
};
use futures::{StreamExt, TryStreamExt};
use support::{IMAGE, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn exited(world: &World, id: &str) -> coracle_kubelet::runtime::ContainerStatus {
    for _ in 0..600 {
        let status = world.runtime.container_status(id).await.unwrap();
        if status.state == ContainerState::Exited {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the container did not exit");
}

async fn log(world: &World, id: &str, options: LogOptions) -> String {
    let pieces: Vec<_> = world.runtime.logs(id, &options).await.unwrap().try_collect().await.unwrap();
    pieces.iter().map(|piece| String::from_utf8_lossy(&piece.data).into_owned()).collect()
}

/// Runs a server in a pod: a thread of this test that enters the pod's network.
async fn in_the_pods_network(sandbox: &str, serve: impl FnOnce() + Send + 'static) {
    let docker = bollard::Docker::connect_with_defaults().unwrap();
    let pid = docker.inspect_container(sandbox, None).await.unwrap().state.unwrap().pid.unwrap();
    std::thread::spawn(move || {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
        serve();
    });
}

#[tokio::test]
async fn a_pod_lives_and_is_adopted_and_goes_away() {
    let Some(world) = World::new("life", 1).await else { return };
    let pod = world.pod("life");
    let sandbox = world.sandbox(&pod, "10.203.1.7").await;
    let status = world.runtime.sandbox_status(&sandbox).await.unwrap();
    assert_eq!((status.state, status.ip), (SandboxState::Ready, Some("10.203.1.7".parse().unwrap())));
    assert_eq!(status.pod, pod);

    let mut config = world.script(&pod, "main", "echo $GREETING; cat /etc/hosts; exec sleep 1000");
    config.env = vec![EnvVar { name: "GREETING".into(), value: "hello".into() }];
    config.annotations.insert("hash".into(), "abc".into());
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "10.203.1.7 written-by-the-kubelet\n").unwrap();
    config.mounts = vec![Mount {
        host_path: hosts.path().to_str().unwrap().into(),
        container_path: "/etc/hosts".into(),
        // Where mounts cannot travel this is taken for private.
        propagation: MountPropagation::HostToContainer,
        ..Default::default()
    }];
    let container = world.runtime.create_container(&sandbox, &config).await.unwrap();
    assert_eq!(world.runtime.container_status(&container).await.unwrap().state, ContainerState::Created);
    world.runtime.start_container(&container).await.unwrap();

    // A kubelet that starts anew knows nothing and finds everything.
    let reborn = DockerRuntime::new(world.config.clone()).unwrap();
    let found = reborn.list_sandboxes(&SandboxFilter::default()).await.unwrap();
    assert_eq!(found.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&sandbox]);
    let found = reborn.list_containers(&ContainerFilter::default()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, &found[0].sandbox_id, found[0].name.as_str()), (&container, &sandbox, "main"));
    assert_eq!((&found[0].pod, found[0].annotations["hash"].as_str()), (&pod, "abc"));
    assert_eq!(found[0].state, ContainerState::Running);
    let mut stranger = world.config.clone();
    stranger.node_name = "node-2".into();
    let stranger = DockerRuntime::new(stranger).unwrap();
    assert!(stranger.list_containers(&ContainerFilter::default()).await.unwrap().is_empty());

    tokio::time::sleep(Duration::from_millis(300)).await;
    let written = log(&world, &container, LogOptions::default()).await;
    assert_eq!(written, "hello\n10.203.1.7 written-by-the-kubelet\n");
    let stats = world.runtime.list_stats().await.unwrap();
    assert_eq!(stats.len(), 1);
    assert!(stats[0].memory_working_set_bytes > 0 && stats[0].cpu_usage_nanos > 0, "{stats:?}");

    world.runtime.stop_sandbox(&sandbox).await.unwrap();
    assert_eq!(exited(&world, &container).await.exit_code, 137);
    assert_eq!(world.runtime.sandbox_status(&sandbox).await.unwrap().state, SandboxState::NotReady);
    world.runtime.remove_sandbox(&sandbox).await.unwrap();
    world.runtime.remove_sandbox(&sandbox).await.unwrap();
    let gone = world.runtime.container_status(&container).await;
    assert!(matches!(gone, Err(RuntimeError::NotFound(_))), "{gone:?}");
    world.clean_up().await;
}

#[tokio::test]
async fn ends_are_told_apart() {
    let Some(world) = World::new("ends", 2).await else { return };
    let pod = world.pod("ends");
    let sandbox = world.sandbox(&pod, "10.203.2.7").await;

    let three = world.run(&sandbox, &pod, "three", "exit 3").await;
    let status = exited(&world, &three).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.finished_at >= status.started_at && status.started_at.is_some());

    let good = world.run(&sandbox, &pod, "good", "true").await;
    assert_eq!(exited(&world, &good).await.reason, "Completed");

    let mut config = world.script(&pod, "greedy", "tail /dev/zero");
    config.resources.memory_bytes = Some(8 << 20);
    let greedy = world.runtime.create_container(&sandbox, &config).await.unwrap();
    world.runtime.start_container(&greedy).await.unwrap();
    let status = exited(&world, &greedy).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    config = world.script(&pod, "missing", "");
    config.command = vec!["no-such-program".into()];
    let missing = world.runtime.create_container(&sandbox, &config).await.unwrap();
    let error = world.runtime.start_container(&missing).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::StartFailed { message, .. }
        if message.contains("executable file not found in $PATH")),
        "{error:?}"
    );
    let status = world.runtime.container_status(&missing).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 128));
    assert_eq!(status.reason, "StartError");
    assert!(status.message.contains("executable file not found"), "{}", status.message);

    config.image = "coracle-test/no-such-image:1".into();
    config.name = "imageless".into();
    let error = world.runtime.create_container(&sandbox, &config).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageNotFound(_)), "{error:?}");
    assert!(world.runtime.image_status(&config.image).await.unwrap().is_none());
    assert!(world.runtime.image_status(IMAGE).await.unwrap().unwrap().tags.contains(&IMAGE.to_string()));
    let error = world.runtime.image_status("Not An Image").await.unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidImageName(_)), "{error:?}");
    world.clean_up().await;
}

#[tokio::test]
async fn stopping_asks_first_and_kills_after_the_grace_period() {
    let Some(world) = World::new("stop", 3).await else { return };
    let pod = world.pod("stop");
    let sandbox = world.sandbox(&pod, "10.203.3.7").await;
    let polite = world.run(&sandbox, &pod, "polite", "trap 'exit 7' TERM; while :; do sleep 0.1; done").await;
    let deaf = world.run(&sandbox, &pod, "deaf", "trap '' TERM; while :; do sleep 0.1; done").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.runtime.stop_container(&polite, Duration::from_secs(30)).await.unwrap();
    world.runtime.stop_container(&deaf, Duration::from_secs(1)).await.unwrap();
    assert_eq!(exited(&world, &polite).await.exit_code, 7);
    assert_eq!(exited(&world, &deaf).await.exit_code, 137);
    world.runtime.stop_container(&deaf, Duration::from_secs(1)).await.unwrap();
    world.runtime.stop_container("no-such-container", Duration::from_secs(1)).await.unwrap();
    world.clean_up().await;
}

#[tokio::test]
async fn a_name_left_behind_by_a_dead_kubelet_is_taken_over() {
    let Some(world) = World::new("name", 4).await else { return };
    let pod = world.pod("name");
    let sandbox = world.sandbox(&pod, "10.203.4.7").await;
    let first = world.create(&sandbox, &pod, "main", "true").await;
    let second = world.create(&sandbox, &pod, "main", "true").await;
    assert_ne!(first, second);
    assert!(matches!(world.runtime.container_status(&first).await, Err(RuntimeError::NotFound(_))));
    // An address that is taken is a conflict, and nothing of the attempt stays behind.
    let other = coracle_kubelet::runtime::SandboxConfig {
        pod: world.pod("other"),
        ip: Some("10.203.4.7".parse().unwrap()),
        ..Default::default()
    };
    let taken = world.runtime.run_sandbox(&other).await;
    assert!(matches!(taken, Err(RuntimeError::Conflict(_))), "{taken:?}");
    assert_eq!(world.runtime.list_sandboxes(&SandboxFilter::default()).await.unwrap().len(), 1);
    world.clean_up().await;
}

#[tokio::test]
async fn commands_run_with_their_streams_and_exit_codes() {
    let Some(world) = World::new("exec", 5).await else { return };
    let pod = world.pod("exec");
    let sandbox = world.sandbox(&pod, "10.203.5.7").await;
    let id = world.run(&sandbox, &pod, "main", "sleep 1000").await;
    let sh = |script: &str| vec!["sh".to_string(), "-c".to_string(), script.to_string()];

    let output = world.runtime.exec_sync(&id, &sh("echo out; echo err >&2; exit 4"), None).await.unwrap();
    assert_eq!((output.stdout, output.stderr, output.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 4));
    // What takes too long is killed: here before it can leave a trace.
    let late = world.runtime.exec_sync(&id, &sh("sleep 2; echo > /late"), Some(Duration::from_millis(500))).await;
    assert!(matches!(late, Err(RuntimeError::Timeout(_))), "{late:?}");
    let trace = world.runtime.exec_sync(&id, &sh("sleep 3; test ! -e /late"), None).await.unwrap();
    assert_eq!(trace.exit_code, 0);
    let missing = world.runtime.exec_sync(&id, &["no-such-program".into()], None).await.unwrap();
    assert_ne!(missing.exit_code, 0);

    // Standard input, closed at its end.
    let options = ExecOptions { command: vec!["cat".into()], stdin: true, stdout: true, ..Default::default() };
    let mut session = world.runtime.exec(&id, &options).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let written = tokio::spawn(async move {
        stdin.write_all(&[b'x'; 300_000]).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let echoed: Vec<_> = session.output.by_ref().try_collect().await.unwrap();
    written.await.unwrap();
    assert_eq!(echoed.iter().map(|chunk| chunk.data.len()).sum::<usize>(), 300_000);
    assert_eq!(session.exit_code.await.unwrap(), 0);

    // A terminal of a size.
    let options = ExecOptions { command: sh("sleep 1; stty size"), tty: true, stdout: true, ..Default::default() };
    let mut session = world.runtime.exec(&id, &options).await.unwrap();
    session.resize.send(TerminalSize { width: 101, height: 33 }).await.unwrap();
    let shown: Vec<_> = session.output.by_ref().try_collect().await.unwrap();
    let shown: Vec<u8> = shown.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
    assert_eq!(String::from_utf8(shown).unwrap(), "33 101\r\n");

    let stopped = world.create(&sandbox, &pod, "stopped", "true").await;
    let refused = world.runtime.exec_sync(&stopped, &sh("true"), None).await;
    assert!(matches!(refused, Err(RuntimeError::NotRunning(_))), "{refused:?}");
    world.clean_up().await;
}

#[tokio::test]
async fn attaching_connects_to_the_process_itself() {
    let Some(world) = World::new("attach", 6).await else { return };
    let pod = world.pod("attach");
    let sandbox = world.sandbox(&pod, "10.203.6.7").await;
    let mut config = world.script(&pod, "main", "read line; echo got $line; exit 5");
    config.stdin = true;
    let id = world.runtime.create_container(&sandbox, &config).await.unwrap();
    world.runtime.start_container(&id).await.unwrap();
    let options = ExecOptions { stdin: true, stdout: true, stderr: true, ..Default::default() };
    let mut session = world.runtime.attach(&id, &options).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"this\n").await.unwrap();
    let said: Vec<_> = session.output.by_ref().try_collect().await.unwrap();
    assert_eq!(said.iter().flat_map(|chunk| chunk.data.to_vec()).collect::<Vec<_>>(), b"got this\n");
    assert_eq!(session.exit_code.await.unwrap(), 5);
    world.clean_up().await;
}

#[tokio::test]
async fn a_log_is_followed_to_its_end() {
    let Some(world) = World::new("logs", 7).await else { return };
    let pod = world.pod("logs");
    let sandbox = world.sandbox(&pod, "10.203.7.7").await;
    let id = world.run(&sandbox, &pod, "main", "echo 1; sleep 0.3; echo 2 >&2; sleep 1; echo 3").await;
    let follow = world.runtime.logs(&id, &LogOptions { follow: true, ..Default::default() }).await.unwrap();
    let pieces: Vec<_> = follow.try_collect().await.unwrap();
    let lines: Vec<_> = pieces.iter().map(|piece| (piece.stream, &piece.data[..])).collect();
    assert_eq!(
        lines,
        [(OutputStream::Stdout, &b"1\n"[..]), (OutputStream::Stderr, b"2\n"), (OutputStream::Stdout, b"3\n")]
    );
    let third = pieces[2].at.unwrap();
    assert!(pieces[0].at.unwrap() < third);

    assert_eq!(log(&world, &id, LogOptions { tail_lines: Some(1), ..Default::default() }).await, "3\n");
    assert_eq!(log(&world, &id, LogOptions { tail_lines: Some(0), ..Default::default() }).await, "");
    assert_eq!(log(&world, &id, LogOptions { since: Some(third), ..Default::default() }).await, "3\n");
    let errors = LogOptions { stream: Some(OutputStream::Stderr), ..Default::default() };
    assert_eq!(log(&world, &id, errors).await, "2\n");
    world.clean_up().await;
}

#[tokio::test]
async fn starts_and_ends_are_told_as_they_happen() {
    let Some(world) = World::new("events", 8).await else { return };
    let pod = world.pod("events");
    let sandbox = world.sandbox(&pod, "10.203.8.7").await;
    let mut events = world.runtime.events().await.unwrap();
    let id = world.run(&sandbox, &pod, "main", "exit 9").await;
    exited(&world, &id).await;
    world.runtime.remove_container(&id).await.unwrap();
    for (kind, exit_code) in [
        (ContainerEventKind::Started, None),
        (ContainerEventKind::Died, Some(9)),
        (ContainerEventKind::Destroyed, None),
    ] {
        let event = loop {
            let event = events.next().await.unwrap().unwrap();
            if event.container.is_some() {
                break event;
            }
        };
        assert_eq!((event.kind, event.exit_code, &event.id, &event.pod), (kind, exit_code, &id, &pod));
    }
    world.clean_up().await;
}

#[tokio::test]
async fn a_port_of_the_pods_own_loopback_is_reached() {
    let Some(world) = World::new("port", 9).await else { return };
    let pod = world.pod("port");
    let sandbox = world.sandbox(&pod, "10.203.9.7").await;
    let (ready, listening) = tokio::sync::oneshot::channel();
    in_the_pods_network(&sandbox, move || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        ready.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut client, _) = listener.accept().unwrap();
        let mut asked = [0; 4];
        client.read_exact(&mut asked).unwrap();
        client.write_all(b"pong").unwrap();
    })
    .await;
    let port = listening.await.unwrap();
    let mut connection = world.runtime.port_forward(&sandbox, port).await.unwrap();
    connection.write_all(b"ping").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "pong");
    let refused = world.runtime.port_forward(&sandbox, 1).await.err().unwrap();
    assert!(refused.to_string().contains("onnection refused"), "{refused}");
    world.clean_up().await;
}

#[tokio::test]
async fn namespaces_are_shared_as_asked() {
    let Some(world) = World::new("share", 11).await else { return };
    let pod = world.pod("share");
    // A port that was free a moment ago.
    let host_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut sandbox = SandboxConfig {
        pod: pod.clone(),
        hostname: "shared".into(),
        ip: Some("10.203.11.7".parse().unwrap()),
        port_mappings: vec![PortMapping {
            host_ip: Some(Ipv4Addr::LOCALHOST.into()),
            host_port,
            container_port: 80,
            ..Default::default()
        }],
        ..Default::default()
    };
    sandbox.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    let id = world.runtime.run_sandbox(&sandbox).await.unwrap();
    let (ready, listening) = tokio::sync::oneshot::channel();
    in_the_pods_network(&id, move || {
        let listener = TcpListener::bind(("10.203.11.7", 80)).unwrap();
        ready.send(()).unwrap();
        listener.accept().unwrap().0.write_all(b"served").unwrap();
    })
    .await;
    listening.await.unwrap();
    let mut connection = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, host_port)).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "served");

    let mut config = world.script(&pod, "main", "cat /etc/hostname; echo $$");
    config.share_pid = true;
    let main = world.runtime.create_container(&id, &config).await.unwrap();
    world.runtime.start_container(&main).await.unwrap();
    exited(&world, &main).await;
    let said = log(&world, &main, LogOptions::default()).await;
    assert!(said.starts_with("shared\n") && said != "shared\n1\n", "the first process is not its own: {said}");

    let pod = world.pod("host");
    let host =
        SandboxConfig { pod: pod.clone(), host_network: true, host_pid: true, host_ipc: true, ..Default::default() };
    let host = world.runtime.run_sandbox(&host).await.unwrap();
    let status = world.runtime.sandbox_status(&host).await.unwrap();
    assert_eq!((status.host_network, status.ip), (true, None));
    let mut config = world.script(&pod, "main", "cat /proc/net/route; echo; cat /proc/1/comm");
    config.host_pid = true;
    let main = world.runtime.create_container(&host, &config).await.unwrap();
    world.runtime.start_container(&main).await.unwrap();
    exited(&world, &main).await;
    let said = log(&world, &main, LogOptions::default()).await;
    assert!(said.contains(&world.interface), "the host's routes: {said}");
    assert!(said.ends_with(&std::fs::read_to_string("/proc/1/comm").unwrap()), "{said}");

    // Nothing starts in a sandbox that is dead.
    world.runtime.stop_sandbox(&host).await.unwrap();
    let refused = world.runtime.create_container(&host, &config).await;
    assert!(matches!(refused, Err(RuntimeError::NotRunning(_))), "{refused:?}");
    world.clean_up().await;
}

#[tokio::test]
async fn rights_are_given_as_far_as_the_engine_has_them() {
    let Some(world) = World::new("rights", 10).await else { return };
    let pod = world.pod("rights");
    let sandbox = world.sandbox(&pod, "10.203.10.7").await;
    let mut config = world.script(&pod, "privileged", "id -u");
    config.security.privileged = true;
    config.resources.oom_score_adj = Some(-997);
    let privileged = world.runtime.create_container(&sandbox, &config).await.unwrap();
    world.runtime.start_container(&privileged).await.unwrap();
    assert_eq!(exited(&world, &privileged).await.exit_code, 0);

    let mut config = world.script(&pod, "user", "id -u; id -g; id -G; echo x > /x || echo refused");
    config.security = SecurityContext {
        run_as_user: Some(1234),
        run_as_group: Some(99),
        supplemental_groups: vec![4321],
        read_only_root: true,
        no_new_privileges: true,
        ..Default::default()
    };
    let user = world.runtime.create_container(&sandbox, &config).await.unwrap();
    world.runtime.start_container(&user).await.unwrap();
    exited(&world, &user).await;
    let stdout = LogOptions { stream: Some(OutputStream::Stdout), ..Default::default() };
    assert_eq!(log(&world, &user, stdout).await, "1234\n99\n99 4321\nrefused\n");
    world.clean_up().await;
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_down() {
    let mut config = coracle_kubelet::runtime::docker::DockerConfig::new("c", "n", "net", "pause");
    let nowhere = tempfile::tempdir().unwrap();
    config.host = Some(format!("unix://{}/docker.sock", nowhere.path().display()));
    // The socket must exist for the client to be made at all; nobody accepts on it.
    drop(std::os::unix::net::UnixListener::bind(nowhere.path().join("docker.sock")).unwrap());
    let runtime = DockerRuntime::new(config).unwrap();
    for error in [
        runtime.version().await.err(),
        runtime.list_containers(&ContainerFilter::default()).await.err(),
        runtime.events().await.err(),
    ] {
        assert!(matches!(error, Some(RuntimeError::EngineDown(_))), "{error:?}");
    }
}
