//! The file in which etcd keeps its data, and which a snapshot is: bbolt's.
//!
//! ```text
//! page 0, 1   two copies of where to begin
//! page 2      the list of free pages: none
//! page 3 …    trees of sorted rows: leaves with rows, branches above them; one tree a bucket
//! the last    the tree of buckets: name → where its tree begins
//! ```
//!
//! A page is a header (number, kind, count, pages that follow it), one element of 16 bytes a row, then the rows' bytes,
//! which each element finds relative to itself. All numbers are little-endian.

mod read;

use std::collections::BTreeMap;

pub(crate) use read::read;

const PAGE_BYTES: usize = 4096;
const HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const META_BYTES: usize = 64;
const MAGIC: u32 = 0xED0C_DAED;
const FORMAT: u32 = 2;

/// The kinds of pages.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
/// Marks a row that is a bucket.
const BUCKET: u32 = 0x01;

/// Rows by key.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A whole file with these buckets.
pub(crate) fn write(buckets: &BTreeMap<&str, Rows>) -> Vec<u8> {
    let mut file = vec![0; 2 * PAGE_BYTES];
    page(&mut file, FREE_LIST, &[]);
    let mut names = Vec::new();
    for (name, rows) in buckets {
        let rows = rows.iter().map(|(key, value)| Row { key: key.clone(), value: value.clone(), extra: 0 }).collect();
        let mut place = tree(&mut file, rows).to_le_bytes().to_vec();
        place.resize(16, 0);
        names.push(Row { key: name.as_bytes().to_vec(), value: place, extra: BUCKET });
    }
    let root = tree(&mut file, names);
    let end = (file.len() / PAGE_BYTES) as u64;
    for copy in 0..2 {
        let mut meta = Vec::with_capacity(META_BYTES);
        [MAGIC, FORMAT, PAGE_BYTES as u32, 0].iter().for_each(|number| meta.extend(number.to_le_bytes()));
        [root, 0, 2, end, copy].iter().for_each(|number| meta.extend(number.to_le_bytes()));
        meta.extend(fnv1a(&meta).to_le_bytes());
        let at = copy as usize * PAGE_BYTES;
        file[at..at + HEADER_BYTES].copy_from_slice(&header(copy, META, 0, 0));
        file[at + HEADER_BYTES..at + HEADER_BYTES + META_BYTES].copy_from_slice(&meta);
    }
    file
}

/// A row of a leaf (`extra`: whether it is a bucket), or of a branch (`value`: the page below, 8 bytes).
struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
    extra: u32,
}

/// Writes rows as leaves, and branches above them until there is one; returns the page where the tree begins.
fn tree(file: &mut Vec<u8>, mut rows: Vec<Row>) -> u64 {
    let mut kind = LEAF;
    loop {
        let mut above = Vec::new();
        let mut rest = &rows[..];
        while !rest.is_empty() || above.is_empty() {
            // A leaf's only row may need several pages; a branch of one would lead nowhere.
            let fewest = if kind == LEAF { 1 } else { 2 };
            let mut bytes = HEADER_BYTES;
            let overflows = |row: &Row| {
                bytes += row.bytes(kind);
                bytes > PAGE_BYTES
            };
            let count = rest.iter().position(overflows).unwrap_or(rest.len()).max(fewest).min(rest.len());
            let (these, others) = rest.split_at(count);
            let key = these.first().map_or_else(Vec::new, |row| row.key.clone());
            above.push(Row { key, value: page(file, kind, these).to_le_bytes().to_vec(), extra: 0 });
            rest = others;
        }
        if above.len() == 1 {
            return u64::from_le_bytes(above[0].value[..].try_into().unwrap_or_default());
        }
        (rows, kind) = (above, BRANCH);
    }
}

impl Row {
    fn bytes(&self, kind: u16) -> usize {
        ELEMENT_BYTES + self.key.len() + if kind == LEAF { self.value.len() } else { 0 }
    }
}

/// Adds a page, with as many after it as it needs; returns its number.
fn page(file: &mut Vec<u8>, kind: u16, rows: &[Row]) -> u64 {
    let begin = file.len();
    let bytes = HEADER_BYTES + rows.iter().map(|row| row.bytes(kind)).sum::<usize>();
    let pages = bytes.div_ceil(PAGE_BYTES);
    let number = (begin / PAGE_BYTES) as u64;
    file.extend(header(number, kind, rows.len() as u16, pages as u32 - 1));
    // Where the next row's bytes lie, from where its element begins.
    let mut position = rows.len() * ELEMENT_BYTES;
    for row in rows {
        let (place, key_bytes) = ((position as u32).to_le_bytes(), (row.key.len() as u32).to_le_bytes());
        if kind == LEAF {
            file.extend(row.extra.to_le_bytes());
            file.extend(place);
            file.extend(key_bytes);
            file.extend((row.value.len() as u32).to_le_bytes());
        } else {
            file.extend(place);
            file.extend(key_bytes);
            file.extend(&row.value);
        }
        // The next element begins 16 bytes later, its bytes after this row's.
        position = position + row.bytes(kind) - 2 * ELEMENT_BYTES;
    }
    for row in rows {
        file.extend(&row.key);
        if kind == LEAF {
            file.extend(&row.value);
        }
    }
    file.resize(begin + pages * PAGE_BYTES, 0);
    number
}

fn header(number: u64, kind: u16, count: u16, following: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&number.to_le_bytes());
    header[8..10].copy_from_slice(&kind.to_le_bytes());
    header[10..12].copy_from_slice(&count.to_le_bytes());
    header[12..].copy_from_slice(&following.to_le_bytes());
    header
}

/// The checksum of the first pages: FNV-1a of 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
