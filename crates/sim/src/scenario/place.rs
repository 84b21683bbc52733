//! Values that know where they stand in their file.
//!
//! serde_yaml tells the line of what cannot be read, but not of what was read. So values are numbered as they are read,
//! and whoever later finds one wrong has the file [read again](locate) with the order to fail at that number: the
//! reader then tells the line.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

/// The number of a value in its file, in the order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

/// A value with its place.
#[derive(Clone, Debug)]
pub struct At<T> {
    value: T,
    /// Where it stands.
    pub place: Place,
}

/// What is wrong with a scenario, for people: `file:line: what is wrong, and what to do`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct Refusal {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, with a hint.
    pub message: String,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which value.
    pub place: Place,
    /// What is wrong, with a hint.
    pub message: String,
}

#[derive(Default)]
struct Reading {
    next: usize,
    fail: Option<Wrong>,
}

thread_local! {
    static READING: RefCell<Reading> = RefCell::default();
}

/// Numbers a value that has just been read, or fails at it.
fn arrive<E: de::Error>() -> Result<Place, E> {
    READING.with_borrow_mut(|reading| {
        let place = Place(reading.next);
        reading.next += 1;
        match &reading.fail {
            Some(wrong) if wrong.place == place => Err(E::custom(&wrong.message)),
            _ => Ok(place),
        }
    })
}

/// Reads a file.
///
/// # Errors
/// It is not what it should be; the error names file and line.
pub fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Refusal> {
    READING.set(Reading::default());
    serde_yaml_ng::from_str(text).map_err(|error| refusal(file, &error))
}

/// Where in its file a value stands that is wrong.
pub fn locate<T: DeserializeOwned>(file: &str, text: &str, wrong: Wrong) -> Refusal {
    let message = wrong.message.clone();
    READING.set(Reading { next: 0, fail: Some(wrong) });
    let again = serde_yaml_ng::from_str::<T>(text);
    READING.set(Reading::default());
    match again {
        Err(error) => refusal(file, &error),
        Ok(_) => Refusal { file: file.into(), line: 1, message },
    }
}

fn refusal(file: &str, error: &serde_yaml_ng::Error) -> Refusal {
    let line = error.location().map_or(1, |location| location.line());
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let hint = misspelt(message).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    Refusal { file: file.into(), line, message: format!("{message}{hint}") }
}

/// The known name nearest to an unknown one, out of serde's message.
fn misspelt(message: &str) -> Option<&str> {
    let mut names = message.split('`').skip(1).step_by(2);
    let wrong = message.contains("unknown field").then(|| names.next())??;
    let near = names.map(|name| (distance(wrong, name), name)).min()?;
    (near.0 <= wrong.len() / 2).then_some(near.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

impl<T> At<T> {
    /// That it is wrong.
    pub fn wrong(&self, message: impl Into<String>) -> Wrong {
        Wrong { place: self.place, message: message.into() }
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A value that is written in one word or line.
impl<'de, T: FromStr<Err = String>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<At<T>, D::Error> {
        struct Word<T>(PhantomData<T>);
        impl<T: FromStr<Err = String>> Visitor<'_> for Word<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<At<T>, E> {
                let place = arrive()?;
                Ok(At { value: text.parse().map_err(E::custom)?, place })
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<At<T>, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<At<T>, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<At<T>, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Word(PhantomData))
    }
}

/// A mapping with its place.
#[derive(Clone, Debug)]
pub struct Block<T>(pub At<T>);

impl<T> Deref for Block<T> {
    type Target = At<T>;

    fn deref(&self) -> &At<T> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Block<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Block<T>, D::Error> {
        struct Mapping<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Mapping<T> {
            type Value = Block<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of fields to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Block<T>, A::Error> {
                let place = arrive()?;
                Ok(Block(At { value: T::deserialize(MapAccessDeserializer::new(map))?, place }))
            }
        }
        deserializer.deserialize_map(Mapping(PhantomData))
    }
}

/// Any text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub String);

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Text, String> {
        Ok(Text(text.to_owned()))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A number that is not negative.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Number(pub f64);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Number, String> {
        let number = text.parse().ok().filter(|number: &f64| *number >= 0.0 && number.is_finite());
        number.map(Number).ok_or_else(|| format!("{text} is not a number from 0 on"))
    }
}

/// A whole number that is not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u32);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        text.parse().map(Count).map_err(|_| format!("{text} is not a whole number from 0 on"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Garden {
        trees: At<Count>,
        #[serde(default)]
        beds: Vec<Block<Bed>>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bed {
        #[allow(dead_code)]
        flower: At<Text>,
    }

    const FILE: &str = "trees: 3\nbeds:\n  - flower: rose\n  - {flower: tulip}\n";

    #[test]
    fn what_cannot_be_read_has_a_line_and_a_hint() {
        for (text, line, hint) in [
            ("trees: -1\n", 1, "-1 is not a whole number"),
            ("beds: []\ntrees: 3\ntree: 4\n", 3, "did you mean `trees`?"),
            ("trees: 3\nbeds:\n  - flowers: rose\n", 3, "did you mean `flower`?"),
            ("trees: 3\nbeds:\n  - 4\n", 3, "a mapping of fields"),
            ("trees: 3\nbeds: }\n", 2, ""),
        ] {
            let refused = read::<Garden>("g.yaml", text).unwrap_err();
            assert_eq!((refused.line, refused.file.as_str()), (line, "g.yaml"), "{refused}");
            assert!(refused.message.contains(hint), "{refused}");
        }
    }

    #[test]
    fn what_was_read_can_be_found_again() {
        let garden: Garden = read("g.yaml", FILE).unwrap();
        for (place, line) in [(garden.trees.place, 1), (garden.beds[0].place, 3), (garden.beds[1].flower.place, 4)] {
            let wrong = Wrong { place, message: "too much of it".into() };
            let refused = locate::<Garden>("g.yaml", FILE, wrong);
            assert_eq!(refused.line, line);
            assert!(refused.message.ends_with("too much of it"), "{refused}");
        }
    }
}
