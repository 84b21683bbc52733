//! The query parameters of requests: list, watch, write and delete options.

use coracle_api::decode::FieldValidation;
use coracle_api::{ApiError, ApiResult};
use http::Uri;

use crate::request_info::query;

/// How `resourceVersion` is meant in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// At least as new.
    NotOlderThan,
    /// Exactly as it was then.
    Exact,
}

/// What of each object a Table's rows carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A PartialObjectMetadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// All query parameters the handlers know, parsed.
#[derive(Clone, Debug)]
pub struct Options {
    /// `pretty`: indent the answer.
    pub pretty: Option<bool>,
    /// `labelSelector`.
    pub label_selector: String,
    /// `fieldSelector`.
    pub field_selector: String,
    /// `limit`; 0 is none.
    pub limit: usize,
    /// `continue`.
    pub continue_token: String,
    /// `resourceVersion`, as given; empty if not.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager`.
    pub field_manager: String,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
    /// `force`, of server-side apply.
    pub force: bool,
    /// `includeObject`, of Tables.
    pub include_object: IncludeObject,
    /// `gracePeriodSeconds`, of deletions.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy`, of deletions.
    pub propagation_policy: Option<String>,
    /// `orphanDependents`, of deletions.
    pub orphan_dependents: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            pretty: None,
            label_selector: String::new(),
            field_selector: String::new(),
            limit: 0,
            continue_token: String::new(),
            resource_version: String::new(),
            version_match: None,
            timeout_seconds: None,
            bookmarks: false,
            send_initial_events: None,
            dry_run: false,
            field_manager: String::new(),
            field_validation: FieldValidation::Warn,
            force: false,
            include_object: IncludeObject::Metadata,
            grace_period_seconds: None,
            propagation_policy: None,
            orphan_dependents: None,
        }
    }
}

impl Options {
    /// Parses a URL's query. Unknown parameters are ignored, as upstream does.
    ///
    /// # Errors
    /// 400 for values that make no sense.
    pub fn parse(uri: &Uri) -> ApiResult<Self> {
        let mut options = Options::default();
        for (key, value) in query(uri) {
            match &*key {
                "pretty" => options.pretty = Some(flag(&value)),
                "labelSelector" => options.label_selector = value.into_owned(),
                "fieldSelector" => options.field_selector = value.into_owned(),
                "limit" => options.limit = number::<i64>(&key, &value)?.max(0).unsigned_abs() as usize,
                "continue" => options.continue_token = value.into_owned(),
                "resourceVersion" => options.resource_version = value.into_owned(),
                "resourceVersionMatch" => {
                    options.version_match = match &*value {
                        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                        "Exact" => Some(VersionMatch::Exact),
                        "" => None,
                        other => {
                            return Err(ApiError::bad_request(format!(
                                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \
                                 \"NotOlderThan\", \"\""
                            )));
                        }
                    }
                }
                "timeoutSeconds" => options.timeout_seconds = Some(number::<i64>(&key, &value)?.max(0).unsigned_abs()),
                "allowWatchBookmarks" => options.bookmarks = flag(&value),
                "sendInitialEvents" => options.send_initial_events = Some(flag(&value)),
                "dryRun" => {
                    options.dry_run = match &*value {
                        "" => false,
                        "All" => true,
                        other => {
                            return Err(ApiError::bad_request(format!(
                                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                            )));
                        }
                    }
                }
                "fieldManager" => options.field_manager = value.into_owned(),
                "fieldValidation" => options.field_validation = FieldValidation::parse(Some(&value))?,
                "force" => options.force = flag(&value),
                "includeObject" => {
                    options.include_object = match &*value {
                        "" | "Metadata" => IncludeObject::Metadata,
                        "Object" => IncludeObject::Object,
                        "None" => IncludeObject::None,
                        other => {
                            return Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")));
                        }
                    }
                }
                "gracePeriodSeconds" => options.grace_period_seconds = Some(number(&key, &value)?),
                "propagationPolicy" => options.propagation_policy = Some(value.into_owned()),
                "orphanDependents" => options.orphan_dependents = Some(flag(&value)),
                _ => {}
            }
        }
        Ok(options)
    }

    /// `resourceVersion` as a number; `None` if it was not given.
    ///
    /// # Errors
    /// 400 if it is no number.
    pub fn version(&self) -> ApiResult<Option<i64>> {
        match self.resource_version.as_str() {
            "" => Ok(None),
            text => match text.parse::<i64>() {
                Ok(version) if version >= 0 => Ok(Some(version)),
                _ => Err(ApiError::bad_request(format!(
                    "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))),
            },
        }
    }
}

/// `true`, `1` and a bare name are true, as Go's conversion has it.
fn flag(value: &str) -> bool {
    !matches!(value, "false" | "0" | "False" | "FALSE" | "f" | "F")
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> ApiResult<T> {
    value
        .parse()
        .map_err(|_| ApiError::bad_request(format!("{key}: strconv.ParseInt: parsing {value:?}: invalid syntax")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> ApiResult<Options> {
        Options::parse(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn options_are_read_from_the_query() {
        let options =
            parse("limit=500&dryRun=All&fieldValidation=Strict&sendInitialEvents=true&pretty&unknown=1").unwrap();
        assert_eq!((options.limit, options.dry_run, options.pretty), (500, true, Some(true)));
        assert_eq!((options.field_validation, options.send_initial_events), (FieldValidation::Strict, Some(true)));
        assert_eq!(options.version().unwrap(), None);
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for query in ["dryRun=Some", "limit=x", "fieldValidation=Maybe", "resourceVersionMatch=x", "includeObject=x"] {
            assert_eq!(parse(query).unwrap_err().code, 400, "{query}");
        }
        assert_eq!(parse("resourceVersion=x").unwrap().version().unwrap_err().code, 400);
    }
}
