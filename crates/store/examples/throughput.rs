//! How many writes a second the engines acknowledge: `cargo run -p coracle-store --example throughput [DIR]`.

use coracle_store::{MemoryStore, SharedStore, SledConfig, SledStore, Store, Txn};

const WRITES: usize = 4096;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "store-throughput".into());
    for writers in [1, 8, 64, 256] {
        let opened = coracle_clock::instant();
        let sled = SledStore::open(SledConfig::new(&dir)).await?;
        let opened = opened.elapsed();
        let on_disk = measure(sled.clone(), writers).await;
        let closed = coracle_clock::instant();
        sled.close().await?;
        let closed = closed.elapsed();
        let in_memory = measure(MemoryStore::new(), writers).await;
        println!(
            "{writers:3} writers: sled {on_disk:6.0}/s (open {opened:.1?}, close {closed:.1?}), memory {in_memory:7.0}/s"
        );
    }
    Ok(())
}

/// Acknowledged writes of 1 KiB per second, over a thousand keys.
async fn measure(store: SharedStore, writers: usize) -> f64 {
    let start = coracle_clock::instant();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (writer..WRITES).step_by(writers) {
                let key = format!("/registry/configmaps/default/{}", n % 1000);
                let mut txn = Txn::put_if(key, 0, vec![b'x'; 1024], 0);
                txn.compare.clear();
                store.txn(txn).await.expect("the store writes");
            }
        })
    });
    futures::future::join_all(tasks.collect::<Vec<_>>()).await;
    WRITES as f64 / start.elapsed().as_secs_f64()
}
