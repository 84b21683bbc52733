//! The query parameters of requests: list, watch, write and delete options.

use coracle_api::decode::FieldValidation;
use coracle_api::{ApiError, ApiResult, FieldErrors};
use http::Uri;

use crate::request_info::{flag, query};

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
    /// `resourceVersionMatch`, as given; empty if not.
    pub version_match: String,
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
    pub force: Option<bool>,
    /// `includeObject`, of Tables.
    pub include_object: IncludeObject,
    /// `gracePeriodSeconds`, of deletions.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy`, of deletions.
    pub propagation_policy: Option<String>,
    /// `orphanDependents`, of deletions.
    pub orphan_dependents: Option<bool>,
    /// What is wrong with the options of a write.
    pub problems: FieldErrors,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            label_selector: String::new(),
            field_selector: String::new(),
            limit: 0,
            continue_token: String::new(),
            resource_version: String::new(),
            version_match: String::new(),
            timeout_seconds: None,
            bookmarks: false,
            send_initial_events: None,
            dry_run: false,
            field_manager: String::new(),
            field_validation: FieldValidation::Warn,
            force: None,
            include_object: IncludeObject::Metadata,
            grace_period_seconds: None,
            propagation_policy: None,
            orphan_dependents: None,
            problems: FieldErrors::default(),
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
                "labelSelector" => options.label_selector = value.into_owned(),
                "fieldSelector" => options.field_selector = value.into_owned(),
                "limit" => options.limit = number::<i64>(&value)?.max(0).unsigned_abs() as usize,
                "continue" => options.continue_token = value.into_owned(),
                "resourceVersion" => options.resource_version = value.into_owned(),
                "resourceVersionMatch" => options.version_match = value.into_owned(),
                "timeoutSeconds" => options.timeout_seconds = Some(number::<i64>(&value)?.max(0).unsigned_abs()),
                "allowWatchBookmarks" => options.bookmarks = flag(&value),
                "sendInitialEvents" => options.send_initial_events = Some(flag(&value)),
                "dryRun" => match &*value {
                    "All" => options.dry_run = true,
                    other => options.problems.not_supported("dryRun", other, &["All"]),
                },
                "fieldManager" => {
                    check_manager(&value, &mut options.problems);
                    options.field_manager = value.into_owned();
                }
                "fieldValidation" => match FieldValidation::parse(Some(&value)) {
                    Ok(validation) => options.field_validation = validation,
                    Err(_) => {
                        let known = ["Ignore", "Strict", "Warn"];
                        options.problems.not_supported("fieldValidation", &*value, &known);
                    }
                },
                "force" => options.force = Some(flag(&value)),
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
                "gracePeriodSeconds" => options.grace_period_seconds = Some(number(&value)?),
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
                    "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
                     {text:?}: invalid syntax"
                ))),
            },
        }
    }

    /// Refuses what makes no sense for a list.
    ///
    /// # Errors
    /// 422 about `ListOptions`.
    pub fn check_list(&self) -> ApiResult<()> {
        let mut errors = FieldErrors::default();
        if !self.version_match.is_empty() {
            if self.resource_version.is_empty() {
                errors.forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !self.continue_token.is_empty() {
                errors.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(self.version_match.as_str(), EXACT | NOT_OLDER_THAN) {
                let known = [EXACT, NOT_OLDER_THAN, ""];
                errors.not_supported("resourceVersionMatch", self.version_match.as_str(), &known);
            }
            if self.exact() && self.resource_version == "0" {
                errors.forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if self.send_initial_events.is_some() {
            errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        refuse("ListOptions", &errors)
    }

    /// Refuses what makes no sense for a watch.
    ///
    /// # Errors
    /// 422 about `ListOptions`.
    pub fn check_watch(&self) -> ApiResult<()> {
        let mut errors = FieldErrors::default();
        let chosen = self.version_match.as_str();
        if self.send_initial_events.is_some() && chosen != NOT_OLDER_THAN {
            errors.forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        if !chosen.is_empty() {
            if self.send_initial_events.is_none() {
                errors.forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if chosen != NOT_OLDER_THAN {
                errors.not_supported("resourceVersionMatch", chosen, &[NOT_OLDER_THAN]);
            }
            if !self.continue_token.is_empty() {
                errors.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
        }
        refuse("ListOptions", &errors)
    }

    /// Refuses what makes no sense for a write; `kind` is that of its options.
    ///
    /// # Errors
    /// 422 about `CreateOptions` and the like.
    pub fn check_write(&self, kind: &str) -> ApiResult<()> {
        refuse(kind, &self.problems)
    }

    /// Whether a list shows exactly its `resourceVersion`. With a limit it does unless it says otherwise, so that its
    /// pages fit together.
    pub fn exact(&self) -> bool {
        let limited = self.limit > 0 && !matches!(self.resource_version.as_str(), "" | "0");
        self.version_match == EXACT || self.version_match.is_empty() && limited
    }
}

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
/// The longest name of a field manager.
const MANAGER_BYTES: usize = 128;

fn refuse(kind: &str, errors: &FieldErrors) -> ApiResult<()> {
    if errors.0.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", kind, "", &errors.0)) }
}

/// A field manager's name is short and printable.
fn check_manager(name: &str, problems: &mut FieldErrors) {
    if name.len() > MANAGER_BYTES {
        problems.too_long("fieldManager", MANAGER_BYTES);
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let what = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        problems.invalid("fieldManager", name, what);
    }
}

fn number<T: std::str::FromStr>(value: &str) -> ApiResult<T> {
    value.parse().map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> ApiResult<Options> {
        Options::parse(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn options_are_read_from_the_query() {
        let options = parse("limit=500&dryRun=All&fieldValidation=Strict&sendInitialEvents=true&unknown=1").unwrap();
        assert_eq!((options.limit, options.dry_run), (500, true));
        assert_eq!((options.field_validation, options.send_initial_events), (FieldValidation::Strict, Some(true)));
        assert_eq!(options.version().unwrap(), None);
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for query in ["limit=x", "timeoutSeconds=x", "includeObject=x"] {
            assert_eq!(parse(query).unwrap_err().code, 400, "{query}");
        }
        assert_eq!(parse("limit=x").unwrap_err().message, "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(
            parse("resourceVersion=x").unwrap().version().unwrap_err().message,
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": \
             invalid syntax"
        );
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_in_upstreams_words() {
        let version = "resourceVersionMatch: ";
        for (query, watch, expected) in [
            (
                "resourceVersionMatch=Exact",
                false,
                vec!["Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"],
            ),
            (
                "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x",
                false,
                vec!["Forbidden: resourceVersionMatch is forbidden when continue is provided"],
            ),
            (
                "resourceVersionMatch=x&resourceVersion=1",
                false,
                vec!["Unsupported value: \"x\": supported values: \"Exact\", \"NotOlderThan\", \"\""],
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                false,
                vec!["Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""],
            ),
            (
                "resourceVersionMatch=NotOlderThan&resourceVersion=1",
                true,
                vec!["Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"],
            ),
            (
                "sendInitialEvents=true",
                true,
                vec!["Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"],
            ),
            (
                "sendInitialEvents=false&resourceVersionMatch=Exact",
                true,
                vec![
                    "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                    "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
                ],
            ),
            ("resourceVersionMatch=Exact&resourceVersion=5&limit=2", false, vec![]),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, vec![]),
        ] {
            let options = parse(query).unwrap();
            let checked = if watch { options.check_watch() } else { options.check_list() };
            let problems = expected.iter().map(|text| format!("{version}{text}")).collect::<Vec<_>>();
            match problems.as_slice() {
                [] => assert_eq!(checked, Ok(()), "{query}"),
                problems => {
                    let error = checked.unwrap_err();
                    assert_eq!((error.code, error.reason), (422, "Invalid"), "{query}");
                    let list = if let [one] = problems { one.clone() } else { format!("[{}]", problems.join(", ")) };
                    assert_eq!(error.message, format!("ListOptions.meta.k8s.io \"\" is invalid: {list}"), "{query}");
                }
            }
        }
    }

    #[test]
    fn options_of_writes_are_checked_under_their_kind() {
        let refused = |query: &str| parse(query).unwrap().check_write("CreateOptions").unwrap_err().message;
        assert_eq!(
            refused("dryRun=Some"),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        );
        assert!(refused("fieldValidation=Maybe").contains("supported values: \"Ignore\", \"Strict\", \"Warn\""));
        assert!(refused(&format!("fieldManager={}", "x".repeat(129))).contains("may not be more than 128 bytes"));
        assert!(refused("fieldManager=a%07").contains("invalid character U+0007 (at position 1)"));
    }
}
