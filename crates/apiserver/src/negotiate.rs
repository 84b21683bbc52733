//! Content negotiation: what the client wants back (`Accept`), and what it sent (`Content-Type`).

use coracle_api::{ApiError, ApiResult, protobuf};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Uri};

use crate::request_info::query_param;

/// In which shape objects go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// As they are.
    #[default]
    Object,
    /// As `meta.k8s.io` Tables of that version.
    Table(&'static str),
    /// Their metadata only, as PartialObjectMetadata of that `meta.k8s.io` version.
    Metadata(&'static str),
    /// A list of their metadata, as PartialObjectMetadataList of that `meta.k8s.io` version.
    MetadataList(&'static str),
}

/// How answers are serialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON, which every client takes.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// All formats, in the order in which they are preferred and listed.
const FORMATS: [Format; 3] = [Format::Json, Format::Yaml, Format::Protobuf];

impl Format {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => protobuf::MEDIA_TYPE,
        }
    }
}

/// What an endpoint can answer with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Whether its objects can be protobuf; custom resources cannot.
    pub protobuf: bool,
    /// Whether it has Tables and metadata; what is computed and not stored has none.
    pub transforms: bool,
    /// Whether the answer is a watch.
    pub stream: bool,
}

impl Offer {
    /// A Status, or something else that is what it is.
    pub const PLAIN: Offer = Offer { protobuf: true, transforms: false, stream: false };

    fn media_types(self) -> String {
        let served = FORMATS.iter().filter(|format| match format {
            Format::Json => true,
            Format::Yaml => !self.stream,
            Format::Protobuf => self.protobuf,
        });
        let suffix = if self.stream { ";stream=watch" } else { "" };
        served.map(|format| format!("{}{suffix}", format.media_type())).collect::<Vec<_>>().join(", ")
    }
}

/// What the client wants back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// The shape.
    pub view: View,
    /// The serialisation.
    pub format: Format,
    /// Whether gzip is understood.
    pub gzip: bool,
    /// Whether the answer is for a person (a browser, curl).
    pub pretty: bool,
}

/// One clause of an `Accept` header: `application/json;as=Table;v=v1;g=meta.k8s.io;q=0.8`.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        Clause { media, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// The preferred comes first: by `q`, then the more specific.
    fn rank(&self) -> (f32, bool, bool) {
        let quality = self.get("q").map_or(1.0, |q| q.parse().unwrap_or(1.0));
        (-quality, self.media == "*/*", self.media.ends_with("/*"))
    }

    fn covers(&self, format: Format) -> bool {
        matches!(self.media, "*/*" | "application/*") || self.media == format.media_type()
    }

    /// The shape asked for, if the endpoint has it in that format.
    fn view(&self, format: Format, offer: Offer) -> Option<View> {
        if !matches!(self.get("stream"), None | Some("" | "watch")) {
            return None;
        }
        let kind = match (self.get("as"), self.get("g"), self.get("v")) {
            (None, None, None) => return (format != Format::Protobuf || offer.protobuf).then_some(View::Object),
            (Some(kind), Some("meta.k8s.io"), Some("v1")) => (kind, "meta.k8s.io/v1"),
            (Some(kind), Some("meta.k8s.io"), Some("v1beta1")) => (kind, "meta.k8s.io/v1beta1"),
            _ => return None,
        };
        match kind {
            _ if !offer.transforms => None,
            ("Table", version) if format != Format::Protobuf => Some(View::Table(version)),
            ("PartialObjectMetadata", version) => Some(View::Metadata(version)),
            ("PartialObjectMetadataList", version) => Some(View::MetadataList(version)),
            _ => None,
        }
    }
}

/// Reads `Accept`, `Accept-Encoding` and `User-Agent`: of what the client prefers, the first that can be served.
///
/// # Errors
/// 406 if nothing can.
pub fn accept(headers: &HeaderMap, offer: Offer) -> ApiResult<Accept> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let agent = text(USER_AGENT);
    let gzip = text(ACCEPT_ENCODING).split(',').any(|token| token.trim() == "gzip");
    let pretty = ["curl", "Wget", "Mozilla/5.0"].iter().any(|human| agent.starts_with(human));
    let answer = Accept { gzip, pretty, ..Accept::default() };
    let header = text(ACCEPT);
    if header.is_empty() {
        return Ok(answer);
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').map(Clause::parse).collect();
    clauses.sort_by(|a, b| a.rank().partial_cmp(&b.rank()).unwrap_or(std::cmp::Ordering::Equal));
    for clause in &clauses {
        for format in FORMATS.into_iter().filter(|format| clause.covers(*format)) {
            if let Some(view) = clause.view(format, offer) {
                if offer.stream && format == Format::Yaml {
                    break; // has no stream of documents
                }
                let pretty = answer.pretty || clause.get("pretty") == Some("1");
                return Ok(Accept { view, format, pretty, ..answer });
            }
        }
    }
    Err(ApiError::not_acceptable(&offer.media_types()))
}

/// What the query's `pretty` says, if it says anything.
pub fn pretty(uri: &Uri) -> Option<bool> {
    let value = query_param(uri, "pretty").filter(|value| !value.is_empty())?;
    Some(matches!(&*value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// Reads `Content-Type`. A body without one is JSON (kubectl's `PUT …/scale` has none). `protobuf`: whether that is
/// understood, which it is not for custom resources.
///
/// # Errors
/// 415 for anything else.
pub fn body_format(headers: &HeaderMap, protobuf: bool) -> ApiResult<Format> {
    let media = media_type(headers);
    if media.is_empty() {
        return Ok(Format::Json);
    }
    let known = FORMATS.into_iter().find(|format| media.eq_ignore_ascii_case(format.media_type()));
    known
        .filter(|format| protobuf || *format != Format::Protobuf)
        .ok_or_else(|| ApiError::unsupported_media_type(&Offer { protobuf, ..Offer::default() }.media_types()))
}

/// The body's media type without parameters; empty if it has none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Offer = Offer { protobuf: true, transforms: true, stream: false };
    const PROTOBUF: &str = protobuf::MEDIA_TYPE;

    fn negotiated(header: &str, offer: Offer) -> Result<(View, Format), String> {
        let headers = HeaderMap::from_iter([(ACCEPT, header.parse().unwrap())]);
        accept(&headers, offer).map(|accept| (accept.view, accept.format)).map_err(|error| {
            assert_eq!((error.code, error.reason), (406, "NotAcceptable"));
            error.message
        })
    }

    #[test]
    fn the_media_range_that_is_preferred_and_can_be_served_wins() {
        let table = |version| Ok((View::Table(version), Format::Json));
        let object = |format| Ok((View::Object, format));
        for (header, expected) in [
            ("", object(Format::Json)),
            ("application/json, */*", object(Format::Json)),
            ("text/html,application/xml;q=0.9,*/*;q=0.8", object(Format::Json)),
            ("application/json;q=0.1,application/yaml;q=0.9", object(Format::Yaml)),
            ("*/*,application/yaml", object(Format::Yaml)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", table("meta.k8s.io/v1")),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", object(Format::Json)),
            ("application/json;as=Table,application/yaml", object(Format::Yaml)),
            ("application/vnd.kubernetes.protobuf,application/json", object(Format::Protobuf)),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io",
                table("meta.k8s.io/v1beta1"),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Ok((View::MetadataList("meta.k8s.io/v1"), Format::Protobuf)),
            ),
        ] {
            assert_eq!(negotiated(header, STORED), expected, "{header}");
        }
    }

    #[test]
    fn who_takes_nothing_of_what_is_served_is_told_what_that_is() {
        let refused = |header, offer| negotiated(header, offer).unwrap_err();
        let all = "only the following media types are accepted: application/json, application/yaml, \
                   application/vnd.kubernetes.protobuf";
        assert_eq!(refused("text/csv", STORED), all);
        assert_eq!(refused("application/json;as=Table;v=v1;g=meta.k8s.io", Offer::PLAIN), all);
        let custom = Offer { protobuf: false, ..STORED };
        assert!(refused(PROTOBUF, custom).ends_with(": application/json, application/yaml"));
        let stream = Offer { stream: true, ..STORED };
        assert!(
            refused("application/yaml", stream)
                .ends_with(": application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch")
        );
        assert_eq!(negotiated(&format!("{PROTOBUF};stream=watch"), stream), Ok((View::Object, Format::Protobuf)));
    }

    #[test]
    fn bodies_say_what_they_are() {
        let format = |media: &str, protobuf| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, media.parse().unwrap())]);
            body_format(&headers, protobuf).map_err(|error| error.code)
        };
        assert_eq!(format("application/JSON; charset=utf-8", true), Ok(Format::Json));
        assert_eq!(format("", true), Ok(Format::Json));
        assert_eq!(format(PROTOBUF, true), Ok(Format::Protobuf));
        assert_eq!(format(PROTOBUF, false), Err(415));
        assert_eq!(format("text/plain", true), Err(415));
    }
}
