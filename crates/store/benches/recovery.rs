//! What a store on disk costs to open, to hold and to keep: `cargo bench -p coracle-store --bench recovery`.

use std::path::Path;
use std::time::Duration;

use coracle_store::{KeyRange, Op, RangeRequest, SledConfig, SledStore, Store, Txn};

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let dir = tempfile::tempdir_in(".")?;
    // Each figure in a process of its own, so that none inherits the memory of the one before.
    match std::env::args().nth(1).as_deref() {
        Some("fill") => {
            fill(Path::new(&std::env::args().nth(2).ok_or("where")?), std::env::args().nth(3).as_deref()).await
        }
        Some("open") => open(Path::new(&std::env::args().nth(2).ok_or("where")?)).await,
        Some("--bench") => {
            for what in ["revisions", "keys"] {
                let place = dir.path().join(what);
                for step in ["fill", "open"] {
                    let status = std::process::Command::new(std::env::current_exe()?)
                        .arg(step)
                        .arg(&place)
                        .arg(what)
                        .status()?;
                    assert!(status.success(), "{step} {what}");
                }
            }
            Ok(())
        }
        // Run as a test, it has nothing to measure.
        _ => Ok(()),
    }
}

fn config(dir: &Path) -> SledConfig {
    SledConfig { history_limit_bytes: 4 << 30, ..SledConfig::new(dir) }
}

/// A million revisions over ten thousand keys, or a hundred thousand keys of 1 KiB.
async fn fill(dir: &Path, what: Option<&str>) -> Outcome {
    let (writes, keys, bytes) = if what == Some("keys") { (100_000, 100_000, 1024) } else { (1_000_000, 10_000, 100) };
    let store = SledStore::open(config(dir)).await?;
    let began = coracle_clock::instant();
    let write = async |writer: usize| {
        for n in (writer..writes).step_by(256) {
            let put =
                Op::Put { key: format!("/registry/{}", n % keys).into(), value: vec![b'x'; bytes].into(), lease: 0 };
            store.txn(Txn { success: vec![put], ..Txn::default() }).await.expect("the store writes");
        }
    };
    futures::future::join_all((0..256).map(write)).await;
    println!(
        "{writes} writes of {bytes} bytes to {keys} keys: {:.1?}, {} MB resident",
        began.elapsed(),
        resident_mb()?
    );
    store.close().await?;
    Ok(())
}

async fn open(dir: &Path) -> Outcome {
    let began = coracle_clock::instant();
    let store = SledStore::open(config(dir)).await?;
    let opened: Duration = began.elapsed();
    let count = RangeRequest { count_only: true, ..RangeRequest::new(KeyRange::prefix("")) };
    println!(
        "opened at revision {} with {} keys: {opened:.2?}, {} MB resident, {} MB on disk",
        store.revision(),
        store.range(count).await?.count,
        resident_mb()?,
        store.size_bytes().await? >> 20
    );
    Ok(())
}

fn resident_mb() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}
