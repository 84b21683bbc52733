//! Reading such a file, whoever wrote it: every step checks that it stays within.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::{BRANCH, BUCKET, ELEMENT_BYTES, FORMAT, HEADER_BYTES, LEAF, MAGIC, META_BYTES, Rows, fnv1a};

/// A tree is no deeper than this: at two rows a branch, that is more than a disk holds.
const MAX_DEPTH: usize = 48;
const CIRCLES: &str = "its pages lead in circles";

/// The buckets of a file, by name.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(file: &[u8]) -> Result<BTreeMap<String, Rows>, String> {
    let (page_bytes, root) = begin(file)?;
    let file = File { bytes: file, page_bytes, unvisited: Cell::new(file.len() / page_bytes) };
    let mut buckets = BTreeMap::new();
    file.tree(root, MAX_DEPTH, &mut |kind, name, value| {
        if kind != BUCKET {
            return Err("a row outside of all buckets".into());
        }
        let mut rows = Rows::new();
        let mut add = |_, key: &[u8], value: &[u8]| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(())
        };
        match (u64_at(value, 0)?, value.get(16..)) {
            // A small bucket's only page lies in the row itself.
            (0, Some(page)) => file.page(page, MAX_DEPTH, &mut add)?,
            (root, _) => file.tree(root, MAX_DEPTH, &mut add)?,
        }
        buckets.insert(String::from_utf8_lossy(name).into_owned(), rows);
        Ok(())
    })?;
    Ok(buckets)
}

/// The size of pages and where the tree of buckets begins, by the newer of the two first pages that is whole.
fn begin(file: &[u8]) -> Result<(usize, u64), String> {
    // Where the second one lies depends on the size that the first one tells, or that is usual.
    let second = meta(file, 0).map_or(super::PAGE_BYTES, |meta| meta.1);
    let newest = [meta(file, 0), meta(file, second)].into_iter().flatten().max();
    newest.map(|(_, page_bytes, root)| (page_bytes, root)).ok_or_else(|| "no page tells where it begins".into())
}

/// The transaction that wrote this first page, the size of pages, and where the tree of buckets begins.
fn meta(file: &[u8], at: usize) -> Option<(u64, usize, u64)> {
    let meta = file.get(at + HEADER_BYTES..at + HEADER_BYTES + META_BYTES)?;
    let number = |at| u32_at(meta, at).ok();
    let (sum, page_bytes) = (u64_at(meta, META_BYTES - 8).ok()?, number(8)?);
    let whole = number(0)? == MAGIC && number(4)? == FORMAT && fnv1a(&meta[..META_BYTES - 8]) == sum;
    (whole && page_bytes >= 512).then_some((u64_at(meta, 48).ok()?, page_bytes as usize, u64_at(meta, 16).ok()?))
}

struct File<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    /// Every page lies in one tree at most, so there cannot be more visits than this.
    unvisited: Cell<usize>,
}

/// Takes a row: its mark, key and value.
type Take<'t> = &'t mut dyn FnMut(u32, &[u8], &[u8]) -> Result<(), String>;

impl File<'_> {
    fn tree(&self, page: u64, depth: usize, take: Take<'_>) -> Result<(), String> {
        self.unvisited.set(self.unvisited.get().checked_sub(1).ok_or(CIRCLES)?);
        let at = usize::try_from(page).ok().and_then(|page| page.checked_mul(self.page_bytes));
        let page = at.and_then(|at| self.bytes.get(at..)).ok_or_else(|| format!("there is no page {page}"))?;
        self.page(page, depth, take)
    }

    /// Visits what lies on and below a page. Offsets count from the element that holds them.
    fn page(&self, page: &[u8], depth: usize, take: Take<'_>) -> Result<(), String> {
        let below = depth.checked_sub(1).ok_or(CIRCLES)?;
        let kind = u16_at(page, 8)?;
        for index in 0..usize::from(u16_at(page, 10)?) {
            let at = HEADER_BYTES + index * ELEMENT_BYTES;
            let number = |field: usize| u32_at(page, at + 4 * field).map(|number| number as usize);
            match kind {
                BRANCH => self.tree(u64_at(page, at + 8)?, below, take)?,
                LEAF => {
                    let (mark, key, key_bytes, value_bytes) =
                        (number(0)? as u32, at + number(1)?, number(2)?, number(3)?);
                    let row = page.get(key..key + key_bytes + value_bytes).ok_or("a row lies beyond the end")?;
                    let (key, value) = row.split_at(key_bytes);
                    take(mark, key, value)?;
                }
                other => return Err(format!("a page of the kind {other:#x} in a tree")),
            }
        }
        Ok(())
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    found.ok_or_else(|| "it ends too early".into())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let rows = |count: usize, bytes: usize| -> Rows {
            (0..count).map(|n| (format!("{n:08}").into_bytes(), vec![n as u8; n % bytes])).collect()
        };
        let buckets = BTreeMap::from([("empty", Rows::new()), ("large", rows(20_000, 97)), ("wide", rows(9, 20_000))]);
        let read = read(&super::super::write(&buckets)).unwrap();
        assert_eq!(read.len(), 3);
        for (name, rows) in buckets {
            assert!(read[name] == rows, "{name}");
        }
    }

    #[test]
    fn damage_is_found_or_harmless_and_never_a_panic() {
        let rows: Rows = (0..300_u32).map(|n| (n.to_be_bytes().to_vec(), vec![7; 50])).collect();
        let whole = super::super::write(&BTreeMap::from([("key", rows)]));
        for length in (0..whole.len()).step_by(511) {
            _ = read(&whole[..length]);
        }
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            _ = read(&damaged);
        }
        assert!(read(&[]).is_err());
        assert!(read(&vec![0; 1 << 16]).is_err());
    }
}
