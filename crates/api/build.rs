//! Packs the descriptions of all types: they are four fifths of the data, and few ask for them.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

const SOURCE: &str = "data/descriptions.tsv";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = Path::new(&std::env::var("OUT_DIR")?).join("descriptions.gz");
    let mut encoder = GzEncoder::new(File::create(out)?, Compression::best());
    encoder.write_all(&fs::read(SOURCE)?)?;
    encoder.finish()?;
    Ok(())
}
