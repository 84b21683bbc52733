//! Content negotiation: what the client wants back (`Accept`), and what it sent (`Content-Type`).

use coracle_api::{ApiError, ApiResult};
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};

const SERVED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

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
}

/// How answers are serialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON, which every client takes.
    #[default]
    Json,
    /// YAML.
    Yaml,
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

/// How a body is serialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// One media range of an `Accept` header: type and parameters.
fn ranges(header: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>)> {
    header.split(',').map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        (media, parts.filter_map(|part| part.split_once('=')).collect())
    })
}

/// Reads `Accept` and `Accept-Encoding`: the first range that can be served wins.
///
/// # Errors
/// 406 if none can.
pub fn accept(headers: &HeaderMap) -> ApiResult<Accept> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut answer = Accept { gzip: text(ACCEPT_ENCODING).contains("gzip"), ..Accept::default() };
    let agent = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    answer.pretty = agent.starts_with("curl") || agent.starts_with("Mozilla") || agent.starts_with("Wget");
    let header = text(ACCEPT);
    if header.trim().is_empty() {
        return Ok(answer);
    }
    for (media, parameters) in ranges(header) {
        answer.format = match media {
            "application/json" | "*/*" | "application/*" | "text/html" => Format::Json,
            "application/yaml" => Format::Yaml,
            _ => continue,
        };
        let parameter = |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let version = match (parameter("g"), parameter("v")) {
            (Some("meta.k8s.io") | None, Some("v1") | None) => "meta.k8s.io/v1",
            (Some("meta.k8s.io"), Some("v1beta1")) => "meta.k8s.io/v1beta1",
            _ if parameter("as").is_some() => continue,
            _ => "",
        };
        answer.view = match parameter("as") {
            None => View::Object,
            Some("Table") => View::Table(version),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => View::Metadata(version),
            Some(_) => continue,
        };
        return Ok(answer);
    }
    // Protobuf alone: no client of this kind refuses JSON, and refusing would help nobody.
    if ranges(header).any(|(media, _)| media == "application/vnd.kubernetes.protobuf") {
        return Ok(Accept { format: Format::Json, view: View::Object, ..answer });
    }
    Err(ApiError::not_acceptable(SERVED))
}

/// Reads `Content-Type`. A body without one is JSON (kubectl's `PUT …/scale` has none).
///
/// # Errors
/// 415 for anything else.
pub fn body_format(headers: &HeaderMap) -> ApiResult<BodyFormat> {
    match media_type(headers) {
        "" | "application/json" => Ok(BodyFormat::Json),
        "application/yaml" | "text/yaml" | "application/x-yaml" => Ok(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyFormat::Protobuf),
        _ => Err(ApiError::unsupported_media_type(SERVED)),
    }
}

/// The body's media type without parameters; empty if it has none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(header: &str) -> Result<View, u16> {
        let headers = HeaderMap::from_iter([(ACCEPT, header.parse().unwrap())]);
        accept(&headers).map(|accept| accept.view).map_err(|error| error.code)
    }

    #[test]
    fn the_first_media_range_that_can_be_served_wins() {
        let cases = [
            ("", Ok(View::Object)),
            ("application/json, */*", Ok(View::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Ok(View::Table("meta.k8s.io/v1"))),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Ok(View::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Ok(View::Object)),
            ("application/vnd.kubernetes.protobuf", Ok(View::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Ok(View::Metadata("meta.k8s.io/v1"))),
            ("text/csv", Err(406)),
        ];
        for (header, expected) in cases {
            assert_eq!(view(header), expected, "{header}");
        }
    }
}
