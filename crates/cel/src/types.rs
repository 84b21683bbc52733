//! What an expression's parts are: [`Decl`] declares data (its schema's type with the bounds that cost
//! estimates need), [`Type`] is what the checker gives to every node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of a node of an expression.
#[derive(Clone, Debug)]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// `int`.
    Int,
    /// `uint`.
    Uint,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// The type of types.
    Type,
    /// `list(T)`.
    List(Arc<Type>),
    /// `map(K, V)`.
    Map(Arc<Type>, Arc<Type>),
    /// `optional_type(T)`.
    Optional(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<Object>),
    /// A type of Kubernetes' libraries, by its name.
    Opaque(&'static str),
    /// In a function's signature: the same type wherever the letter stands.
    Param(u8),
}

/// An object's name and fields.
#[derive(Debug)]
pub struct Object {
    /// The name messages show, such as `object` or `kubernetes.UserInfo`.
    pub name: String,
    /// The fields, by their name in CEL (escaped).
    pub fields: BTreeMap<String, Field>,
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// The name in JSON.
    pub json: String,
    /// What it holds.
    pub decl: Arc<Decl>,
}

/// What a declared list is to equality and concatenation (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Order counts.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// A map of objects by these keys (names in JSON).
    Map(Arc<[String]>),
}

/// Declared data: a variable, or a part of one.
#[derive(Debug)]
pub struct Decl {
    /// The shape.
    pub shape: Shape,
    /// The most elements (items, entries, bytes of text) it can have.
    pub max_elements: u64,
    /// The fewest bytes it takes as JSON.
    pub min_bytes: u64,
}

/// The shape of declared data.
#[derive(Debug)]
pub enum Shape {
    /// A scalar, or anything.
    Plain(Type),
    /// An integer or a string; `dyn` to the checker.
    IntOrString,
    /// A list.
    List(Arc<Decl>, ListKind),
    /// A map from strings.
    Map(Arc<Decl>),
    /// An object.
    Object(Arc<Object>),
}

impl Decl {
    /// Data without declared bounds.
    pub fn of(shape: Shape) -> Arc<Decl> {
        Arc::new(Decl { shape, max_elements: 0, min_bytes: 2 })
    }

    /// A scalar, or (with [`Type::Dyn`]) data whose schema is not known.
    pub fn plain(ty: Type) -> Arc<Decl> {
        Self::of(Shape::Plain(ty))
    }

    /// The checker's type.
    pub fn ty(&self) -> Type {
        match &self.shape {
            Shape::Plain(ty) => ty.clone(),
            Shape::IntOrString => Type::Dyn,
            Shape::List(items, _) => Type::List(Arc::new(items.ty())),
            Shape::Map(values) => Type::Map(Arc::new(Type::String), Arc::new(values.ty())),
            Shape::Object(object) => Type::Object(object.clone()),
        }
    }
}

impl Type {
    /// `list(self)`.
    pub fn list(self) -> Type {
        Type::List(Arc::new(self))
    }

    /// Whether values of it have a fixed size of one (to cost estimates).
    pub(crate) fn scalar(&self) -> bool {
        use self::Type as T;
        matches!(self, T::Null | T::Bool | T::Int | T::Uint | T::Double | T::Duration | T::Timestamp | T::Type)
    }

    /// Whether a value of type `given` may stand where `self` is wanted. Fills in parameters.
    pub(crate) fn accepts(&self, given: &Type, params: &mut BTreeMap<u8, Type>) -> bool {
        use self::Type as T;
        match (self, given) {
            (T::Param(p), _) => match params.get(p).cloned() {
                None | Some(T::Dyn) => {
                    params.insert(*p, given.clone());
                    true
                }
                Some(bound) => {
                    // The wider of both, as for `[]` and a list of strings.
                    let wider = || given.accepts(&bound, &mut BTreeMap::new());
                    bound.accepts(given, &mut BTreeMap::new()) || wider() && params.insert(*p, given.clone()).is_some()
                }
            },
            (T::Dyn, _) | (_, T::Dyn) => true,
            (T::List(a), T::List(b)) | (T::Optional(a), T::Optional(b)) => a.accepts(b, params),
            (T::Map(a, b), T::Map(c, d)) => a.accepts(c, params) && b.accepts(d, params),
            (T::Object(a), T::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name && a.fields.len() == b.fields.len(),
            (T::Object(_) | T::Duration | T::Timestamp | T::Opaque(_), T::Null)
            | (T::Null, T::Object(_) | T::Duration | T::Timestamp | T::Opaque(_)) => true,
            (T::Opaque(a), T::Opaque(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(given),
        }
    }

    /// The type with its parameters filled in; those not known are `dyn`.
    pub(crate) fn filled(&self, params: &BTreeMap<u8, Type>) -> Type {
        match self {
            Type::Param(p) => params.get(p).cloned().unwrap_or(Type::Dyn),
            Type::List(a) => Type::List(Arc::new(a.filled(params))),
            Type::Optional(a) => Type::Optional(Arc::new(a.filled(params))),
            Type::Map(a, b) => Type::Map(Arc::new(a.filled(params)), Arc::new(b.filled(params))),
            other => other.clone(),
        }
    }

    /// A type written as in signatures: `list(A)`, `map(string, dyn)`, `kubernetes.URL`.
    pub(crate) fn parse(text: &'static str) -> Type {
        let text = text.trim();
        let Some((head, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
            return match text {
                "dyn" => Type::Dyn,
                "null" => Type::Null,
                "bool" => Type::Bool,
                "int" => Type::Int,
                "uint" => Type::Uint,
                "double" => Type::Double,
                "string" => Type::String,
                "bytes" => Type::Bytes,
                "duration" => Type::Duration,
                "timestamp" => Type::Timestamp,
                "type" => Type::Type,
                letter if letter.len() == 1 => Type::Param(letter.as_bytes()[0]),
                name => Type::Opaque(name),
            };
        };
        match head {
            "list" => Type::List(Arc::new(Type::parse(inner))),
            "optional" => Type::Optional(Arc::new(Type::parse(inner))),
            _ => {
                let (key, value) = inner.split_once(',').unwrap_or(("dyn", inner));
                Type::Map(Arc::new(Type::parse(key)), Arc::new(Type::parse(value)))
            }
        }
    }
}

/// As upstream's error messages print types.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("google.protobuf.Duration"),
            Type::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Type::Type => f.write_str("type"),
            Type::List(a) => write!(f, "list({a})"),
            Type::Map(a, b) => write!(f, "map({a}, {b})"),
            Type::Optional(a) => write!(f, "optional_type({a})"),
            Type::Object(object) => f.write_str(&object.name),
            Type::Opaque(name) => f.write_str(name),
            Type::Param(p) => write!(f, "{}", char::from(*p)),
        }
    }
}
