//! Progress: bars and spinners on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use coracle_images::{Progress, Stage};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Shows what takes time, one line an item.
#[derive(Debug)]
pub struct Display {
    bars: Option<MultiProgress>,
    items: Mutex<BTreeMap<String, Item>>,
}

#[derive(Debug)]
struct Item {
    bar: ProgressBar,
    stage: String,
    since: coracle_clock::Instant,
}

const LOCK: &str = "no code panics while it holds the items";

impl Display {
    /// On standard error.
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Display { bars, items: Mutex::default() }
    }

    /// `item` is at `stage`; the line is made if there is none.
    pub fn stage(&self, item: &str, stage: &str) {
        self.update(item, stage, 0, 0);
    }

    /// `item` is done; `note` says how it ended.
    pub fn done(&self, item: &str, note: &str) {
        let mut items = self.items.lock().expect(LOCK);
        let Some(entry) = items.remove(item) else { return };
        let seconds = entry.since.elapsed().as_secs_f32();
        if self.bars.is_some() {
            entry.bar.set_style(plain());
            entry.bar.finish_with_message(format!("✓ {item:<24} {note} ({seconds:.1} s)"));
        } else {
            eprintln!("{item}: {note} ({seconds:.1} s)");
        }
    }

    /// Removes what is still shown, so that an error stands alone.
    pub fn clear(&self) {
        self.items.lock().expect(LOCK).clear();
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }

    fn update(&self, item: &str, stage: &str, done: u64, total: u64) {
        let mut items = self.items.lock().expect(LOCK);
        let entry = items.entry(item.to_owned()).or_insert_with(|| {
            let bar = match &self.bars {
                Some(bars) => bars.add(ProgressBar::new_spinner()),
                None => ProgressBar::hidden(),
            };
            bar.enable_steady_tick(Duration::from_millis(100));
            Item { bar, stage: String::new(), since: coracle_clock::instant() }
        });
        if entry.stage != stage {
            entry.stage = stage.to_owned();
            if self.bars.is_none() {
                eprintln!("{item}: {stage}");
            }
            entry.bar.set_style(if total > 0 { measured() } else { spinner() });
        }
        entry.bar.set_message(format!("{item:<24} {stage}"));
        if total > 0 {
            entry.bar.set_style(measured());
            entry.bar.set_length(total);
            entry.bar.set_position(done);
        }
    }
}

impl Progress for Display {
    fn report(&self, item: &str, stage: Stage, done: u64, total: u64) {
        match stage {
            Stage::Done => self.done(item, "ready"),
            stage => self.update(item, &stage.to_string(), done, total),
        }
    }

    fn warn(&self, item: &str, message: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(format!("! {item}: {message}"))),
            None => eprintln!("warning: {item}: {message}"),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn spinner() -> ProgressStyle {
    style("{spinner:.cyan} {msg} {elapsed:.dim}")
}

fn measured() -> ProgressStyle {
    style("{spinner:.cyan} {msg:<52} {bar:24.cyan/dim} {percent:>3} %")
}

fn plain() -> ProgressStyle {
    style("{msg}")
}
