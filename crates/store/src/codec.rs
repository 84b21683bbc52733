//! How records lie on disk: little-endian numbers, lengths before bytes, a CRC-32 over everything.
//!
//! There is one layout for a version of a key, in the log and in the database:
//! `deleted u8 | create i64 | mod i64 | version i64 | lease i64 | key length u32 | key | value length u32 | value`.

use std::time::Duration;

use bytes::Bytes;

use crate::core::Record;
use crate::{KeyValue, LeaseId, Result, Revision, StoreError};

/// A [`Record`] as it is read back: what was replaced follows from the state it is applied to.
#[derive(Debug)]
pub(crate) enum Stored {
    Changes { revision: Revision, changes: Vec<Change> },
    Compact(Revision),
    Lease(LeaseId, LeaseTerms),
    LeaseEnd(LeaseId),
}

/// One version of a key: put, or deleted.
#[derive(Debug)]
pub struct Change {
    pub(crate) kv: KeyValue,
    pub(crate) deleted: bool,
}

/// A lease's terms in wall time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseTerms {
    pub(crate) ttl: Duration,
    pub(crate) expires_ms: i64,
}

/// Adds a record to `out`.
pub(crate) fn put_record(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Changes(entry) => {
            out.push(b'c');
            put_i64(out, entry.revision);
            put_u32(out, entry.events.len());
            for event in &entry.events {
                put_change(out, &event.kv, event.deleted);
            }
        }
        Record::Compact(revision) => {
            out.push(b'k');
            put_i64(out, *revision);
        }
        Record::Lease { id, ttl, expires_ms } => {
            out.push(b'l');
            put_i64(out, *id);
            put_terms(out, &LeaseTerms { ttl: *ttl, expires_ms: *expires_ms });
        }
        Record::LeaseEnd(id) => {
            out.push(b'e');
            put_i64(out, *id);
        }
    }
}

pub(crate) fn put_change(out: &mut Vec<u8>, kv: &KeyValue, deleted: bool) {
    out.push(u8::from(deleted));
    for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
        put_i64(out, number);
    }
    for bytes in [&kv.key, &kv.value] {
        put_u32(out, bytes.len());
        out.extend_from_slice(bytes);
    }
}

pub(crate) fn put_terms(out: &mut Vec<u8>, terms: &LeaseTerms) {
    put_i64(out, i64::try_from(terms.ttl.as_millis()).unwrap_or(i64::MAX));
    put_i64(out, terms.expires_ms);
}

pub(crate) fn put_i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Lengths are 32-bit: a key, value or batch of 4 GiB is refused long before, by the API server's limits.
pub(crate) fn put_u32(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).expect("shorter than 4 GiB").to_le_bytes());
}

const SEAL_BYTES: usize = size_of::<u32>();

/// What `fill` writes, behind a CRC-32 of it and of the `key` it is stored under; made in a buffer that is used again.
pub(crate) fn seal<'a>(buffer: &'a mut Vec<u8>, key: &[u8], fill: impl FnOnce(&mut Vec<u8>)) -> &'a [u8] {
    buffer.clear();
    buffer.extend_from_slice(&[0; SEAL_BYTES]);
    fill(buffer);
    let crc = checksum(&[key, &buffer[SEAL_BYTES..]]);
    buffer[..SEAL_BYTES].copy_from_slice(&crc.to_le_bytes());
    buffer
}

/// Takes the content out of what [`seal`] made; the content's [`Reader`], or the damage.
pub(crate) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Result<Reader<'a>> {
    match sealed.split_first_chunk() {
        Some((crc, content)) if u32::from_le_bytes(*crc) == checksum(&[key, content]) => Ok(Reader(content)),
        _ => Err(StoreError::Corrupt(format!("row {key:02x?} does not match its checksum"))),
    }
}

pub(crate) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Reads what the functions above wrote.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn record(&mut self) -> Result<Stored> {
        let [tag] = self.array()?;
        match tag {
            b'c' => {
                let revision = self.i64()?;
                let changes = (0..self.u32()?).map(|_| self.change()).collect::<Result<_>>()?;
                Ok(Stored::Changes { revision, changes })
            }
            b'k' => Ok(Stored::Compact(self.i64()?)),
            b'l' => Ok(Stored::Lease(self.i64()?, self.terms()?)),
            b'e' => Ok(Stored::LeaseEnd(self.i64()?)),
            other => Err(StoreError::Corrupt(format!("unknown record {other:#04x}"))),
        }
    }

    pub(crate) fn change(&mut self) -> Result<Change> {
        let [deleted] = self.array()?;
        let (create_revision, mod_revision) = (self.i64()?, self.i64()?);
        let (version, lease) = (self.i64()?, self.i64()?);
        let (key, value) = (self.bytes()?, self.bytes()?);
        Ok(Change { kv: KeyValue { key, value, create_revision, mod_revision, version, lease }, deleted: deleted != 0 })
    }

    pub(crate) fn terms(&mut self) -> Result<LeaseTerms> {
        let ttl = Duration::from_millis(self.i64()?.unsigned_abs());
        Ok(LeaseTerms { ttl, expires_ms: self.i64()? })
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<Bytes> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(too_short)?;
        self.0 = rest;
        Ok(*array)
    }
}

fn too_short() -> StoreError {
    StoreError::Corrupt("a record ends too early".into())
}
