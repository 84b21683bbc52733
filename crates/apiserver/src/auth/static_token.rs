//! `--token-auth-file`: bearer tokens in a file of lines `token,user,uid[,"group1,group2"]`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_client::delegated::bearer_token;
use http::request::Parts;

use crate::hooks::{Authenticator, UserInfo};

/// A line of the file that is no token's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token file, line {line}: must have at least 3 columns (token, user name, user uid), found {found}")]
pub struct StaticTokenError {
    /// Which line, from 1.
    pub line: usize,
    /// How many columns it has.
    pub found: usize,
}

/// Authenticates by tokens that were read from a file.
pub struct StaticTokens(BTreeMap<String, UserInfo>);

impl std::fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticTokens({} tokens)", self.0.len())
    }
}

impl StaticTokens {
    /// Reads the file's text. Empty lines and lines that begin with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, StaticTokenError> {
        let mut users = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(StaticTokenError { line: index + 1, found: columns.len() });
            };
            let groups: Vec<&str> = rest.first().map(|g| g.split(',').map(str::trim).collect()).unwrap_or_default();
            let groups: Vec<&str> = groups.into_iter().filter(|g| !g.is_empty()).collect();
            users.insert(token.clone(), UserInfo { uid: uid.clone(), ..UserInfo::new(name.clone(), &groups) });
        }
        Ok(StaticTokens(users))
    }

    /// The user of a token.
    pub fn user(&self, token: &str) -> Option<&UserInfo> {
        self.0.get(token)
    }
}

/// The columns of a line of comma-separated values; quotes hold commas together, two quotes are one.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let column = columns.last_mut();
        match (c, column) {
            ('"', Some(column)) if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                column.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => columns.push(String::new()),
            (c, Some(column)) => column.push(c),
            (_, None) => {}
        }
    }
    columns.into_iter().map(|column| column.trim().to_owned()).collect()
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        self.user(bearer_token(&parts.headers)?).map(|user| Ok(user.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_of_the_file_is_its_user() {
        let tokens = StaticTokens::parse("# who\nsecret,alice,7,\"dev,ops\"\nother,bob,8\n").unwrap();
        let parts = |token: &str| {
            let request = http::Request::get("/").header("authorization", format!("Bearer {token}")).body(()).unwrap();
            request.into_parts().0
        };
        let alice = tokens.authenticate(&parts("secret")).await.unwrap().unwrap();
        assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice", "7"));
        assert_eq!(alice.groups, ["dev", "ops", "system:authenticated"]);
        assert!(tokens.authenticate(&parts("wrong")).await.is_none());
    }

    #[test]
    fn a_line_with_too_few_columns_is_refused() {
        assert_eq!(StaticTokens::parse("a,b").unwrap_err(), StaticTokenError { line: 1, found: 2 });
    }
}
