//! The functions: rows of name, signatures, cost and code, one file per library.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::cost::Cost;
use crate::eval::Error;
use crate::types::Type;
use crate::value::Value;

mod format;
mod ip;
mod lists;
mod math;
mod optional;
mod quantity;
mod regex;
pub(crate) mod semver;
mod sets;
mod standard;
pub(crate) mod strings;
pub(crate) mod time;
mod url;

/// What a function gives.
pub(crate) type Outcome = Result<Value, Error>;

/// Name, whether it is called on its first argument, signatures (`string int: bool | …`), cost, code.
pub(crate) type Row = (&'static str, bool, &'static str, Cost, fn(&[Value]) -> Outcome);

/// Called on its first argument.
pub(crate) const MEMBER: bool = true;
/// Called by its name alone.
pub(crate) const GLOBAL: bool = false;

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    member: bool,
    signatures: Vec<Signature>,
    pub cost: Cost,
    pub call: fn(&[Value]) -> Outcome,
}

/// One of a function's signatures; a member's first parameter is what it is called on.
#[derive(Debug)]
pub(crate) struct Signature {
    pub params: Vec<Type>,
    pub result: Type,
}

impl Function {
    pub(crate) fn signatures(&self) -> &[Signature] {
        &self.signatures
    }
}

static TABLE: LazyLock<BTreeMap<&'static str, Vec<Function>>> = LazyLock::new(|| {
    let mut table: BTreeMap<_, Vec<Function>> = BTreeMap::new();
    let rows = [
        standard::ROWS,
        strings::ROWS,
        time::ROWS,
        lists::ROWS,
        sets::ROWS,
        math::ROWS,
        regex::ROWS,
        optional::ROWS,
        url::ROWS,
        quantity::ROWS,
        ip::ROWS,
        format::ROWS,
        semver::ROWS,
        crate::authorizer::ROWS,
    ];
    for (name, member, signatures, cost, call) in rows.into_iter().flatten().copied() {
        let signatures = signatures.split(" | ").map(signature).collect();
        table.entry(name).or_default().push(Function { member, signatures, cost, call });
    }
    table
});

fn signature(text: &'static str) -> Signature {
    let (params, result) = text.split_once(": ").unwrap_or(("", text));
    Signature { params: params.split_whitespace().map(Type::parse).collect(), result: Type::parse(result) }
}

/// The functions of a name.
pub(crate) fn functions(name: &str, member: bool) -> impl Iterator<Item = &'static Function> + use<> {
    TABLE.get(name).into_iter().flatten().filter(move |function| function.member == member)
}
