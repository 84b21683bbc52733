//! The structural schema of every built-in type: one table for decoding, protobuf, patches and apply.
//!
//! `data/fields.tsv` has a header line `=<type>` per type, then a line per field: JSON name, protobuf number,
//! type and flags, and how lists merge. It is parsed once, when first needed. OpenAPI documents are made of it
//! ([`crate::openapi`]), and `examples/import_openapi.rs` makes it of upstream's.
//!
//! | type code | meaning |
//! |---|---|
//! | `s` `b` `i` `l` `d` `y` | string, bool, int32, int64, double, bytes (base64) |
//! | `q` `I` `t` `u` `D` | Quantity, IntOrString, Time, MicroTime, Duration |
//! | `r` | any JSON: RawExtension, FieldsV1, JSON |
//! | `B` `A` `S` `X` | a JSON schema or bool, or array, or strings; a list of strings that is a message on the wire |
//! | `core.v1.Pod` | a message |
//! | prefix `[]` `{}` `<` | list of, map from string to, message whose fields stand in its place in JSON |
//! | flag `!` `&` `*` | always written; a struct that is always there; a pointer, whose zero means something |
//! | `p=` `l=` `d=` | patch strategy and key; list or map type and keys; default, where it is not Go's zero |

use std::collections::BTreeMap;
use std::sync::LazyLock;

const TABLE: &str = include_str!("../data/fields.tsv");

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// true or false.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`, whole seconds.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// `metav1.Duration`, such as `1h0m0s`.
    Duration,
    /// Any JSON.
    Raw,
    /// A JSON schema or a bool.
    SchemaOrBool,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
    /// A list of strings wrapped in a message.
    Strings,
    /// A message, by its place in the table.
    Message(u16),
}

/// How many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list.
    List,
    /// A map from string.
    Map,
    /// One message whose fields JSON writes in its parent.
    Inline,
}

/// A field of a type.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: &'static str,
    /// The number in protobuf.
    pub number: u16,
    /// What it holds.
    pub kind: Kind,
    /// How many.
    pub shape: Shape,
    /// Written even when zero.
    pub required: bool,
    /// A struct that is never absent.
    pub always: bool,
    /// A pointer: absent and zero differ.
    pub pointer: bool,
    merge: &'static str,
    /// How server-side apply treats it, if the table says so: what it is called, and keys.
    list: Option<(&'static str, &'static str)>,
}

/// How server-side apply treats a list or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Each scalar for itself.
    Set,
    /// Each item for itself, known by its keys.
    Map(&'static str),
}

impl Field {
    /// The message's type.
    pub fn message(&self) -> Option<&'static Type> {
        match self.kind {
            Kind::Message(index) => SCHEMA.types.get(usize::from(index)),
            Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings => json_schema(),
            _ => None,
        }
    }

    fn part(&self, prefix: &str) -> Option<&'static str> {
        self.merge.split(' ').find_map(|part| part.strip_prefix(prefix))
    }

    /// Whether strategic merge merges the list instead of replacing it, and the key to match items by (empty for
    /// scalars).
    pub fn patch_merge_key(&self) -> Option<&'static str> {
        let (strategies, key) = split(self.part("p=")?);
        strategies.split(',').any(|s| s == "merge").then_some(key)
    }

    /// Whether strategic merge replaces what it would otherwise merge.
    pub fn patch_replaces(&self) -> bool {
        self.part("p=").is_some_and(|text| split(text).0 == "replace")
    }

    /// The `x-kubernetes-patch-strategy` as OpenAPI prints it, and the merge key.
    pub fn patch_strategy(&self) -> Option<(&'static str, &'static str)> {
        self.part("p=").map(split)
    }

    /// The default in OpenAPI, as JSON, where it is not Go's zero; empty for none.
    pub fn default(&self) -> Option<&'static str> {
        self.part("d=")
    }

    /// The list type; lists without one are atomic.
    pub fn list_type(&self) -> ListType {
        match self.list {
            Some(("map", keys)) => ListType::Map(keys),
            Some(("set", _)) => ListType::Set,
            _ => ListType::Atomic,
        }
    }

    /// The list type's name and keys as the table has them, if it says anything.
    pub fn declared_list_type(&self) -> Option<(&'static str, &'static str)> {
        self.list
    }

    /// Whether server-side apply takes the field as a whole although its parts could be told apart.
    pub fn atomic(&self) -> bool {
        match self.shape {
            Shape::List => self.list_type() == ListType::Atomic,
            Shape::Map => self.list == Some(("atomic", "")),
            // A field may say otherwise of a type that is atomic elsewhere.
            _ => self.list != Some(("granular", "")) && self.message().is_some_and(|t| t.atomic),
        }
    }
}

fn split(text: &'static str) -> (&'static str, &'static str) {
    text.split_once(':').unwrap_or((text, ""))
}

/// A type.
#[derive(Clone, Debug)]
pub struct Type {
    /// Its short name, such as `core.v1.Pod`.
    pub name: &'static str,
    /// Its place among [all types](all_types).
    pub place: usize,
    /// Whether server-side apply takes it as a whole.
    pub atomic: bool,
    /// Whether it has `apiVersion` and `kind`.
    pub object: bool,
    /// The union it is, as `discriminator:field:field`.
    pub union: Option<&'static str>,
    /// Its fields.
    pub fields: Vec<Field>,
}

impl Type {
    /// The field of that JSON name, its own or one of an inlined message.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find_map(|field| match field.shape {
            Shape::Inline => field.message().and_then(|inlined| inlined.field(name)),
            _ => (field.name == name).then_some(field),
        })
    }

    /// All fields as JSON has them, inlined messages opened up.
    pub fn json_fields(&self) -> Vec<&Field> {
        let own = self.fields.iter().flat_map(|field| match (field.shape, field.message()) {
            (Shape::Inline, Some(inlined)) => inlined.json_fields(),
            _ => vec![field],
        });
        own.collect()
    }

    /// `PodSpec` of `core.v1.PodSpec`.
    pub fn go_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// `v1.PodSpec` of `core.v1.PodSpec`, as Go prints the type.
    pub fn go_type(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, rest)| rest)
    }
}

struct Schema {
    types: Vec<Type>,
    by_name: BTreeMap<&'static str, u16>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let by_name: BTreeMap<&str, u16> =
        TABLE.lines().filter_map(|line| line.strip_prefix('=')).map(|head| columns(head)[0]).zip(0..).collect();
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    for line in TABLE.lines() {
        if let Some(head) = line.strip_prefix('=') {
            let [name, flags, ..] = columns(head);
            let has = |flag| flags.split(' ').any(|f| f == flag);
            let union = flags.split(' ').find_map(|flag| flag.strip_prefix("union="));
            let place = types.len();
            types.push(Type { name, place, atomic: has("atomic"), object: has("object"), union, fields: Vec::new() });
        } else if let Some(owner) = types.last_mut() {
            owner.fields.push(parse_field(line, &by_name));
        }
    }
    types.iter_mut().for_each(|t| t.fields.shrink_to_fit());
    Schema { types, by_name }
});

/// The first four columns of a line; empty where it has fewer.
fn columns(line: &'static str) -> [&'static str; 4] {
    let mut parts = line.split('\t');
    [(); 4].map(|()| parts.next().unwrap_or_default())
}

fn parse_field(line: &'static str, by_name: &BTreeMap<&'static str, u16>) -> Field {
    let [name, number, code, merge] = columns(line);
    let (code, flags) = code.split_once(' ').unwrap_or((code, ""));
    let (shape, code) = [("[]", Shape::List), ("{}", Shape::Map), ("<", Shape::Inline)]
        .iter()
        .find_map(|(prefix, shape)| code.strip_prefix(prefix).map(|code| (*shape, code)))
        .unwrap_or((Shape::One, code));
    let kind = match code {
        "s" => Kind::String,
        "b" => Kind::Bool,
        "i" => Kind::Int32,
        "l" => Kind::Int64,
        "d" => Kind::Double,
        "y" => Kind::Bytes,
        "q" => Kind::Quantity,
        "I" => Kind::IntOrString,
        "t" => Kind::Time,
        "u" => Kind::MicroTime,
        "D" => Kind::Duration,
        "B" => Kind::SchemaOrBool,
        "A" => Kind::SchemaOrArray,
        "S" => Kind::SchemaOrStrings,
        "X" => Kind::Strings,
        message => by_name.get(message).map_or(Kind::Raw, |&index| Kind::Message(index)),
    };
    let list = merge.split(' ').find_map(|part| part.strip_prefix("l=")).map(split);
    Field {
        name,
        list,
        number: number.parse().unwrap_or_default(),
        kind,
        shape,
        required: flags.contains('!'),
        always: flags.contains('&'),
        pointer: flags.contains('*'),
        merge,
    }
}

/// The prefixes of OpenAPI's names that the table leaves out, and the package that follows; the last follows none else.
const PREFIXES: [(&str, &str); 5] = [
    ("io.k8s.apimachinery.pkg.apis.", "meta."),
    ("io.k8s.apiextensions-apiserver.pkg.apis.", "apiextensions."),
    ("io.k8s.kube-aggregator.pkg.apis.", "apiregistration."),
    ("io.k8s.apimachinery.pkg.", "version."),
    ("io.k8s.api.", ""),
];

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`; other names as they are.
pub fn short_name(definition: &str) -> &str {
    let short = |(prefix, package): &(&str, &str)| definition.strip_prefix(prefix).filter(|s| s.starts_with(package));
    PREFIXES.iter().find_map(short).unwrap_or(definition)
}

/// `io.k8s.api.core.v1.Pod` of `core.v1.Pod`; long names as they are.
pub fn definition_of(short: &str) -> String {
    let prefix = PREFIXES.iter().find(|(_, package)| short.starts_with(package)).map_or("", |(prefix, _)| prefix);
    if short.starts_with("io.k8s.") { short.to_owned() } else { format!("{prefix}{short}") }
}

/// The type of an OpenAPI name such as `io.k8s.api.core.v1.Pod`, or of a short one such as `core.v1.Pod`.
pub fn type_of(definition: &str) -> Option<&'static Type> {
    SCHEMA.types.get(usize::from(*SCHEMA.by_name.get(short_name(definition))?))
}

/// The type of objects with that `apiVersion` and `kind`, lists and options included.
pub fn type_of_kind(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    // Go packages are named by the group's first part: `rbac.authorization.k8s.io` is `rbac`.
    let package = group.split('.').next().unwrap_or(group);
    type_of(&format!("{package}.{version}.{kind}")).or_else(|| type_of(&format!("meta.v1.{kind}")))
}

/// All types.
pub fn all_types() -> impl Iterator<Item = &'static Type> {
    SCHEMA.types.iter()
}

fn json_schema() -> Option<&'static Type> {
    type_of("apiextensions.v1.JSONSchemaProps")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    #[test]
    fn every_kind_and_its_list_has_a_type() {
        for resource in builtin() {
            assert!(type_of(&resource.definition).is_some(), "{}", resource.definition);
            assert_eq!(
                type_of_kind(&resource.api_version(), &resource.kind).map(|t| t.name),
                type_of(&resource.definition).map(|t| t.name)
            );
            if resource.stored {
                assert!(type_of_kind(&resource.api_version(), &resource.list_kind).is_some(), "{}", resource.kind);
            }
        }
        assert_eq!(type_of_kind("v1", "DeleteOptions").unwrap().name, "meta.v1.DeleteOptions");
        assert_eq!(type_of_kind("policy/v1", "Eviction").unwrap().name, "policy.v1.Eviction");
    }

    #[test]
    fn no_field_names_a_type_that_is_not_there() {
        for line in TABLE.lines().filter(|line| !line.starts_with('=')) {
            let code = columns(line)[2].split(' ').next().unwrap().trim_start_matches(['[', ']', '{', '}', '<']);
            assert!(code.len() == 1 || type_of(code).is_some(), "{line}");
        }
    }

    #[test]
    fn fields_know_how_they_merge() {
        let pod = type_of("io.k8s.api.core.v1.PodSpec").unwrap();
        assert_eq!(pod.field("containers").unwrap().patch_merge_key(), Some("name"));
        assert_eq!(pod.field("tolerations").unwrap().patch_merge_key(), None);
        let container = type_of("core.v1.Container").unwrap();
        assert_eq!(container.field("ports").unwrap().list_type(), ListType::Map("containerPort,protocol"));
        let volume = type_of("core.v1.Volume").unwrap();
        assert!(volume.field("emptyDir").is_some() && volume.field("volumeSource").is_none());
        assert!(type_of("core.v1.PersistentVolumeSpec").unwrap().field("hostPath").is_some());
    }
}
