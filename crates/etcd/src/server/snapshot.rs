//! Snapshots, piece by piece.

use bytes::Bytes;
use futures::{Stream, stream};
use tonic::Status;

use super::{EtcdServer, VERSION};
use crate::proto;
use crate::snapshot::SnapshotFile;
use crate::wire::refusal;

/// How much one message carries.
const BLOB_BYTES: usize = 64 << 10;

impl EtcdServer {
    pub(super) async fn snapshot(
        &self,
        _: proto::Empty,
    ) -> Result<impl Stream<Item = Result<proto::SnapshotResponse, Status>> + use<>, Status> {
        let snapshot = SnapshotFile::take(&*self.store).await.map_err(refusal)?;
        let header = self.header(snapshot.content.revision);
        let file = Bytes::from(snapshot.write());
        let blobs = (0..file.len()).step_by(BLOB_BYTES).map(move |at| {
            let blob = file.slice(at..file.len().min(at + BLOB_BYTES));
            let remaining_bytes = (file.len() - at - blob.len()) as u64;
            Ok(proto::SnapshotResponse { header: header.clone(), remaining_bytes, blob, version: VERSION.into() })
        });
        Ok(stream::iter(blobs))
    }
}
