//! The write-ahead log: what makes an answer true after a power cut.
//!
//! A log is a file `wal-<sequence>` of frames, one per group commit, each written with one write and made
//! durable with one `fdatasync` before anybody is answered:
//!
//! ```text
//! magic u32 | payload length u32 | sequence u64 | crc32 (of length, sequence, payload) u32 | payload
//! ```
//!
//! A frame is begun only when the one before is on disk. So a crash can damage the last frame alone, which
//! nobody was told of, and it is cut off; damage *before* an intact frame is damage to acknowledged data,
//! and the log refuses to be read. Behind the last frame there may be others with lower numbers: they are of the log that
//! the file was before (see [`crate::segments`]), and count for nothing.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::codec::{Reader, checksum, put_u32};
use crate::sled::{disk, sync_dir};
use crate::{Result, StoreError};

const MAGIC: [u8; 4] = *b"CWL1";
const HEADER_BYTES: usize = 20;
/// A buffer that one large commit has grown is given back.
const KEPT_BUFFER_BYTES: usize = 256 << 10;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Wal {
    file: File,
    buffer: Vec<u8>,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl Wal {
    /// Begins a log whose first frame will be number `sequence`, in the file of one that no longer counts if there is one.
    pub(crate) fn create(dir: &Path, sequence: u64, spare: Option<&Path>) -> Result<Wal> {
        let path = dir.join(format!("wal-{sequence:020}"));
        if let Some(spare) = spare {
            std::fs::rename(spare, &path).map_err(disk(spare))?;
        }
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(disk(&path))?;
        sync_dir(dir)?;
        Ok(Wal { file, buffer: Vec::new(), path, bytes: 0 })
    }

    /// Goes on with a log of which the first `bytes` are good.
    pub(crate) fn resume(path: &Path, bytes: u64) -> Result<Wal> {
        let mut file = OpenOptions::new().write(true).open(path).map_err(disk(path))?;
        file.set_len(bytes).map_err(disk(path))?;
        file.seek(SeekFrom::End(0)).map_err(disk(path))?;
        Ok(Wal { file, buffer: Vec::new(), path: path.into(), bytes })
    }

    /// Appends a frame with the payload that `fill` writes, and waits until it is on disk.
    pub(crate) fn append(&mut self, sequence: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let frame = &mut self.buffer;
        frame.clear();
        frame.resize(HEADER_BYTES, 0);
        fill(frame);
        let mut header = MAGIC.to_vec();
        put_u32(&mut header, frame.len() - HEADER_BYTES);
        header.extend_from_slice(&sequence.to_le_bytes());
        let crc = checksum(&[&header[4..], &frame[HEADER_BYTES..]]);
        header.extend_from_slice(&crc.to_le_bytes());
        frame[..HEADER_BYTES].copy_from_slice(&header);

        let written = self.file.write_all(frame).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What was written of the frame goes, so that it can be tried again.
            self.file.set_len(self.bytes).map_err(disk(&self.path))?;
            self.file.seek(SeekFrom::End(0)).map_err(disk(&self.path))?;
            return Err(disk(&self.path)(error));
        }
        self.bytes += frame.len() as u64;
        frame.shrink_to(KEPT_BUFFER_BYTES);
        Ok(())
    }
}

/// The logs of a directory, oldest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(disk(dir))? {
        let entry = entry.map_err(disk(dir))?;
        if entry.file_name().to_string_lossy().starts_with("wal-") {
            logs.push(entry.path());
        }
    }
    logs.sort();
    Ok(logs)
}

/// The number of the first frame that a log holds or will hold: its name says it.
pub(crate) fn first_frame(path: &Path) -> Result<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.strip_prefix("wal-").and_then(|number| number.parse().ok());
    number.ok_or_else(|| StoreError::Corrupt(format!("{} is no name of a log", path.display())))
}

/// Reads the frames of a log in order, from the one with the number `expected` on; returns how many bytes they are.
pub(crate) fn replay(
    path: &Path,
    mut expected: u64,
    mut frame: impl FnMut(u64, Reader<'_>) -> Result<()>,
) -> Result<u64> {
    let mut file = File::open(path).map(BufReader::new).map_err(disk(path))?;
    let mut good = 0;
    let mut bytes = Vec::new();
    while let Some((sequence, payload)) = next(&mut file, &mut bytes).map_err(disk(path))?
        && sequence == expected
    {
        frame(sequence, Reader(payload))?;
        good += (HEADER_BYTES + payload.len()) as u64;
        expected += 1;
    }
    bytes.clear();
    file.seek(SeekFrom::Start(good)).and_then(|_| file.read_to_end(&mut bytes)).map_err(disk(path))?;
    let newer = |at: usize| parse_from(&bytes[at..], expected).is_some();
    if memchr::memmem::find_iter(&bytes, &MAGIC).any(newer) {
        return Err(StoreError::Corrupt(format!("{} is damaged at byte {good}", path.display())));
    }
    Ok(good)
}

/// Reads a frame into `bytes`; `None` if there is none that is whole.
fn next<'a>(file: &mut impl Read, bytes: &'a mut Vec<u8>) -> std::io::Result<Option<(u64, &'a [u8])>> {
    bytes.clear();
    for _ in 0..2 {
        let missing = frame_bytes(bytes) - bytes.len() as u64;
        if file.take(missing).read_to_end(bytes)? as u64 != missing {
            return Ok(None);
        }
    }
    Ok(parse_from(bytes, 0))
}

/// How long a frame is as far as it is known: its header, and once that is there what follows.
fn frame_bytes(frame: &[u8]) -> u64 {
    let length = frame.first_chunk::<HEADER_BYTES>().map_or(0, |header| Reader(&header[4..]).u32().unwrap_or(0));
    HEADER_BYTES as u64 + u64::from(length)
}

/// The frame at the beginning of `log`, if it is whole and its number not below `least`.
fn parse_from(log: &[u8], least: u64) -> Option<(u64, &[u8])> {
    let (header, rest) = log.split_first_chunk::<HEADER_BYTES>()?;
    let (magic, fields) = header.split_first_chunk::<4>()?;
    let mut reader = Reader(fields);
    let length = reader.u32().ok()? as usize;
    let sequence = reader.i64().ok()? as u64;
    let crc = reader.u32().ok()?;
    let payload = rest.get(..length)?;
    (*magic == MAGIC && sequence >= least && crc == checksum(&[&fields[..12], payload])).then_some((sequence, payload))
}
