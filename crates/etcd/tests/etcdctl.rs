//! What etcdctl, Debian's `etcd-client`, does with a store.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod common;
#[path = "../../store/tests/small_disk/mod.rs"]
mod small_disk;

use std::process::Stdio;
use std::time::Duration;

use common::{Served, available, etcdctl};
use coracle_store::{KeyRange, MemoryStore, Op, SledConfig, SledStore, Txn, WatchRequest};
use futures::StreamExt;
use small_disk::SmallDisk;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Runs a test against a store of its own, if there is an etcdctl.
macro_rules! with_etcdctl {
    ($($name:ident: $test:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if available(&["etcdctl"]) {
                let test: fn(Served) -> _ = $test;
                test(Served::start(MemoryStore::new()).await).await;
            }
        }
    )*};
}

with_etcdctl! {
    keys_are_put_read_and_deleted: |etcd| async move {
        assert_eq!(etcd.ctl(&["put", "a", "1"]).await, "OK\n");
        assert_eq!(etcd.ctl(&["put", "a", "2", "--prev-kv"]).await, "OK\na\n1\n");
        assert_eq!(etcd.ctl(&["put", "a", "--ignore-value", "--prev-kv"]).await, "OK\na\n2\n");
        etcd.ctl(&["put", "b", "1"]).await;
        assert_eq!(etcd.ctl(&["get", "", "--prefix"]).await, "a\n2\nb\n1\n");
        assert_eq!(etcd.ctl(&["get", "", "--from-key", "--keys-only", "--order=DESCEND"]).await, "b\n\na\n\n");
        assert_eq!(etcd.ctl(&["get", "", "--prefix", "--sort-by=VALUE", "--limit=1"]).await, "b\n1\n");
        assert_eq!(etcd.ctl(&["get", "a", "--rev=2", "--print-value-only"]).await, "1\n");
        let json = etcd.json(&["get", "a"]).await;
        let kv = &json["kvs"][0];
        assert_eq!((&kv["create_revision"], &kv["mod_revision"], &kv["version"]), (&2.into(), &4.into(), &3.into()));
        assert_eq!((&json["header"]["revision"], &json["count"]), (&5.into(), &1.into()));
        assert_eq!(etcd.ctl(&["del", "", "--prefix", "--prev-kv"]).await, "2\na\n2\nb\n1\n");
        assert!(etcd.fails(&["put", "missing", "--ignore-value"]).await.contains("etcdserver: key not found"));
    };

    transactions_compare_and_choose: |etcd| async move {
        etcd.ctl(&["put", "a", "1"]).await;
        let txn = "value(\"a\") = \"1\"\nmod(\"a\") > \"1\"\n\nput a 2\nget a\n\nget a\n\n";
        assert_eq!(etcd.ctl_with(&["txn"], txn).await, "SUCCESS\n\nOK\n\na\n2\n");
        assert_eq!(etcd.ctl_with(&["txn"], txn).await, "FAILURE\n\na\n2\n");
        let twice = "\nput a 3\nput a 4\n\n\n";
        assert!(etcd.fails_with(&["txn"], twice).await.contains("etcdserver: duplicate key given in txn request"));
    };

    watches_report_history_and_the_present: |etcd| async move {
        etcd.ctl(&["put", "a", "1"]).await;
        etcd.ctl(&["put", "a", "2"]).await;
        let mut watch = etcd.command(&["watch", "a", "--rev=2", "--prev-kv"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let mut next = async |count| {
            let mut text = Vec::new();
            for _ in 0..count {
                text.push(lines.next_line().await.unwrap().unwrap());
            }
            text.join(" ")
        };
        assert_eq!(next(8).await, "PUT a 1 PUT a 1 a 2");
        etcd.ctl(&["del", "a"]).await;
        assert_eq!(next(5).await, "DELETE a 2 a ");
        watch.kill().await.unwrap();
    };

    leases_live_while_kept_alive: |etcd| async move {
        let granted = etcd.ctl(&["lease", "grant", "600"]).await;
        let id = granted.split(' ').nth(1).unwrap();
        assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
        etcd.ctl(&["put", "a", "1", "--lease", id]).await;
        let alive = etcd.ctl(&["lease", "keep-alive", "--once", id]).await;
        assert_eq!(alive, format!("lease {id} keepalived with TTL(600)\n"));
        let left = etcd.ctl(&["lease", "timetolive", "--keys", id]).await;
        assert!(left.starts_with(&format!("lease {id} granted with TTL(600s), remaining(")), "{left}");
        assert!(left.ends_with("attached keys([a])\n"), "{left}");
        assert_eq!(etcd.ctl(&["lease", "list"]).await, format!("found 1 leases\n{id}\n"));
        etcd.ctl(&["lease", "revoke", id]).await;
        assert_eq!(etcd.ctl(&["get", "a"]).await, "");
        let none = etcd.ctl(&["lease", "timetolive", id]).await;
        assert_eq!(none, format!("lease {id} already expired\n"));
        assert!(etcd.fails(&["lease", "revoke", id]).await.contains("etcdserver: requested lease not found"));
        assert!(etcd.fails(&["put", "a", "1", "--lease", id]).await.contains("etcdserver: requested lease not found"));
    };

    what_is_compacted_is_refused: |etcd| async move {
        for value in ["1", "2", "3"] {
            etcd.ctl(&["put", "a", value]).await;
        }
        assert_eq!(etcd.ctl(&["compaction", "3"]).await, "compacted revision 3\n");
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert!(etcd.fails(&["compaction", "3"]).await.contains(compacted));
        assert!(etcd.fails(&["get", "a", "--rev=2"]).await.contains(compacted));
        assert!(etcd.fails(&["get", "a", "--rev=9"]).await.contains("required revision is a future revision"));
        assert!(etcd.fails(&["watch", "a", "--rev=2"]).await.contains("watch was canceled"));
        assert_eq!(etcd.ctl(&["get", "a", "--rev=3", "--print-value-only"]).await, "2\n");
    };

    the_member_tells_how_it_is: |etcd| async move {
        etcd.ctl(&["put", "a", "1"]).await;
        let status = &etcd.json(&["endpoint", "status"]).await[0]["Status"];
        assert_eq!((&status["header"]["revision"], &status["leader"]), (&2.into(), &status["header"]["member_id"]));
        assert!(status["dbSize"].as_i64().unwrap() > 0, "{status}");
        let members = etcd.json(&["member", "list"]).await;
        assert_eq!(members["members"][0]["clientURLs"][0], etcd.url());
        let hash = || etcd.json(&["endpoint", "hashkv"]);
        let before = hash().await[0]["HashKV"]["hash"].clone();
        assert_eq!(before, hash().await[0]["HashKV"]["hash"]);
        assert_eq!(hash().await[0]["HashKV"]["compact_revision"], -1);
        etcd.ctl(&["put", "a", "2"]).await;
        assert_ne!(before, hash().await[0]["HashKV"]["hash"]);
        etcd.ctl(&["compaction", "3"]).await;
        assert_eq!(hash().await[0]["HashKV"]["compact_revision"], 3);
        for fine in [&["endpoint", "health"][..], &["alarm", "list"], &["alarm", "disarm"], &["defrag"]] {
            etcd.ctl(fine).await;
        }
        assert!(etcd.fails(&["auth", "enable"]).await.contains("etcdserver: authentication is not enabled"));
    };

    a_snapshot_is_a_file_of_etcds: |etcd| async move {
        for number in 0..300 {
            let (key, value) = (format!("/registry/{number:04}"), "x".repeat(number * 20));
            etcd.store.txn(Txn::put_if(key, 0, value, 0)).await.unwrap();
        }
        etcd.store.txn(Txn { success: vec![Op::Delete(KeyRange::key("/registry/0299"))], ..Txn::default() }).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.db").display().to_string();
        etcd.ctl(&["snapshot", "save", &path]).await;
        let status = etcd.json(&["snapshot", "status", &path]).await;
        // 299 keys, and two rows that say up to where all is compacted.
        assert_eq!(status["totalKey"], 301, "{status}");
        let data = dir.path().join("etcd").display().to_string();
        etcdctl(&["snapshot", "restore", &path, "--data-dir", &data]).await;
        if available(&["etcd"]) {
            let restored = common::RealEtcd::start(&data).await;
            let theirs = restored.ctl(&["get", "", "--prefix", "-w", "json"]).await;
            let theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
            let ours = etcd.json(&["get", "", "--prefix"]).await;
            assert_eq!((&theirs["kvs"], &theirs["count"]), (&ours["kvs"], &299.into()));
            assert!(theirs["header"]["revision"].as_i64() >= ours["header"]["revision"].as_i64());
        }
    };

    the_load_of_check_perf_is_borne: |etcd| async move {
        // It takes a minute. Whether it is fast enough is for machines that do nothing else; that every request is
        // served shows in its first thousand.
        let mut load = etcd.command(&["check", "perf", "--load=s"]).stdout(Stdio::null()).spawn().unwrap();
        let mut progress = etcd.store.watch(WatchRequest::new(KeyRange::prefix("/etcdctl-check-perf/"), None)).await.unwrap();
        let mut writes = 0;
        while writes < 1000 {
            writes += progress.next().await.unwrap().unwrap().events.len();
        }
        assert!(load.try_wait().unwrap().is_none(), "it goes on");
        load.kill().await.unwrap();
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_of_its_authority_is_not_let_in() {
    if !available(&["etcdctl"]) {
        return;
    }
    let etcd = Served::start(MemoryStore::new()).await;
    let pki = etcd.pki_dir();
    let (ca, cert, key) = (pki.join("etcd/ca.crt"), pki.join("admin.crt"), pki.join("admin.key"));
    let mut stranger = etcd.bare_command(&["get", "a", "--command-timeout=2s", "--dial-timeout=2s"]);
    stranger.arg("--cacert").arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
    let output = coracle_clock::timeout(Duration::from_secs(30), stranger.output()).await.unwrap().unwrap();
    assert!(!output.status.success(), "the cluster's administrator is nobody here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_raises_an_alarm_and_deleting_goes_on() {
    let Some(disk) = SmallDisk::mount().filter(|_| available(&["etcdctl"])) else { return };
    let store = SledStore::open(SledConfig::new(disk.path().join("store"))).await.unwrap();
    let etcd = Served::start(store).await;
    let value = "x".repeat(50_000);
    etcd.ctl(&["put", "a", &value]).await;
    assert_eq!(etcd.ctl(&["alarm", "list"]).await, "");
    let ballast = disk.fill(0);
    let put = async |key: &str| {
        let success = vec![Op::Put { key: key.to_owned().into(), value: value.clone().into(), lease: 0 }];
        etcd.store.txn(Txn { success, ..Txn::default() }).await
    };
    while put("b").await.is_ok() {}
    let alarms = etcd.ctl(&["alarm", "list"]).await;
    assert!(alarms.starts_with("memberID:") && alarms.ends_with("alarm:NOSPACE \n"), "{alarms}");
    let status = &etcd.json(&["endpoint", "status"]).await[0]["Status"];
    assert_eq!(status["errors"][0].as_str(), Some(alarms.trim_end_matches('\n')));
    for refused in [&["put", "c", "1"][..], &["lease", "grant", "60"]] {
        assert!(etcd.fails(refused).await.contains("etcdserver: mvcc: database space exceeded"), "{refused:?}");
    }
    assert_eq!(etcd.ctl(&["del", "a"]).await, "1\n");
    etcd.ctl(&["compaction", &etcd.store.revision().to_string()]).await;
    etcd.ctl(&["defrag"]).await;
    etcd.ctl(&["alarm", "disarm"]).await;
    assert_eq!(etcd.ctl(&["alarm", "list"]).await, alarms, "it is still full");
    drop(ballast);
    etcd.ctl(&["alarm", "disarm"]).await;
    assert_eq!(etcd.ctl(&["alarm", "list"]).await, "");
    assert_eq!(etcd.ctl(&["put", "c", "1"]).await, "OK\n");
}

impl Served {
    /// etcdctl's answer to standard input.
    async fn ctl_with(&self, arguments: &[&str], input: &str) -> String {
        let (succeeded, output, errors) = self.run(arguments, input).await;
        assert!(succeeded, "{arguments:?}: {errors}");
        output
    }

    /// etcdctl's complaint about standard input.
    async fn fails_with(&self, arguments: &[&str], input: &str) -> String {
        let (succeeded, output, errors) = self.run(arguments, input).await;
        assert!(!succeeded, "{arguments:?}: {output}");
        errors
    }

    async fn run(&self, arguments: &[&str], input: &str) -> (bool, String, String) {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}
