//! Paths and queries of requests, decoded.

use http::StatusCode;

use super::streaming::Refusal;

/// The pairs of a query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query as browsers and Go write it.
    pub fn parse(query: &str) -> Query {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a flag is set.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    /// A number that is not negative.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                Refusal::new(StatusCode::BAD_REQUEST, format!("unable to decode query: {name}: invalid value {text:?}"))
            })
        };
        self.get(name).filter(|text| !text.is_empty()).map(parse).transpose()
    }
}

/// The segments of a path.
pub fn segments(path: &str) -> Vec<String> {
    // A plus sign in a path is itself.
    path.split('/').filter(|segment| !segment.is_empty()).map(|segment| decode(&segment.replace('+', "%2B"))).collect()
}

/// Undoes percent encoding, and `+` for a space.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        (rest, decoded) = match byte {
            Some(byte) => (&tail[2..], push(decoded, byte)),
            None => (tail, push(decoded, if *first == b'+' { b' ' } else { *first })),
        };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn push(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_keep_their_order_and_their_characters() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22%20100%25&tty=true&bad=%zz");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a&b\" 100%"]);
        assert!(query.flag("tty") && !query.flag("stdin"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(segments("/exec/default/a%2Bb/c+d"), ["exec", "default", "a+b", "c+d"]);
    }
}
