//! Paths that are no resource, answered by components of this process: `/debug/scheduler/decisions/…`.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, PoisonError, RwLock};

use http::Response;
use serde_json::Value;

use crate::body::Body;
use crate::render;

/// Answers what comes after its prefix; none if there is no such page.
pub type Page = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

/// The pages, by the prefix of their paths. Cloning shares them.
#[derive(Clone, Default)]
pub struct Pages(Arc<RwLock<BTreeMap<String, Page>>>);

impl Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(pages.keys()).finish()
    }
}

impl Pages {
    /// From now on `page` answers all paths below `prefix`.
    pub fn attach(&self, prefix: &str, page: Page) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(prefix.to_owned(), page);
    }

    /// The answer to a path, if a page has one.
    pub fn answer(&self, path: &str) -> Option<Response<Body>> {
        let pages = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = pages.iter().filter_map(|(prefix, page)| page(path.strip_prefix(prefix.as_str())?));
        found.next().map(|value| render::json_bytes(200, value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_answers_below_its_prefix() {
        let pages = Pages::default();
        pages.attach("/debug/a/", Arc::new(|rest| (rest != "none").then(|| json!(rest))));
        for (path, answers) in [("/debug/a/x/y", true), ("/debug/a/none", false), ("/debug/b/x", false)] {
            assert_eq!(pages.answer(path).is_some(), answers, "{path}");
        }
    }
}
