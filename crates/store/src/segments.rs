//! The log as files: begun one after another, done with together, and written over again.
//!
//! To write over what a file holds already is twice as fast as to append to it: the file system need not note where the
//! bytes lie and how long the file is, so an `fdatasync` is one trip to the disk instead of two. So the log lies in
//! segments `wal-<first sequence>`, and one that no longer counts, because a database holds all it led to, becomes the
//! next. What it held before is still there behind its newest frame; the numbers of those frames are too low.

use std::path::{Path, PathBuf};

use crate::codec::Reader;
use crate::sled::disk;
use crate::wal::{self, Wal};
use crate::{Result, StoreError};

/// A log in segments; the last of them is being written.
#[derive(Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
    current: Wal,
    /// Older ones that count, with their frames' bytes; oldest first.
    full: Vec<Segment>,
    /// Those that no longer count.
    spare: Vec<PathBuf>,
}

/// A segment that is full.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    bytes: u64,
}

impl Segments {
    /// Opens a directory's log: `frame` gets the payload of each frame after number `sequence`, which is counted up.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a frame is damaged or missing.
    pub(crate) fn open(
        dir: &Path,
        sequence: &mut u64,
        mut frame: impl FnMut(u64, Reader<'_>) -> Result<()>,
    ) -> Result<Segments> {
        let mut paths = wal::list(dir)?;
        // Whoever was stopped before it could remove them has left them.
        while let [oldest, next, ..] = &paths[..]
            && wal::first_frame(next)? <= *sequence + 1
        {
            std::fs::remove_file(oldest).map_err(disk(oldest))?;
            paths.remove(0);
        }
        let mut full = Vec::new();
        for path in paths {
            let first = wal::first_frame(&path)?;
            if first > *sequence + 1 {
                let (from, path) = (*sequence + 1, path.display());
                return Err(StoreError::Corrupt(format!("the frames from {from} to {path} are gone")));
            }
            let bytes = wal::replay(&path, first, |found, payload| {
                if found <= *sequence {
                    return Ok(());
                }
                *sequence = found;
                frame(found, payload)
            })?;
            full.push(Segment { path, bytes });
        }
        let current = match full.pop() {
            Some(newest) => Wal::resume(&newest.path, newest.bytes)?,
            None => Wal::create(dir, *sequence + 1, None)?,
        };
        Ok(Segments { dir: dir.into(), current, full, spare: Vec::new() })
    }

    /// How long the log is.
    pub(crate) fn bytes(&self) -> u64 {
        self.current.bytes + self.full.iter().map(|segment| segment.bytes).sum::<u64>()
    }

    /// Appends a frame with the payload that `fill` writes, and waits until it is on disk. A segment is full when it is
    /// longer than `segment_bytes`.
    pub(crate) fn append(&mut self, sequence: u64, segment_bytes: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        if self.current.bytes >= segment_bytes {
            match self.begin_next(sequence) {
                // There may be room for the frame all the same.
                Err(StoreError::NoSpace) => {}
                begun => begun?,
            }
        }
        self.current.append(sequence, fill)
    }

    /// Begins the segment whose first frame will be number `sequence`, if there are any before.
    fn begin_next(&mut self, sequence: u64) -> Result<()> {
        if self.current.bytes == 0 {
            return Ok(());
        }
        let next = Wal::create(&self.dir, sequence, self.spare.last().map(PathBuf::as_path))?;
        self.spare.pop();
        let Wal { path, bytes, .. } = std::mem::replace(&mut self.current, next);
        self.full.push(Segment { path, bytes });
        Ok(())
    }

    /// Gives away all frames before number `sequence`, the next one.
    pub(crate) fn split_off(&mut self, sequence: u64) -> Result<Vec<Segment>> {
        self.begin_next(sequence)?;
        Ok(std::mem::take(&mut self.full))
    }

    /// Takes segments back that count after all.
    pub(crate) fn put_back(&mut self, mut older: Vec<Segment>) {
        older.append(&mut self.full);
        self.full = older;
    }

    /// Segments no longer count: some are kept to be written over, as long as all files together take no more than
    /// `limit_bytes`.
    pub(crate) fn retire(&mut self, segments: Vec<Segment>, limit_bytes: u64) -> Result<()> {
        self.spare.extend(segments.into_iter().map(|segment| segment.path));
        let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
        let counting = self.full.iter().map(|segment| segment.path.as_path()).chain([self.current.path.as_path()]);
        let mut total: u64 = counting.map(length).sum();
        let mut kept = Vec::new();
        for path in std::mem::take(&mut self.spare) {
            total += length(&path);
            if total <= limit_bytes {
                kept.push(path);
            } else {
                total -= length(&path);
                std::fs::remove_file(&path).map_err(disk(&path))?;
            }
        }
        self.spare = kept;
        Ok(())
    }

    /// Gives up the room that is kept for what comes; tells whether there was any.
    pub(crate) fn remove_spare(&mut self) -> bool {
        let paths = std::mem::take(&mut self.spare);
        for path in &paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(%error, "a log of no use stays");
            }
        }
        !paths.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT_BYTES: u64 = 1500;

    /// The frames of a directory's log after number `sequence`, in order.
    fn open(dir: &Path, mut sequence: u64) -> Result<(Segments, Vec<(u64, usize)>)> {
        let mut frames = Vec::new();
        let segments = Segments::open(dir, &mut sequence, |number, payload| {
            frames.push((number, payload.0.len()));
            Ok(())
        })?;
        Ok((segments, frames))
    }

    fn append(segments: &mut Segments, sequence: u64, bytes: usize) {
        let fill = |payload: &mut Vec<u8>| payload.extend(std::iter::repeat_n(sequence as u8, bytes));
        segments.append(sequence, SEGMENT_BYTES, fill).unwrap();
    }

    /// Eight long frames that count no longer, and over the first of them five short ones that do.
    fn written_over() -> (tempfile::TempDir, PathBuf, u64) {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(dir.path(), 0).unwrap();
        (1..=8).for_each(|sequence| append(&mut segments, sequence, 1000));
        let old = segments.split_off(9).unwrap();
        segments.retire(old, u64::MAX).unwrap();
        // The first of these is alone in the segment that was begun above.
        append(&mut segments, 9, SEGMENT_BYTES as usize);
        (10..=13).for_each(|sequence| append(&mut segments, sequence, 10));
        let Wal { path, bytes, .. } = &segments.current;
        assert!(path.metadata().unwrap().len() > 2000, "it lies in a file that was longer");
        (dir, path.clone(), *bytes)
    }

    #[test]
    fn behind_the_newest_frame_lies_what_the_file_was_before_and_counts_for_nothing() {
        let (dir, ..) = written_over();
        for _ in 0..2 {
            let (_, frames) = open(dir.path(), 8).unwrap();
            assert_eq!(frames, [(9, SEGMENT_BYTES as usize), (10, 10), (11, 10), (12, 10), (13, 10)]);
        }
    }

    #[test]
    fn damage_before_the_newest_frame_is_told_from_what_the_file_was_before() {
        let (dir, path, bytes) = written_over();
        let whole = std::fs::read(&path).unwrap();
        let newest = bytes as usize / 4 * 3;
        for at in (0..bytes as usize).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, damaged).unwrap();
            match open(dir.path(), 8) {
                Ok((_, frames)) if at >= newest => assert_eq!(frames.last(), Some(&(12, 10)), "torn at {at}"),
                Err(StoreError::Corrupt(_)) if at < newest => {}
                other => panic!("byte {at} of {bytes}: {other:?}"),
            }
        }
    }

    #[test]
    fn segments_that_count_no_longer_take_no_more_room_than_they_may() {
        let (dir, ..) = written_over();
        let (mut segments, _) = open(dir.path(), 8).unwrap();
        assert_eq!(wal::list(dir.path()).unwrap().len(), 2, "those from before are removed when a log is opened");
        (14..=40).for_each(|sequence| append(&mut segments, sequence, 1000));
        let old = segments.split_off(41).unwrap();
        assert!(old.len() > 10);
        segments.retire(old, 8000).unwrap();
        let length = |path: &PathBuf| path.metadata().unwrap().len();
        let total: u64 = wal::list(dir.path()).unwrap().iter().map(length).sum();
        assert!((4000..=8000).contains(&total), "{total}");
        assert!(segments.remove_spare() && !segments.remove_spare());
        assert_eq!(wal::list(dir.path()).unwrap().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        /// Whatever was appended, handed over and cut off: what counts is there after a crash at any moment.
        #[test]
        fn a_crash_loses_nothing_that_counts(steps in prop::collection::vec((0_usize..2500, 0_u8..10), 1..60)) {
            let dir = tempfile::tempdir().unwrap();
            let (mut segments, _) = open(dir.path(), 0).unwrap();
            let (mut in_database, mut expected) = (0, Vec::new());
            for (sequence, (bytes, what)) in (1..).zip(steps) {
                append(&mut segments, sequence, bytes);
                expected.push((sequence, bytes));
                match what {
                    0 | 1 => {
                        let old = segments.split_off(sequence + 1).unwrap();
                        (in_database, expected) = (sequence, Vec::new());
                        segments.retire(old, 6000).unwrap();
                    }
                    2 => {
                        let frames;
                        drop(segments);
                        (segments, frames) = open(dir.path(), in_database).unwrap();
                        prop_assert_eq!(&frames, &expected);
                    }
                    _ => {}
                }
            }
        }
    }
}
