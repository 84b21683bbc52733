//! What `kubectl get` prints: the columns and cells of the server-side Table.
//!
//! `data/columns.tsv` has a header line `=<type>…` for the kinds that print alike, then a line per column: its name,
//! its type (`:format` after it; `+` for those of `-o wide`), what its cells hold, and its description: a text, or
//! the field of [`crate::openapi`] that has it. A name alone is one of [`COMMON`]. The first kind of the table, which
//! has no name, is that of all others.
//!
//! A cell is `[how ]path[|default]`: the value at the path (of several, the first that is there; `:key` after it is
//! a field of each item), shown in one of the ways of [`How`]. `*name` is a function of [`cells`], whose further
//! cells are those of the lines below it that have none.

mod cells;
mod pod;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

pub use pod::row_conditions;

use crate::resource::Column;
use crate::rules::is_empty;
use crate::validate::list;

const TABLE: &str = include_str!("../data/columns.tsv");

/// The columns that many kinds have.
const COMMON: [&str; 4] = [
    "Name\tstring:name\tmetadata.name\tmeta.v1.ObjectMeta.name",
    "Age\tstring\tsince metadata.creationTimestamp\tmeta.v1.ObjectMeta.creationTimestamp",
    "Containers\tstring+\tjoin spec.template.spec.containers:name\tNames of each container in the template.",
    "Images\tstring+\tjoin spec.template.spec.containers:image\tImages referenced by each container in the template.",
];

/// What a cell holds.
#[derive(Debug)]
enum Cell {
    Path {
        how: How,
        paths: Vec<&'static str>,
        key: &'static str,
        default: Value,
    },
    One(fn(&Value) -> String),
    Several(fn(&Value) -> Vec<Value>),
    /// One of those of a line above.
    Above,
}

/// How a value becomes a cell.
#[derive(Clone, Copy, Debug)]
enum How {
    /// As it is.
    Plain,
    /// `text`: as a text.
    Text,
    /// `flag`: `True` or `False`.
    Flag,
    /// `items`: how many there are, at all paths together.
    Items,
    /// `since`: how long ago.
    Since,
    /// `duration`: seconds.
    Duration,
    /// `labels`: `a=b,c=d`.
    Labels,
    /// `selector`: a LabelSelector.
    Selector,
    /// `join`: with commas.
    Join,
    /// `modes`: access modes, such as `RWO,ROX`.
    Modes,
}

/// The rows of a kind's Table.
#[derive(Debug, Default)]
pub struct Layout {
    columns: Vec<Column>,
    cells: Vec<Cell>,
}

static LAYOUTS: LazyLock<BTreeMap<&str, Layout>> = LazyLock::new(|| {
    let mut layouts: BTreeMap<&str, Layout> = BTreeMap::new();
    let mut kinds = "";
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('=') {
            Some(names) => kinds = names,
            None => kinds.split(' ').for_each(|kind| layouts.entry(kind).or_default().add(line)),
        }
    }
    layouts
});

/// The layout of the kind with that type name, such as `core.v1.Pod`.
pub fn layout(ty: &str) -> &'static Layout {
    static NONE: Layout = Layout { columns: Vec::new(), cells: Vec::new() };
    LAYOUTS.get(ty).or_else(|| LAYOUTS.get("")).unwrap_or(&NONE)
}

impl Layout {
    fn add(&mut self, line: &'static str) {
        let line = COMMON.into_iter().find(|common| common.split('\t').next() == Some(line)).unwrap_or(line);
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or_default();
        let (name, kind, cell, description) = (next(), next(), next(), next());
        let plain = kind.trim_end_matches('+');
        let (kind, format) = plain.split_once(':').unwrap_or((plain, ""));
        self.cells.push(parse_cell(cell, kind));
        self.columns.push(Column {
            name: name.into(),
            kind: kind.into(),
            format: format.into(),
            description: description.into(),
            priority: i32::from(line.contains("+\t")),
        });
    }

    /// The columns; a description that is a field's name stands for that field's.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// An object's cells, one for each column.
    pub fn cells(&self, object: &Value) -> Vec<Value> {
        let mut cells = Vec::with_capacity(self.cells.len());
        for cell in &self.cells {
            match cell {
                Cell::Path { how, paths, key, default } => cells.push(how.show(object, paths, key, default)),
                Cell::One(code) => cells.push(code(object).into()),
                Cell::Several(code) => cells.extend(code(object)),
                Cell::Above => {}
            }
        }
        cells
    }
}

fn parse_cell(text: &'static str, kind: &str) -> Cell {
    if text.is_empty() {
        return Cell::Above;
    }
    if let Some(name) = text.strip_prefix('*') {
        return cells::named(name).unwrap_or(Cell::Above);
    }
    let (how, rest) = text.split_once(' ').unwrap_or(("", text));
    let (path, default) = rest.split_once('|').map_or((rest, None), |(path, default)| (path, Some(default)));
    let (path, key) = path.split_once(':').unwrap_or((path, ""));
    let how = match how {
        "text" => How::Text,
        "flag" => How::Flag,
        "items" => How::Items,
        "since" => How::Since,
        "duration" => How::Duration,
        "labels" => How::Labels,
        "selector" => How::Selector,
        "join" => How::Join,
        "modes" => How::Modes,
        _ => How::Plain,
    };
    let default = match (default, kind) {
        (Some(text), _) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        (None, "integer") => 0.into(),
        (None, "boolean") => false.into(),
        (None, _) if matches!(how, How::Plain | How::Text) => "".into(),
        (None, _) => Value::Null,
    };
    Cell::Path { how, paths: path.split(',').collect(), key, default }
}

impl How {
    fn show(self, object: &Value, paths: &[&str], key: &str, default: &Value) -> Value {
        let count = |path: &&str| {
            let value = at(object, path);
            value.as_array().map_or_else(|| value.as_object().map_or(0, serde_json::Map::len), Vec::len)
        };
        let mut values = paths.iter().map(|path| at(object, path)).filter(|value| !is_empty(value));
        let value = values.next().unwrap_or(&Value::Null);
        if value.is_null() && !default.is_null() && !matches!(self, How::Items) {
            return default.clone();
        }
        match self {
            How::Plain => value.clone(),
            How::Text => value.as_str().map_or_else(|| value.to_string(), str::to_owned).into(),
            How::Flag => if *value == true { "True" } else { "False" }.into(),
            How::Items => paths.iter().map(count).sum::<usize>().into(),
            How::Since => since(value).into(),
            How::Duration => human_duration(value.as_i64().unwrap_or_default()).into(),
            How::Labels => labels(value).into(),
            How::Selector => selector(value).into(),
            How::Join => {
                let items = value.as_array().into_iter().flatten();
                join(items.map(|item| if key.is_empty() { item } else { &item[key] }).filter_map(Value::as_str)).into()
            }
            How::Modes => modes(value).into(),
        }
    }
}

/// The value at a path of keys and indices.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, key| match value {
        Value::Array(items) => key.parse().ok().and_then(|i: usize| items.get(i)).unwrap_or(&Value::Null),
        _ => &value[key],
    })
}

/// The text at a path; empty if there is none.
fn str_at<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

/// The number at a path; 0 if there is none.
fn int_at(object: &Value, path: &str) -> i64 {
    at(object, path).as_i64().unwrap_or_default()
}

/// `text`, or `<none>` if it is empty.
fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".into() } else { text }
}

fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

fn labels(map: &Value) -> String {
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    or_none(map.as_object().into_iter().flatten().map(pair).collect::<Vec<_>>().join(","))
}

fn selector(value: &Value) -> String {
    or_none(crate::selector::Selector::from_json(value).map(|s| s.to_string()).unwrap_or_default())
}

fn modes(modes: &Value) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |long: &str| modes.as_array().is_some_and(|modes| modes.iter().any(|mode| mode == long));
    join(short.iter().filter(|(long, _)| has(long)).map(|(_, short)| *short))
}

/// What a column shows: the description itself, or that of the field it names.
pub fn description(column: &Column) -> &str {
    static FIELDS: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
        let named = LAYOUTS.values().flat_map(|layout| &layout.columns).map(|column| column.description.as_str());
        crate::openapi::field_descriptions(named.filter(|text| !text.contains(' ')))
    });
    FIELDS.get(column.description.as_str()).unwrap_or(&column.description)
}

/// How long ago a `metav1.Time` was, as `kubectl` prints it; `<unknown>` when it is not one.
pub fn since(time: &Value) -> String {
    let Some(time) = time.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else {
        return "<unknown>".into();
    };
    human_duration(coracle_clock::now().as_second() - time.as_second())
}

/// A duration in seconds with the precision people want: two units at most, the finer one dropped as it
/// grows (`119s`, `3m12s`, `45m`, `3h5m`, `12h`, `2d3h`, `9d`, `2y40d`, `9y`).
pub fn human_duration(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86_400);
    // A clock that is a little behind the server's must not print a negative age.
    let two = |major: i64, unit: char, minor: i64, sub: char| match minor {
        0 => format!("{major}{unit}"),
        _ => format!("{major}{unit}{minor}{sub}"),
    };
    match () {
        () if s < -1 => "<invalid>".into(),
        () if s < 0 => "0s".into(),
        () if s < 120 => format!("{s}s"),
        () if m < 10 => two(m, 'm', s % 60, 's'),
        () if m < 180 => format!("{m}m"),
        () if h < 8 => two(h, 'h', m % 60, 'm'),
        () if h < 48 => format!("{h}h"),
        () if h < 192 => two(d, 'd', h % 24, 'h'),
        () if d < 730 => format!("{d}d"),
        () if d < 2920 => two(d / 365, 'y', d % 365, 'd'),
        () => format!("{}y", d / 365),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (183_600, "2d3h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (66_528_000, "2y40d"),
            (252_288_000, "8y"),
            (-1, "0s"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn every_line_is_understood_and_every_kind_has_a_cell_for_each_column() {
        for (kinds, layout) in LAYOUTS.iter() {
            assert!(kinds.is_empty() || crate::schema::type_of(kinds).is_some(), "{kinds}");
            assert_eq!(layout.cells(&json!({})).len(), layout.columns.len(), "{kinds}");
            for column in &layout.columns {
                let known = ["string", "integer", "boolean", "date"].contains(&column.kind.as_str());
                let described = description(column).contains(' ') || column.name == "Handler";
                assert!(known && described, "{kinds}: {column:?}");
            }
        }
    }

    /// `samples.tsv`: a kind, an object and what the cells after its name are, but for ages.
    #[test]
    fn rows_read_as_kubectl_prints_them() {
        for line in include_str!("table/samples.tsv").lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.split('\t');
            let mut next = || parts.next().unwrap();
            let (kind, object, cells) = (next(), next(), next());
            let object = serde_json::from_str(object).unwrap_or_else(|e| panic!("{e}: {line}"));
            let row = layout(kind).cells(&object);
            let shown: Vec<String> = row[1..].iter().filter(|c| *c != "<unknown>").map(Value::to_string).collect();
            assert_eq!(shown.join(" "), cells, "{line}");
        }
    }
}
